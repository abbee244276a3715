"""Show values in notebooks: Jupyter, VS Code, Colab, marimo.

A value's ``_repr_html_`` is made of ``markup`` and ``maps_png``; work that goes on shows itself in
a ``CellOutput``. An output is never larger than ``MOST_BYTES``, so that a notebook stays small.
IPython and marimo are only used where the user's process runs in them.
"""

from tracker_viz.notebook.arrays import arrays_table
from tracker_viz.notebook.cell_output import CellOutput, in_notebook
from tracker_viz.notebook.maps import heads_maps, maps_png
from tracker_viz.notebook.markup import (
    MOST_BYTES,
    box,
    count,
    film,
    lines,
    link,
    page,
    picture,
    sparkline,
    table,
    text,
)

__all__ = [
    "MOST_BYTES",
    "CellOutput",
    "arrays_table",
    "box",
    "count",
    "film",
    "heads_maps",
    "in_notebook",
    "lines",
    "link",
    "maps_png",
    "page",
    "picture",
    "sparkline",
    "table",
    "text",
]
