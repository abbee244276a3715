"""Draw pictures of a run's captures. Seaborn draws a grid of heatmaps once; every frame after that
is painted, equal to seaborn's to the last pixel.

    series = Series(captures, title="my run")
    renderer = Renderer(series, "overview", size="1080p", theme="dark")
    frame = renderer.frame(3)

Needs numpy, matplotlib and seaborn; neither torch nor a tracker nor OpenCV.
"""

import os

from tracker_viz.rendering.backend import load_matplotlib
from tracker_viz.rendering.export.change_chart import ChangedHead, write_change_chart
from tracker_viz.rendering.export.cluster_chart import write_cluster_chart
from tracker_viz.rendering.export.distance_chart import write_distance_chart
from tracker_viz.rendering.export.explorer import write_explorer
from tracker_viz.rendering.export.images import (
    poster_moments,
    write_animation,
    write_key_frames,
    write_last_picture,
    write_poster,
)
from tracker_viz.rendering.export.in_step import Player, in_step_page
from tracker_viz.rendering.export.onset_chart import OnsetRow, OnsetSpan, write_onset_chart
from tracker_viz.rendering.layout import (
    LAYOUTS,
    PANELS,
    Attention,
    Circuit,
    LargeHead,
    Layout,
    Scores,
    Weights,
    resolve_layout,
)
from tracker_viz.rendering.painting.renderer import Renderer
from tracker_viz.rendering.planning.make_plan import SIZES, make_plan, picture_size
from tracker_viz.rendering.planning.role_borders import roles_in, row_kinds
from tracker_viz.rendering.scales import ColorScale
from tracker_viz.rendering.series import Series, describe_model
from tracker_viz.rendering.storyboard import Pace, Shot, storyboard
from tracker_viz.rendering.subject import RunTrack, Subject, Timing
from tracker_viz.rendering.theme import THEMES

# Only where the variable is set: else the import of matplotlib can wait until it is used.
if "MPLBACKEND" in os.environ:
    load_matplotlib()

__all__ = [
    "LAYOUTS",
    "PANELS",
    "SIZES",
    "THEMES",
    "Attention",
    "ChangedHead",
    "Circuit",
    "ColorScale",
    "LargeHead",
    "Layout",
    "OnsetRow",
    "OnsetSpan",
    "Pace",
    "Player",
    "Renderer",
    "RunTrack",
    "Scores",
    "Series",
    "Shot",
    "Subject",
    "Timing",
    "Weights",
    "describe_model",
    "in_step_page",
    "make_plan",
    "picture_size",
    "poster_moments",
    "resolve_layout",
    "roles_in",
    "row_kinds",
    "storyboard",
    "write_animation",
    "write_change_chart",
    "write_cluster_chart",
    "write_distance_chart",
    "write_explorer",
    "write_key_frames",
    "write_last_picture",
    "write_onset_chart",
    "write_poster",
]
