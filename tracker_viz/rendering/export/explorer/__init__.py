"""Write the explorer: a run as one HTML page that needs no network, on which any head opens.

``parts`` decides what the page holds, ``cells`` turns it into bytes, ``page`` writes the file. The
page's own code is beside them: ``explorer.html``, its style, and the scripts of its program.
"""

from tracker_viz.rendering.export.explorer.page import write_explorer

__all__ = ["write_explorer"]
