"""A grid of maps: one row per block, heads and matrices side by side."""

from tracker_viz.rendering.planning.grid.fit import (
    LEAST_MAP_PX,
    GridShape,
    fit_grid,
    fit_map,
    fit_matrix,
    least_matrix_px,
)
from tracker_viz.rendering.planning.grid.place import place_grid

__all__ = [
    "LEAST_MAP_PX",
    "GridShape",
    "fit_grid",
    "fit_map",
    "fit_matrix",
    "least_matrix_px",
    "place_grid",
]
