"""The command ``tracker-viz``: one Hydra application per job, each in the module of its name.

Each is imported when it is called: ``tracker-viz --help`` is instant, and rendering never loads
torch.
"""

from __future__ import annotations

import importlib
import sys

from tracker_viz.errors import unknown_name

JOBS = {
    "render": "download a run's captures, draw them, and upload the video to the same run",
    "follow": "keep the video of a run up to date while it trains",
    "live": "show a run in a browser on this machine while it trains",
    "compare": "show side by side which roles the heads of several runs took, and when",
    "push": "upload the captures that a crashed or offline run left in its spool",
    "backfill": "capture existing checkpoints",
    "verify": "ablate the labeled heads, and write the verdicts into the run",
    "inspect": "a dry run: list what would be captured of a model, and measure the cost",
    "ui": "open the tracker's UI on a run's video",
    "doctor": "test what works on this machine, and print the fix for what does not",
}


def main() -> None:
    """Entry point: ``tracker-viz <job> [key=value ...]``."""
    from tracker_viz import __version__

    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        sys.exit(0 if words else 2)
    if words[0] == "--version":
        print(f"tracker-viz {__version__}")
        return
    job, *rest = words
    if job not in JOBS:
        sys.exit(
            f"{unknown_name('command', job, JOBS)}\n'tracker-viz --help' describes each of them"
        )
    from tracker_viz.jobs.application import errors_explained

    sys.argv = [f"tracker-viz {job}", *rest]
    with errors_explained():
        importlib.import_module(f"tracker_viz.jobs.{job}").main()


def usage() -> str:
    jobs = "\n".join(f"  {name:<10}{purpose}" for name, purpose in JOBS.items())
    return (
        f"tracker-viz <command> [key=value ...]\n\n{jobs}\n\n"
        "'tracker-viz <command> --help' lists its keys; -m runs it for several values: tracker-viz "
        "render -m run=mlflow:<id1>,mlflow:<id2>"
    )
