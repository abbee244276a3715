"""What an experiment tracker must do for us: the protocols ``Tracker`` (the service) and ``Run``
(one run in it).

Adapters: ``local.py``, ``mlflow.py``, ``wandb.py``; ``testing.py`` ships the contract suite that
each of them passes, and that a third party's adapter subclasses. Every method may block and may
raise; nothing here is ever called on the training thread: the spool's uploader calls the writing
half, the pipeline the reading half.

Errors: ``TransientTrackerError`` where the same call may succeed later (the uploader retries
exactly these), any other ``TrackerError`` where it cannot. No SDK object and no SDK exception
crosses this edge.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from tracker_viz.errors import ConfigError
from tracker_viz.types import CapturePath, CaptureRef, RunRef

RunState = Literal["running", "finished", "failed", "killed"]
Cell = str | float | int | None


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """Scalars of one training step. Names group by prefix, as in ``attn/induction_max``.

    Attributes:
        time: seconds since 1970 at which they were measured; None is now. A point that is logged
            again with the same time is the same point: a tracker that stores times does not show it
            twice.
    """

    step: int
    values: Mapping[str, float]
    time: float | None = None


@dataclass(frozen=True, slots=True)
class ChunkPolicy:
    """How much one ``put_captures`` of a tracker should carry: the uploader sends when the first
    bound is reached.

    Attributes:
        captures: number of captures.
        nbytes: their bytes together; one capture that is bigger goes alone.
        seconds: how long the oldest of them has waited.
    """

    captures: int = 1
    nbytes: int = 64 << 20
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What a picture's header and a comparison say about a run.

    Attributes:
        config: flat, names joined by dots (``model.n_heads``). A tracker that keeps text only gives
            text.
        parent: the sweep's run above this one.
    """

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
    def chunk(self) -> ChunkPolicy:
        """How many captures the uploader gathers before it calls ``put_captures``."""
        ...

    @property
    def online(self) -> bool:
        """False: no capture can be delivered from this process, as where W&B is set to work
        offline. They wait for ``push``.

        Metrics, summary and the end of the run are taken nevertheless.
        """
        ...

    @property
    def environment(self) -> Mapping[str, str]:
        """What another process needs besides ``ref`` to reach this run, as option -> value
        (``tracking_uri``, ``base_url``).

        Never a secret. The command that training prints carries these.
        """
        ...

    def info(self) -> RunInfo: ...

    def url(self, artifact: str | None = None) -> str:
        """Where a person sees the run, or one of its files (a path as ``put_file`` took it), in the
        tracker's own UI."""
        ...

    @property
    def ui_command(self) -> str | None:
        """The command that must be running for ``url`` to open; None where a server shows it
        already."""
        ...

    # -- writing, while training and after it
    # ---------------------------------------------------------------

    def put_captures(self, captures: Sequence[CapturePath]) -> None:
        """Store captures; when this returns the service has every one of them. Safe to repeat.

        A capture of a step that the run holds already replaces it.
        """
        ...

    def log_metrics(self, points: Sequence[MetricPoint]) -> None:
        """Add points to the run's native charts, whose horizontal axis is the training step."""
        ...

    def set_summary(self, values: Mapping[str, float | int | str]) -> None:
        """Set final values by which the tracker's own table of runs can sort and filter.
        Overwrites."""
        ...

    def put_file(self, file: Path, artifact: str) -> str:
        """Store any file under the run-relative path ``artifact`` (``reports/heads.html``); returns
        its UI link. Overwrites.

        Raises:
            ConfigError: the path is not a plain relative one, or lies under ``captures/``; see
                ``checked_artifact``.
        """
        ...

    def put_video(self, video: Path, *, layout: str, last_step: int) -> str:
        """Store a video where this tracker's UI plays it, under a name that is the same in every
        run; returns its UI link.

        Works on a finished run and leaves its state, times, config and history as they are.

        Raises:
            RunActiveError: another process still writes to the run and this tracker allows one
                writer only.
        """
        ...

    def put_table(self, rows: Sequence[Mapping[str, Cell]], name: str) -> str:
        """Store a table where this tracker's UI shows it as one, under a name that is the same in
        every run; returns its link. Overwrites.

        Works on a finished run, like ``put_video``; so do the next two.

        Raises:
            ConfigError: there are no rows, or they differ in their columns.
        """
        ...

    def put_key_frames(self, frames: Sequence[tuple[int, Path]], layout: str) -> str:
        """Store pictures, (training step, PNG), behind the tracker's own step slider, under a name
        that is the same in every run.

        Safe to repeat: what the run shows already is not stored again, and a picture that changed
        takes the place of the earlier one. Returns the UI link.
        """
        ...

    def link_inputs(self, refs: Sequence[RunRef]) -> None:
        """Say in the tracker that what this run holds was made of these runs' captures; they may be
        of other trackers. Safe to repeat."""
        ...

    def source_in_page(self, ref: RunRef, artifact: str) -> str | None:
        """The address under which a page among this run's files plays a file of the run ``ref``;
        None where that cannot be.

        Relative to the address at which the page itself is shown.
        """
        ...

    def guards_files(self, ref: RunRef, artifact: str) -> bool:
        """Whether the UI gives that file only to who is logged in. To a page in a viewer's sandbox
        browsers give no log-in, so what such a page plays must be part of it."""
        ...

    def results_run(self) -> Run:
        """The run that holds what was made of the sweep below this one: this one itself, unless the
        tracker shows it elsewhere.

        Where a sweep is a group of runs without a parent among them (W&B), it is one run in that
        group, the same one every time.
        """
        ...

    def finish(self, state: RunState) -> None:
        """End a run that is ours: created, or opened with ``ours=True``. One that was only joined
        or opened is left as it is.

        After this the run's local resources are released; reading from it still works, and
        finishing it again with the same state changes nothing.
        """
        ...

    # -- reading back
    # ---------------------------------------------------------------------------------------

    def list_captures(self) -> list[CaptureRef]:
        """Captures that the run was given whole, ordered by step, each step once.

        One that was damaged on the server afterwards is still listed: ``fetch`` finds it out, so
        that its gap is seen.
        """
        ...

    def missing(self, refs: Sequence[CaptureRef]) -> list[CaptureRef]:
        """Those of ``refs`` that the service lacks, or holds with another size or hash, as far as
        it can tell without a download.

        The uploader asks before it repeats anything, and ``push`` repairs what is named here.
        """
        ...

    def fetch(self, ref: CaptureRef, directory: Path) -> Path:
        """A local file with exactly the bytes of ``ref``: where the store lies already, or
        downloaded into ``directory``.

        May be called from several threads at once. A file that is already in ``directory`` and
        matches is not fetched again.

        Raises:
            CaptureFileError: what the service sent does not match the ref's size or sha256.
        """
        ...

    def list_files(self) -> list[str]:
        """Names of the files that ``put_file`` and ``put_video`` stored at the root of the run,
        where its tracker keeps them there."""
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
    """One tracking service, reached with the options its adapter was made with. Making one touches
    no network."""

    @property
    def options(self) -> Mapping[str, str]:
        """Options with which another process reaches the same service; absolute paths, never a
        secret."""
        ...

    def create_run(
        self,
        *,
        name: str,
        config: Mapping[str, Any],
        tags: Mapping[str, str] | None = None,
        parent: RunRef | None = None,
        key: str | None = None,
    ) -> Run:
        """Make a new run, state running.

        Args:
            config: may be nested; logged as the tracker's own parameters.
            parent: the sweep's run above it.
            key: 32 hexadecimal digits. When a run was created with the same key already (its maker
                was killed before it could note the run), that run is returned instead of a second
                one.
        """
        ...

    def open_run(self, ref: RunRef, *, ours: bool = False) -> Run:
        """An existing run. ``ours``: tracker_viz created it in an earlier process, so ``finish``
        ends it.

        Raises:
            RunNotFoundError: there is none, or it was deleted.
        """
        ...

    def active_run(self) -> Run | None:
        """The run that the user's own code has open in this process, to be joined and never ended
        by us; None without one.

        Called on the user's own thread.
        """
        ...

    def join(self, live: Any) -> Run:
        """The run behind an object of the tracker's own client (``wandb.Run``,
        ``mlflow.entities.Run``), joined as above.

        Raises:
            ConfigError: this is no such object.
        """
        ...


_ARTIFACT_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=, -]*")


def checked_artifact(artifact: str) -> str:
    """The run-relative path of a file as it may be written or read; names that came from elsewhere
    pass through here.

    Raises:
        ConfigError: it is absolute, climbs (``..``), has hidden or odd parts, or would lie among
            the captures.
    """
    parts = artifact.split("/")
    if not all(_ARTIFACT_PART.fullmatch(part) and not part.endswith((".", " ")) for part in parts):
        raise ConfigError(
            f"a file in a run has a plain relative path like 'reports/heads.html'; got {artifact!r}"
        )
    if parts[0] == "captures":
        raise ConfigError(
            f"'captures/' holds the captures and their index only; give {artifact!r} another folder"
        )
    return artifact


def checked_columns(rows: Sequence[Mapping[str, Cell]], name: str) -> list[str]:
    """The columns of a table.

    Raises:
        ConfigError: there are no rows, or they differ in their columns.
    """
    if not rows:
        raise ConfigError(f"a table has at least one row; {name!r} has none")
    columns = list(rows[0])
    for number, row in enumerate(rows):
        if list(row) != columns:
            raise ConfigError(
                f"all rows of a table have the same columns; in {name!r} row {number} has "
                f"{list(row)} and the first {columns}"
            )
    return columns


def video_artifacts(layout: str, last_step: int, suffix: str) -> tuple[str, str]:
    """Paths of a video in a run: the stable one at the root, the same in every run, and the one
    that says its last step.

    ``('heads.webm', 'videos/heads/step_00012000.webm')``
    """
    checked_artifact(layout)
    return checked_artifact(f"{layout}{suffix}"), checked_artifact(
        f"videos/{layout}/step_{last_step:08d}{suffix}"
    )


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested configuration as dotted names: ``{"model": {"d": 4}}`` becomes ``{"model.d": 4}``;
    lists stay values."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
