"""Previews of a run while it trains: a process of low priority draws them from the spool, and a
thread of the training puts them into the runs that the uploaders have open.

Nothing here ends or holds up a training. Each failure is logged once.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracker_viz.delivery import Outbox, remove_dead_taps
from tracker_viz.errors import TrackerVizError
from tracker_viz.trackers import Run

log = logging.getLogger(__name__)

# Also in pipeline/preview_process.py, which loads more than a training needs.
_MODULE = "tracker_viz.pipeline.preview_process"
_DIRECTORY = ".preview"
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_NUM_THREADS")
_LOWEST = 19  # as nice counts
# How often the process is started again after somebody killed it.
_MOST_STARTS = 3
_ENDING_S = 5.0


class Preview:
    """The previews of one training, from ``start`` to ``close``.

    Args:
        every: shortest time between two versions, such as ``15min``.
    """

    def __init__(self, outbox: Outbox, every: str) -> None:
        self._outbox, self._every = outbox, every
        self._closing = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._logged: set[str] = set()
        self._thread = threading.Thread(target=self._work, name="tracker_viz-preview", daemon=True)
        self.n_put = 0

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the process; a version that is being uploaded is waited for a few seconds. Safe to
        repeat."""
        self._closing.set()
        if self._process is not None:
            self._process.kill()
        if self._thread.is_alive():
            self._thread.join(_ENDING_S)
        remove_dead_taps(self._outbox.directory)
        shutil.rmtree(self._outbox.directory / _DIRECTORY, ignore_errors=True)

    # -- the thread --------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            for _ in range(_MOST_STARTS):
                if self._run_process() or self._closing.is_set():
                    return
                self._warn("the process that draws previews was killed; it is started again")
            self._warn("the process that draws previews was killed again and again; there are none")
        except Exception:
            log.exception("there are no more previews; training and captures go on")

    def _run_process(self) -> bool:
        """Run the process to its end; return False where somebody killed it."""
        self._process = process = subprocess.Popen(
            [sys.executable, "-m", _MODULE, str(self._outbox.directory), self._every, str(_LOWEST)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **dict.fromkeys(_ONE_THREAD, "1"), "CUDA_VISIBLE_DEVICES": ""},
            # Ctrl-C is for the training, which ends this process itself. Not a session of its own:
            # Linux may share the machine among sessions first, whatever the priorities in each.
            process_group=0,
        )
        if self._closing.is_set():
            process.kill()
        assert process.stdout is not None
        with process:
            for line in process.stdout:
                self._read(json.loads(line))
        if process.returncode not in (0, -9) and not self._closing.is_set():
            self._warn(f"there are no more previews: their process ended ({process.returncode})")
        return process.returncode != -9

    def _read(self, values: Mapping[str, Any]) -> None:
        """Log a message of the process, or put its new version into the runs."""
        if "message" in values:
            self._warn(f"previews: {values['message']}")
        elif not self._closing.is_set():
            for run in self._outbox.runs:
                self._put(run, values["pictures"])

    def _put(self, run: Run, pictures: list[list[str]]) -> None:
        try:
            for format, path in pictures:
                picture = Path(path)
                if format == "video":
                    run.put_live_video(picture, layout=picture.stem, last_step=0)
                else:
                    run.put_file(picture, picture.name)
            self.n_put += 1
        except TrackerVizError as error:
            self._warn(f"a preview did not reach {run.ref}: {error}")

    def _warn(self, text: str) -> None:
        if text not in self._logged:
            self._logged.add(text)
            log.warning("%s", text)
