"""Draw the same captures in the ways that rendering.py compares: ours, and seaborn's own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tracker_viz.rendering import Renderer, Series, storyboard
from tracker_viz.rendering.painting import template as seaborn_template
from tracker_viz.rendering.painting.figure import build_figure
from tracker_viz.rendering.theme import fixed_style
from tracker_viz.video import write_video

OURS, ENCODER = "tracker_viz, end to end", "the encoder alone, frames in memory"
PAINTED, FULL = "tracker_viz, read and painted, one thread", "tracker_viz, drawn by seaborn in full"
FAIREST = "seaborn loop, no bars, whole-figure draws suppressed"
NO_BARS = "seaborn loop, no color bars and tick labels"
ORDINARY = "seaborn loop, as in its documentation"
ANIMATION = "FuncAnimation + FFMpegWriter, set_array on meshes drawn once"
WRITER = "OpenCV's VideoWriter, VP8, opened at 24 fps"
NO_DECORATION = {"cbar": False, "xticklabels": False, "yticklabels": False}

Ways = dict[str, tuple[int, Callable[[], object]]]


def ways_to_draw(series: Series, n_frames: int, workers: int, directory: Path) -> tuple[Ways, Ways]:
    """Return way -> (frames, work that makes as many), and the same of the two slowest ways."""
    renderer = Renderer(series, "overview")
    frames = [renderer.frame(index).pixels for index in range(n_frames)]  # 6 MB each
    film = renderer.film(storyboard(series.steps))

    def encode(frame_at: Callable[[int], Any]) -> None:
        write_video(n_frames, frame_at, directory / "video", duration_s=0.1, workers=workers)

    def loop(n: int, **options: bool) -> None:
        for index in range(n):
            seaborn_loop(renderer, index * n_frames // n, **options)

    def draw_in_full() -> None:
        seaborn_template.seaborn_pixels(renderer.plan, renderer.values(n_frames // 2))

    ways: Ways = {
        FAIREST: (3, lambda: loop(3, quiet=True, bars=False)),
        OURS: (n_frames, lambda: encode(film)),
        ENCODER: (n_frames, lambda: encode(frames.__getitem__)),
        PAINTED: (n_frames, lambda: [film(index) for index in range(n_frames)]),
        FULL: (1, draw_in_full),
        WRITER: (16, lambda: plain_writer(frames[:16], directory / "plain.webm")),
    }
    if shutil.which("ffmpeg"):
        ways[ANIMATION] = (6, lambda: animation(renderer, 6, directory))
    slow_ways: Ways = {
        NO_BARS: (1, lambda: loop(1, quiet=False, bars=False)),
        ORDINARY: (1, lambda: loop(1, quiet=False, bars=True)),
    }
    return ways, slow_ways


def seaborn_loop(renderer: Renderer, index: int, *, quiet: bool, bars: bool) -> np.ndarray:
    """Draw one capture as a notebook would: ``sns.heatmap`` for each axes.

    Args:
        quiet: suppress the draws of the whole figure that seaborn asks for.
        bars: draw color bars and tick labels.
    """
    import seaborn
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class QuietFigure(Figure):
        building = quiet

        def draw(self, canvas_renderer: object) -> None:
            if self.building:
                self.stale = False
            else:
                super().draw(canvas_renderer)

    plan = renderer.plan
    width, height = plan.width, plan.height
    figure = QuietFigure((width / 100, height / 100), dpi=100, facecolor=plan.theme.ground)
    FigureCanvasAgg(figure)
    decoration = {} if bars else NO_DECORATION
    values = renderer.values(index)
    for heatmap in plan.heatmaps:
        box, scale = heatmap.box, plan.scales[heatmap.scale]
        place = (box.x / width, 1 - box.bottom / height, box.width / width, box.height / height)
        seaborn.heatmap(
            values[heatmap.name].astype(np.float32),
            mask=heatmap.mask,
            cmap=scale.mpl_cmap(),
            norm=scale.mpl_norm(),
            ax=figure.add_axes(place),
            **decoration,
        )
    figure.building = False
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def animation(renderer: Renderer, n_frames: int, directory: Path) -> None:
    """Write a video in matplotlib's own way, with the meshes of a figure that seaborn drew once."""
    from matplotlib.animation import FFMpegWriter, FuncAnimation

    with fixed_style():
        figure, meshes = build_figure(renderer.plan, renderer.values(0))

        def update(index: int) -> list[Any]:
            values = renderer.values(index)
            for heatmap in renderer.plan.heatmaps:
                meshes[heatmap.name].set_array(
                    np.ma.masked_array(values[heatmap.name].astype(np.float32), heatmap.mask)
                )
            return list(meshes.values())

        FuncAnimation(figure, update, frames=n_frames).save(
            directory / "animation.mp4", writer=FFMpegWriter(fps=24)
        )


def plain_writer(frames: list[np.ndarray], path: Path) -> None:
    """Write a video with OpenCV's writer, as its documentation does."""
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"VP80"), 24.0, (width, height))
    for pixels in frames:
        writer.write(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    writer.release()
