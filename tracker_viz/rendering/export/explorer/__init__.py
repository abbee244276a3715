"""The explorer: a run as one HTML page without network, on which any head opens.

``parts`` decides what the page holds, ``cells`` turns it into bytes, ``page`` writes the file. What
the page does lies beside them: ``explorer.html``, its style, and its program in ten parts.
"""

from tracker_viz.rendering.export.explorer.page import write_explorer

__all__ = ["write_explorer"]
