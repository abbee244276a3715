"""The values that adapters take and return, and the rules for the files of a run.

Needs no SDK and no network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tracker_viz.errors import ConfigError
from tracker_viz.types import RunRef

RunState = Literal["running", "finished", "failed", "killed"]
Cell = str | float | int | None

# Files of a run that stand for features which its tracker lacks.
SUMMARY = "summary.json"
INPUTS = "inputs.json"


def state_after(error: type[BaseException] | None) -> RunState:
    """Return the state of a run whose training ended with this error; None: without one."""
    if error is None:
        return "finished"
    return "killed" if issubclass(error, KeyboardInterrupt) else "failed"


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
    """Size of one ``put_captures`` of a tracker: the uploader sends when the first limit is
    reached.

    Attributes:
        captures: number of captures.
        nbytes: their total size; a single capture that is bigger goes alone.
        seconds: since the oldest of them was submitted.
    """

    captures: int = 1
    nbytes: int = 64 << 20
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A run's name, state and configuration, for headers of pictures and comparisons.

    Attributes:
        config: flat, names joined by dots (``model.n_heads``). A tracker that stores only text
            gives text.
        parent: the sweep's run above this one.
    """

    ref: RunRef
    name: str
    state: RunState
    config: Mapping[str, Any]
    parent: RunRef | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """Result of checking a tracker, as ``tracker-viz doctor`` prints it.

    Attributes:
        usable: the tracker could be written to.
        fix: what to do where it is not usable.
    """

    usable: bool
    detail: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class LoggerRun:
    """The run behind another framework's logger.

    Attributes:
        run: as in ``watch(run=...)``: a reference or the tracker's own live object.
        options: options with which this process reaches the tracker.
    """

    run: Any
    options: Mapping[str, Any] = field(default_factory=dict)


_ARTIFACT_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=, -]*")


def checked_artifact(artifact: str) -> str:
    """Return ``artifact`` if it is a run-relative path that may be written or read. Every name from
    outside is checked here.

    Raises:
        ConfigError: it is absolute, climbs (``..``), has hidden or odd parts, or is in the folder
            of the captures.
    """
    parts = artifact.split("/")
    for part in parts:
        # Windows drops a dot or a space at the end of a name.
        if not _ARTIFACT_PART.fullmatch(part) or part.endswith((".", " ")):
            raise ConfigError(
                "a file in a run has a plain relative path like 'reports/heads.html'; got "
                f"{artifact!r}"
            )
    if parts[0] == "captures":
        raise ConfigError(
            f"'captures/' holds the captures and their index only; give {artifact!r} another folder"
        )
    return artifact


def checked_columns(rows: Sequence[Mapping[str, Cell]], name: str) -> list[str]:
    """Return the columns of a table.

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
    """Return the paths of a video in a run: the stable one at the root, the same in every run, and
    the one with its last step.

    ``('heads.webm', 'videos/heads/step_00012000.webm')``
    """
    checked_artifact(layout)
    stable = checked_artifact(f"{layout}{suffix}")
    stepped = checked_artifact(f"videos/{layout}/step_{last_step:08d}{suffix}")
    return stable, stepped


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested configuration: ``{"model": {"d": 4}}`` becomes ``{"model.d": 4}``; lists
    stay values."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
