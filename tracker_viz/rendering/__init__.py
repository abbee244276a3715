"""Captures -> pictures. Seaborn draws a grid of heatmaps once; every frame after that is painted,
equal to seaborn's to the last pixel.

    series = Series(captures, title="my run")
    renderer = Renderer(series, "overview", size="1080p", theme="dark")
    frame = renderer.frame(3)

Needs numpy, matplotlib and seaborn; neither torch nor a tracker nor OpenCV.
"""

from tracker_viz.rendering.backend import load_matplotlib
from tracker_viz.rendering.export.explorer import write_explorer
from tracker_viz.rendering.export.images import (
    poster_moments,
    write_animation,
    write_key_frames,
    write_poster,
)
from tracker_viz.rendering.layout import (
    LAYOUTS,
    Attention,
    LargeHead,
    Layout,
    Scores,
    Weights,
    resolve_layout,
)
from tracker_viz.rendering.painting.renderer import Renderer
from tracker_viz.rendering.planning.make_plan import SIZES, make_plan, picture_size
from tracker_viz.rendering.scales import NORMS, ColorScale
from tracker_viz.rendering.series import Series
from tracker_viz.rendering.storyboard import PACES, Shot, storyboard
from tracker_viz.rendering.theme import THEMES, Theme
from tracker_viz.rendering.theme import theme as resolve_theme

load_matplotlib()

__all__ = [
    "LAYOUTS",
    "NORMS",
    "PACES",
    "SIZES",
    "THEMES",
    "Attention",
    "ColorScale",
    "LargeHead",
    "Layout",
    "Renderer",
    "Scores",
    "Series",
    "Shot",
    "Theme",
    "Weights",
    "make_plan",
    "picture_size",
    "poster_moments",
    "resolve_layout",
    "resolve_theme",
    "storyboard",
    "write_animation",
    "write_explorer",
    "write_key_frames",
    "write_poster",
]
