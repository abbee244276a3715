"""Opening W&B runs for writing: a new one, our own again, or somebody's finished run for a moment and left as it was.

W&B allows one writer of a run and has no call that adds to a finished one: the run has to be resumed. Resuming overwrites more than
it adds, so a visit notes what the run looked like, resumes quietly, and afterwards puts back what the client changed on its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import wandb

from tracker_viz.errors import RunActiveError, TransientTrackerError
from tracker_viz.trackers.base import RunState
from tracker_viz.trackers.wandb_client import DEFAULT_ENTITY, WandbService, translated
from tracker_viz.types import RunRef

log = logging.getLogger(__name__)

INIT_TIMEOUT_S = 90.0
FINISH_TIMEOUT_S = 30.0
VISIBLE_S = 20.0  # after which what was logged must show in the run
# W&B marks a run as crashed when it heard nothing of it for about this long.
CRASHED_AFTER = "about five minutes"

# The client's exit codes; 255 is what it reports of a process that was stopped by hand.
EXIT_CODES: Mapping[str, int] = {"finished": 0, "failed": 1, "killed": 255}

# No wandb call may run on the training thread, and capturing the console would wrap every print there.
_OURS: dict[str, Any] = {"silent": True, "console": "off", "reinit": "create_new", "save_code": False, "x_save_requirements": False}
_BOUNDED: dict[str, Any] = {"init_timeout": INIT_TIMEOUT_S, "finish_timeout": FINISH_TIMEOUT_S, "finish_timeout_raises": True}
_QUIET: dict[str, Any] = {
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_disable_machine_info": True,
    "disable_git": True,
    "ignore_globs": ("config.yaml", "output.log", "requirements.txt", "wandb-metadata.json"),
}

_live: dict[str, Any] = {}
_visits: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)


def live_run(ref: RunRef) -> Any:
    """The client's own object for a run that this process is writing, ours or the user's; None when it writes none such."""
    entity, _, rest = ref.path.partition("/")
    for sdk_run in (*_live.values(), wandb.run):
        if sdk_run is not None and not is_finished(sdk_run):
            its_entity, _, its_rest = ref_of(sdk_run).path.partition("/")
            if rest == its_rest and (DEFAULT_ENTITY in (entity, its_entity) or entity == its_entity):
                return sdk_run
    return None


def is_ours(sdk_run: Any) -> bool:
    """Whether it was opened here, and not by the user's own code."""
    return any(sdk_run is ours for ours in _live.values())


def is_finished(sdk_run: Any) -> bool:
    return bool(getattr(sdk_run, "_is_finished", False))


def is_offline(sdk_run: Any) -> bool:
    return bool(sdk_run.offline)


def ref_of(sdk_run: Any) -> RunRef:
    """Reference of a run of the client. Offline it may not know whose it is: the entity then stays open."""
    return RunRef("wandb", f"{sdk_run.entity or DEFAULT_ENTITY}/{sdk_run.project}/{sdk_run.id}")


def start(service: WandbService, *, settings: Mapping[str, Any], **identity: Any) -> Any:
    """A run of ours, new or (``resume="allow"``) made under the same id before; written until ``end``."""
    chosen: dict[str, Any] = {"base_url": service.base_url, **_OURS, **_BOUNDED, **settings}
    with translated(service.base_url):
        sdk_run = wandb.init(**identity, settings=wandb.Settings(**chosen))
    _live[ref_of(sdk_run).path] = sdk_run
    return sdk_run


def end(service: WandbService, sdk_run: Any, state: RunState) -> None:
    """Finish a run of ours. What did not go up within ``FINISH_TIMEOUT_S`` stays on the disk for ``wandb sync``."""
    _live.pop(ref_of(sdk_run).path, None)
    with translated(service.base_url):
        sdk_run.finish(exit_code=EXIT_CODES[state])


@dataclass(frozen=True, slots=True)
class Resumed:
    """A run that is written again, and what it was like before."""

    sdk_run: Any
    before: Snapshot

    def end(self, service: WandbService, *, exit_code: int | None = None, keep_clock: bool) -> None:
        """Finish and put back. ``exit_code`` None leaves the run's state to the one it had."""
        ref = ref_of(self.sdk_run)
        _live.pop(ref.path, None)
        with translated(service.base_url, ref):
            logged = _comparable(dict(self.sdk_run.summary))
            self.sdk_run.finish(exit_code=self.before.exit_code or 0 if exit_code is None else exit_code)
        self.before.restore(service, ref, logged, clock=keep_clock)


def resume(service: WandbService, ref: RunRef, *, ours: bool, ends: bool) -> Resumed:
    """Take up writing a run that no process writes, as quietly as the client can.

    Args:
        ours: tracker_viz made the run and its maker is known to be gone, whatever the server still believes.
        ends: the caller will say in which state the run ends; else it keeps the one it has.

    Raises:
        RunActiveError: another process is writing it.
        TransientTrackerError: the environment says ``WANDB_MODE=offline``.
    """
    if service.mode != "online":
        raise TransientTrackerError(
            f"WANDB_MODE={service.mode} keeps this process from {ref}; unset it where W&B can be reached and try again"
        )
    run = service.fetch_run(ref)
    before = Snapshot.of(run)
    if before.state == "running" and not ours:
        raise RunActiveError(
            f"{ref} is still running in another process, and W&B takes one writer only. If that process is dead, W&B marks the run as "
            f"crashed {CRASHED_AFTER} after its last sign of life: try again then"
        )
    entity, project, run_id = ref.path.split("/")
    program = (run.metadata or {}).get("program")
    # A crashed run has no exit code: without a last word from us, W&B finds it silent, and crashed, again.
    says_how_it_ends = ends or before.exit_code is not None
    settings: dict[str, Any] = {
        "mode": "online",
        "base_url": service.base_url,
        "x_update_finish_state": says_how_it_ends,
        **({"program": program} if program else {}),
        **_OURS,
        **_BOUNDED,
        **_QUIET,
    }
    with translated(service.base_url, ref):
        sdk_run = wandb.init(
            entity=entity,
            project=project,
            id=run_id,
            resume="must",
            # Said again, lest the environment of this process (WANDB_NAME, WANDB_RUN_GROUP, ...) rename the run.
            name=before.name,
            group=before.group,
            job_type=before.job_type,
            tags=before.tags,
            notes=before.notes,
            settings=wandb.Settings(**settings),
        )
    _live[ref.path] = sdk_run
    return Resumed(sdk_run, before)


@contextmanager
def visit(service: WandbService, ref: RunRef) -> Iterator[Any]:
    """Resume a run for a moment, and leave it as it was but for what the caller logs. Raises as ``resume`` does."""
    with _visits[ref.path]:
        resumed = resume(service, ref, ours=False, ends=False)
        try:
            yield resumed.sdk_run
        finally:
            resumed.end(service, keep_clock=True)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a visit must not change.

    Attributes:
        state: W&B's own word: running, finished, failed, crashed, killed, ...
        internal: the config's hidden part: definitions of metrics (which make charts use the training step), versions, machine.
        clock: the summary's own entries of time, by which the table of runs shows how long training took.
    """

    state: str
    name: str
    config: Mapping[str, Any]
    internal: Mapping[str, Any]
    clock: Mapping[str, Any]
    group: str | None
    job_type: str | None
    tags: tuple[str, ...]
    notes: str | None

    @classmethod
    def of(cls, run: Any) -> Snapshot:
        """From a ``wandb.apis.public.Run``."""
        summary = run.summary_metrics or {}
        return cls(
            state=str(run.state),
            name=str(run.name),
            config=dict(run.config),
            internal=dict(run.rawconfig.get("_wandb") or {}),
            clock={key: summary[key] for key in ("_runtime", "_timestamp", "_wandb") if key in summary},
            group=run.group,
            job_type=run.job_type,
            tags=tuple(run.tags or ()),
            notes=run.notes,
        )

    @property
    def exit_code(self) -> int | None:
        return EXIT_CODES.get(self.state)

    def restore(self, service: WandbService, ref: RunRef, logged: Mapping[str, Any], *, clock: bool) -> None:
        """Put back what the client changed by resuming; new definitions of metrics are added to the old ones.

        The public API writes a run's whole summary back with its config. So first the service must show all that was ``logged``,
        videos with their sha256, which is also the proof that they are there.
        """
        run = _settled(service, ref, logged)
        after = Snapshot.of(run)
        internal = {**self.internal, "m": merged_definitions(self.internal.get("m") or [], after.internal.get("m") or [])}
        with translated(service.base_url, ref):
            if (after.config, after.internal) != (self.config, internal):
                run.rawconfig["_wandb"] = internal
                run.config.clear()
                run.config.update(self.config)
                run.update()
            if clock and after.clock != self.clock:
                run.summary.update(dict(self.clock))


def _settled(service: WandbService, ref: RunRef, logged: Mapping[str, Any]) -> Any:
    """The run once the service shows what was ``logged``.

    Raises:
        TransientTrackerError: it does not within ``VISIBLE_S``.
    """
    deadline = time.monotonic() + VISIBLE_S
    while True:
        run = service.fetch_run(ref)
        shown = _comparable(run.summary_metrics or {})
        behind = sorted(key for key, value in logged.items() if shown.get(key) != value)
        if not behind:
            return run
        if time.monotonic() > deadline:
            raise TransientTrackerError(f"{ref} does not show {', '.join(behind)} as logged, {VISIBLE_S:.0f} s later")
        time.sleep(0.5)


def _comparable(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Of a summary what reads the same on both sides: numbers, texts, and the sha256 of media."""
    plain = {}
    for key, value in summary.items():
        value = value.get("sha256") if hasattr(value, "get") else value
        if not key.startswith("_") and isinstance(value, int | float | str) and value == value:
            plain[key] = value
    return plain


def merged_definitions(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The config's metric definitions: all of ``old`` as they are, then those of ``new`` that are not among them.

    A definition is a protobuf message as JSON: ``"1"`` name, ``"2"`` glob, ``"5"`` the 1-based place of its step metric *in the list*.
    """

    def name(definition: Mapping[str, Any]) -> tuple[Any, Any]:
        return definition.get("1"), definition.get("2")

    known = {name(definition): place for place, definition in enumerate(old, start=1)}
    added = [definition for definition in new if name(definition) not in known]
    places = known | {name(definition): place for place, definition in enumerate(added, start=len(old) + 1)}
    merged = list(old)
    for definition in added:
        step_metric = definition.get("5")
        merged.append(definition | ({"5": places[name(new[step_metric - 1])]} if step_metric else {}))
    return merged
