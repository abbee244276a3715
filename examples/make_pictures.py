"""Draw the README's pictures of the demo.

python train.py experiment=demo render=false
python examples/make_pictures.py mlflow:<run_id>     # the run that train.py printed
"""

import argparse
import io
from pathlib import Path

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from tracker_viz.metrics import strongest_event
from tracker_viz.pipeline import open_run, pulled_captures
from tracker_viz.rendering import Renderer, Series, storyboard, write_animation
from tracker_viz.types import Capture

PICTURES = Path(__file__).parent / "pictures"
LAYOUTS = ("heads", "ffn", "head", "scores", "changes", "circuit")
# Score -> the role that it is strongest in.
ROLES = {
    "previous_token_repeated": "previous token",
    "induction": "induction",
    "current_token_repeated": "current token",
    "sink_repeated": "sink",
}


def overview(series: Series, path: Path) -> None:
    """Write the film as an animation that is small enough for a README."""
    renderer = Renderer(series, "overview", theme="light")
    shots = storyboard(
        series.steps,
        story=renderer.plan.story,
        seconds_per_capture=0.12,
        title_s=3.0,
        hold_s=4.0,
    )
    write_animation(renderer, shots, path, max_bytes=2_500_000)


def layouts(series: Series, path: Path) -> None:
    """Draw the other layouts side by side, each at half of 1080p.

    Each shows the last capture, but ``changes`` the one that completes the strongest event.
    """
    tiles = []
    for name in LAYOUTS:
        renderer = Renderer(series, name, theme="light")
        event = strongest_event(renderer.plan.story.events)
        index = len(series) - 1
        if name == "changes" and event:
            index = series.steps.index(event.last_step)
        tiles.append(np.asarray(Image.fromarray(renderer.frame(index).pixels).reduce(2)))
    rows = [np.concatenate(tiles[at : at + 2], axis=1) for at in range(0, len(tiles), 2)]
    contents = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(contents, "PNG", optimize=True)
    path.write_bytes(contents.getvalue())


def patterns(series: Series, path: Path) -> None:
    """Draw the attention of six heads on the repeated row.

    They are a head before training, the strongest head of four roles, and a head without a role.
    """
    wanted = [*series.names("blocks.*.attn.pattern"), *series.names("scores.head.*")]
    first, last = series.capture(0, wanted), series.capture(len(series) - 1, wanted)
    maps = [("before training", first, (0, 0))]
    for score, role in ROLES.items():
        maps.append((role, last, _strongest(last.arrays[f"scores.head.{score}"])))
    best_scores = np.max([last.arrays[f"scores.head.{score}"] for score in ROLES], axis=0)
    maps.append(("none of these", last, _strongest(-best_scores)))

    figure = Figure(figsize=(12, 7.6), dpi=100, layout="constrained")
    for axes, (title, capture, head) in zip(figure.subplots(2, 3).flat, maps, strict=True):
        _draw_head(axes, capture, head)
        axes.set_title(f"{title}  (L{head[0]}H{head[1]})", fontsize=15)
    figure.savefig(path)


def _draw_head(axes: Axes, capture: Capture, block_and_head: tuple[int, int]) -> None:
    """Draw the attention of one head, with lines where the copies of the repeated row begin."""
    block, head = block_and_head
    attention = capture.arrays[f"blocks.{block}.attn.pattern"][0, head].astype(float)
    future = np.triu(np.ones_like(attention, dtype=bool), 1)
    sns.heatmap(
        np.sqrt(attention), mask=future, vmin=0, vmax=1, cmap="mako_r", square=True,
        cbar=False, xticklabels=False, yticklabels=False, ax=axes,
    )  # fmt: skip
    period = capture.probe["rows"][0]["period"]
    for copy in range(1, len(attention), period):
        axes.axhline(copy, color="0.75", linewidth=0.6)
        axes.axvline(copy, color="0.75", linewidth=0.6)
    axes.set_xlabel("token that is looked at")
    axes.set_ylabel("token that looks")


def _strongest(scores: np.ndarray) -> tuple[int, int]:
    """Return the (block, head) with the highest score."""
    block, head = np.unravel_index(np.nanargmax(scores), scores.shape)
    return int(block), int(head)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "run", help="mlflow:<run_id>, wandb:<entity>/<project>/<run_id> or local:<directory>"
    )
    parser.add_argument("--to", type=Path, default=PICTURES, help="directory of the pictures")
    options = parser.parse_args()
    run = open_run(options.run, None)
    series = Series(pulled_captures(run, None, progress=True).captures, title=run.info().name)
    pictures = {"overview.webp": overview, "layouts.png": layouts, "patterns.png": patterns}
    for picture, draw in pictures.items():
        path = options.to / picture
        draw(series, path)
        print(f"{path} {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
