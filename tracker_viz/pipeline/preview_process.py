"""The process that draws previews beside a training. ``recording/preview.py`` starts it:

    python -m tracker_viz.pipeline.preview_process <spool> <every> <nice>

It has a low priority, one thread to draw with, and no GPU; it reads the spool and writes below
``<spool>/.preview``. On standard output it writes, a JSON object a line, which version is ready or
what to log. It ends when standard input does: with the training, however that ends.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any

from tracker_viz.delivery import TappedSpool
from tracker_viz.errors import TrackerVizError
from tracker_viz.pipeline.follow import follow
from tracker_viz.pipeline.options import DEFAULT_THEME
from tracker_viz.pipeline.render import RenderResult

LAYOUT = "overview"
DIRECTORY = ".preview"


def main() -> None:
    spool, every = Path(sys.argv[1]), sys.argv[2]
    os.setpriority(os.PRIO_PROCESS, 0, int(sys.argv[3]))
    threading.Thread(target=_end_with_the_training, daemon=True).start()
    logging.basicConfig(level=logging.WARNING, handlers=[_LogToTraining()])
    here = spool / DIRECTORY
    options = {
        "every": every,
        "poll_s": 1.0,
        "final": False,
        "upload": False,
        "output": here / "pictures",
        "cache": here,
        "theme": DEFAULT_THEME,
        "video": {"workers": 1, "key_frames": 0},
    }
    (here / "pictures").mkdir(parents=True, exist_ok=True)
    try:
        with TappedSpool(spool) as tapped:
            follow(tapped, layout=LAYOUT, options=options, on_version=_write_version)
    except TrackerVizError as error:
        _write(message=str(error))
        sys.exit(1)


def _write_version(version: RenderResult) -> None:
    _write(pictures=[[picture.format, str(picture.path)] for picture in version.pictures])


def _write(**values: Any) -> None:
    print(json.dumps(values), flush=True)


class _LogToTraining(logging.Handler):
    """Hand what is logged here to the training's log."""

    def emit(self, record: logging.LogRecord) -> None:
        _write(message=record.getMessage())


def _end_with_the_training() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
