"""What an experiment tracker must do for us: the protocols ``Tracker`` (the service) and ``Run`` (one run in it).

Adapters: ``local.py``, ``mlflow.py``, ``wandb.py``; ``testing.py`` ships the contract suite that each of them passes, and that
a third party's adapter subclasses. Every method may block and may raise; nothing here is ever called on the training
thread: the spool's uploader calls the writing half, the pipeline the reading half.

Errors: ``TransientTrackerError`` where the same call may succeed later (the uploader retries exactly these), any other
``TrackerError`` where it cannot. No SDK object and no SDK exception crosses this edge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from tracker_viz.types import CapturePath, CaptureRef, RunRef

RunState = Literal["running", "finished", "failed", "killed"]


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """Scalars of one training step. Names group by prefix, as in ``attn/induction/max``."""

    step: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What a picture's header and a comparison say about a run."""

    ref: RunRef
    name: str
    state: RunState
    config: Mapping[str, Any]
    parent: RunRef | None = None


class Run(Protocol):
    """One run of a tracker, existing or just made."""

    @property
    def ref(self) -> RunRef: ...

    @property
    def environment(self) -> Mapping[str, str]:
        """What another process needs besides ``ref`` to reach this run, as option -> value (``tracking_uri``, ``base_url``).

        Never a secret. The command that training prints carries these.
        """
        ...

    def info(self) -> RunInfo: ...

    def url(self, artifact: str | None = None) -> str:
        """Where a person sees the run, or one of its files (a path as ``put_file`` took it), in the tracker's own UI."""
        ...

    # -- writing, while training and after it ---------------------------------------------------------------

    def put_captures(self, captures: Sequence[CapturePath]) -> None:
        """Store captures; when this returns the service has every one of them. Safe to repeat."""
        ...

    def log_metrics(self, points: Sequence[MetricPoint]) -> None:
        """Add points to the run's native charts, whose horizontal axis is the training step."""
        ...

    def set_summary(self, values: Mapping[str, float | int | str]) -> None:
        """Set final values by which the tracker's own table of runs can sort and filter. Overwrites."""
        ...

    def put_file(self, file: Path, artifact: str) -> str:
        """Store any file under the run-relative path ``artifact`` (``reports/heads.html``); returns its UI link. Overwrites."""
        ...

    def put_video(self, video: Path, *, layout: str, last_step: int) -> str:
        """Store a video where this tracker's UI plays it, under a name that is the same in every run; returns its UI link.

        Works on a finished run and leaves its state, times, config and history as they are.

        Raises:
            RunActiveError: another process still writes to the run and this tracker allows one writer only.
        """
        ...

    def finish(self, state: RunState) -> None:
        """End a run that this adapter created. A run that was only joined or opened is left as it is."""
        ...

    # -- reading back ---------------------------------------------------------------------------------------

    def list_captures(self) -> list[CaptureRef]:
        """Captures that the service holds whole, ordered by step, each step once."""
        ...

    def fetch(self, ref: CaptureRef, directory: Path) -> Path:
        """A local file with exactly the bytes of ``ref``: where the store lies already, or downloaded into ``directory``.

        May be called from several threads at once. A file that is already in ``directory`` and matches is not fetched again.

        Raises:
            CaptureFileError: what the service sent does not match the ref's size or sha256.
        """
        ...

    def get_file(self, artifact: str, directory: Path) -> Path:
        """Bring back a file that ``put_file`` stored, into ``directory``.

        Raises:
            TrackerError: the run has no such file.
        """
        ...

    def children(self) -> list[RunRef]:
        """Runs of the sweep of which this run is the parent; empty when it is none."""
        ...


class Tracker(Protocol):
    """One tracking service, reached with the options its adapter was made with."""

    def create_run(self, *, name: str, config: Mapping[str, Any], tags: Mapping[str, str] | None = None) -> Run:
        """Make a new run, state running."""
        ...

    def open_run(self, ref: RunRef) -> Run:
        """An existing run.

        Raises:
            RunNotFoundError: there is none, or it was deleted.
        """
        ...

    def active_run(self) -> Run | None:
        """The run that the user's own code has open in this process, to be joined and never ended by us; None without one."""
        ...
