"""Draw the README's pictures of the demo.

python train.py experiment=demo render=false
python examples/make_pictures.py mlflow:<the run it names>
"""

import argparse
import io
from pathlib import Path

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from PIL import Image

from tracker_viz.metrics import strongest_event
from tracker_viz.pipeline import open_run, pulled_captures
from tracker_viz.rendering import Renderer, Series, storyboard, write_animation

PICTURES = Path(__file__).parent / "pictures"
LAYOUTS = ("heads", "ffn", "head", "scores", "changes", "circuit")


def overview(series: Series, path: Path) -> None:
    """Return the film as an animation small enough for a README."""
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
    """Return the other layouts side by side, at half of 1080p: the last capture of each, and for
    ``changes`` the capture that completes the strongest event."""
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
    """Return example heads on the repeated row: one before training, the strongest of four roles
    after training, and one without a role."""
    wanted = [*series.names("blocks.*.attn.pattern"), *series.names("scores.head.*")]
    first, last = series.capture(0, wanted), series.capture(len(series) - 1, wanted)
    names = {
        "previous_token_repeated": "previous token",
        "induction": "induction",
        "current_token_repeated": "current token",
        "sink_repeated": "sink",
    }
    maps = [("before training", first, (0, 0))]
    for score, words in names.items():
        maps.append((words, last, _strongest(last.arrays[f"scores.head.{score}"])))
    of_any = np.max([last.arrays[f"scores.head.{score}"] for score in names], axis=0)
    maps.append(("none of these", last, _strongest(-of_any)))

    figure = Figure(figsize=(12, 7.6), dpi=100, layout="constrained")
    for axes, (words, capture, (block, head)) in zip(figure.subplots(2, 3).flat, maps, strict=True):
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
        axes.set_title(f"{words}  (L{block}H{head})", fontsize=15)
        axes.set_xlabel("token that is looked at")
        axes.set_ylabel("token that looks")
    figure.savefig(path)


def _strongest(scores: np.ndarray) -> tuple[int, int]:
    block, head = np.unravel_index(np.nanargmax(scores), scores.shape)
    return int(block), int(head)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "run", help="mlflow:<run_id>, wandb:<entity>/<project>/<run_id> or local:<directory>"
    )
    parser.add_argument("--to", type=Path, default=PICTURES)
    options = parser.parse_args()
    run = open_run(options.run, None)
    series = Series(pulled_captures(run, None, progress=True).captures, title=run.info().name)
    pictures = {"overview.webp": overview, "layouts.png": layouts, "patterns.png": patterns}
    for picture, draw in pictures.items():
        draw(series, options.to / picture)
        print(options.to / picture, f"{(options.to / picture).stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
