"""Open W&B runs for writing: a new one, our own again, or another finished run for a moment, which
is left as it was.

W&B allows one writer of a run, unless all of them use its shared mode, and has no call that adds to
a finished one: the run has to be resumed. Resuming overwrites more than it adds, so a visit notes
what the run looked like, resumes quietly, and afterwards restores what the client changed on its
own. In shared mode a process attaches instead.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wandb

from tracker_viz.errors import RunActiveError
from tracker_viz.trackers.values import RunState
from tracker_viz.trackers.wandb.service import (
    DEFAULT_ENTITY,
    SHARED,
    WandbService,
    their_login_kept,
    translated,
)
from tracker_viz.trackers.wandb.snapshot import EXIT_CODES, Snapshot, comparable
from tracker_viz.types import RunRef

log = logging.getLogger(__name__)

INIT_TIMEOUT_S = 90.0
TAG_CHARACTERS = 64  # W&B takes no longer tag
FINISH_TIMEOUT_S = 30.0
# W&B marks a run as crashed when it heard nothing of it for about this long.
CRASHED_AFTER = "about five minutes"

# No wandb call may run on the training thread, and capturing the console would wrap every print
# there.
_OURS: dict[str, Any] = {
    "silent": True,
    "console": "off",
    "reinit": "create_new",
    "save_code": False,
    "x_save_requirements": False,
}
_BOUNDED: dict[str, Any] = {
    "init_timeout": INIT_TIMEOUT_S,
    "finish_timeout": FINISH_TIMEOUT_S,
    "finish_timeout_raises": True,
}
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
    """Return the client's object of a run that this process is writing, ours or the user's; else
    None."""
    entity, _, rest = ref.path.partition("/")
    for sdk_run in (*_live.values(), wandb.run):
        if sdk_run is not None and not is_finished(sdk_run):
            its_entity, _, its_rest = ref_of(sdk_run).path.partition("/")
            if rest == its_rest and (
                DEFAULT_ENTITY in (entity, its_entity) or entity == its_entity
            ):
                return sdk_run
    return None


def add_to_group(sdk_run: Any, group: str, *, otherwise: str) -> None:
    """Put a run that is being written into ``group``; where the user chose another group, give it
    the tag ``otherwise``.

    The client takes a group at a run's start only, but it sends its settings again with every
    change of the tags.
    """
    tags = tuple(sdk_run.tags or ())
    if sdk_run.group in ("", group):
        sdk_run._settings.run_group = group
    else:
        tags = tuple(dict.fromkeys((*tags, otherwise)))
    sdk_run.tags = tags


def is_ours(sdk_run: Any) -> bool:
    """Return whether the run was opened here, and not by the user's own code."""
    return any(sdk_run is ours for ours in _live.values())


def is_finished(sdk_run: Any) -> bool:
    return bool(getattr(sdk_run, "_is_finished", False))


def is_offline(sdk_run: Any) -> bool:
    return bool(sdk_run.offline)


def sync_directory(sdk_run: Any) -> Path:
    """Return what ``wandb sync`` takes."""
    return Path(sdk_run.dir).parent


def ref_of(sdk_run: Any) -> RunRef:
    """Return the reference of a run of the client. Offline the entity may be unknown, and stays
    open."""
    return RunRef("wandb", f"{sdk_run.entity or DEFAULT_ENTITY}/{sdk_run.project}/{sdk_run.id}")


def start(service: WandbService, *, settings: Mapping[str, Any], **identity: Any) -> Any:
    """Start a run of ours, new or (``resume="allow"``) created under the same id before; it is
    written until ``end``."""
    chosen: dict[str, Any] = {"base_url": service.base_url, **_OURS, **_BOUNDED, **settings}
    with translated(service.base_url), their_login_kept():
        sdk_run = wandb.init(**identity, settings=wandb.Settings(**chosen))
    _live[ref_of(sdk_run).path] = sdk_run
    return sdk_run


def end(service: WandbService, sdk_run: Any, state: RunState) -> None:
    """Finish a run of ours. What was not uploaded within ``FINISH_TIMEOUT_S`` stays on the disk for
    ``wandb sync``."""
    _live.pop(ref_of(sdk_run).path, None)
    with translated(service.base_url):
        sdk_run.finish(exit_code=EXIT_CODES[state])


@dataclass(frozen=True, slots=True)
class Resumed:
    """A run that is written again, and what it was like before."""

    sdk_run: Any
    before: Snapshot

    def end(self, service: WandbService, *, exit_code: int | None = None, keep_clock: bool) -> None:
        """Finish and restore. ``exit_code`` None keeps the state that the run had."""
        ref = ref_of(self.sdk_run)
        _live.pop(ref.path, None)
        with translated(service.base_url, ref):
            logged = comparable(dict(self.sdk_run.summary))
            self.sdk_run.finish(
                exit_code=self.before.exit_code or 0 if exit_code is None else exit_code
            )
        self.before.restore(service, ref, logged, clock=keep_clock)


def resume(service: WandbService, ref: RunRef, *, ours: bool, ends: bool) -> Resumed:
    """Resume a run that no process writes, as quietly as the client can.

    Args:
        ours: tracker_viz created the run and its maker is known to be gone, whatever the server
            still believes.
        ends: the caller will set the run's final state; else it keeps the one it has.

    Raises:
        RunActiveError: another process is writing it.
        TransientTrackerError: the environment says ``WANDB_MODE=offline``.
    """
    service.require_online(ref)
    run = service.fetch_run(ref)
    before = Snapshot.of(run)
    if not ours:
        require_unwritten(run, ref)
    entity, project, run_id = ref.path.split("/")
    program = (run.metadata or {}).get("program")
    # A crashed run has no exit code: without a last word from us, W&B finds it silent, and crashed,
    # again.
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
    with translated(service.base_url, ref), their_login_kept():
        sdk_run = wandb.init(
            entity=entity,
            project=project,
            id=run_id,
            resume="must",
            **before.identity,
            settings=wandb.Settings(**settings),
        )
    _live[ref.path] = sdk_run
    return Resumed(sdk_run, before)


def require_unwritten(run: Any, ref: RunRef) -> None:
    """Check that no other process writes the run, as far as the server knows.

    Raises:
        RunActiveError: one does.
    """
    if run.state == "running":
        raise RunActiveError(
            f"{ref} is still running in another process, and W&B takes one writer only. If that "
            "process is dead, W&B marks the run as "
            f"crashed {CRASHED_AFTER} after its last sign of life: try again then"
        )


def is_shared(sdk_run: Any) -> bool:
    """Return whether other processes may write the run at the same time."""
    return bool(sdk_run.settings.mode == SHARED)


@dataclass(frozen=True, slots=True)
class Attached:
    """A run that other processes may write at the same time, in shared mode."""

    sdk_run: Any
    before: Snapshot

    def end(self, service: WandbService, *, exit_code: int | None = None, keep_clock: bool) -> None:
        """Finish; there is nothing to restore. ``exit_code`` None leaves the run's state alone."""
        ref = ref_of(self.sdk_run)
        _live.pop(ref.path, None)
        with translated(service.base_url, ref):
            self.sdk_run.finish(exit_code=exit_code)


def attach(service: WandbService, ref: RunRef, *, ends: bool) -> Attached:
    """Write into a run that other processes may write in shared mode.

    Each writer's rows go up under an id of its own, and the service puts them behind those that are
    there. So nothing is resumed, and nothing has to be restored: this process does not say what the
    run's config, its console and its machine are.

    Args:
        ends: the run is ours, and is ended here.
    """
    service.require_online(ref)
    entity, project, run_id = ref.path.split("/")
    settings: dict[str, Any] = {
        "mode": SHARED,
        "base_url": service.base_url,
        "x_primary": False,
        "x_label": f"tracker_viz-{secrets.token_hex(4)}",
        "x_update_finish_state": ends,
        "program": "",  # the run's own stays
        **_OURS,
        **_BOUNDED,
        **_QUIET,
    }
    before = Snapshot.of(service.fetch_run(ref))
    with translated(service.base_url, ref), their_login_kept():
        sdk_run = wandb.init(
            entity=entity,
            project=project,
            id=run_id,
            **before.identity,
            settings=wandb.Settings(**settings),
        )
    if ends:
        _live[ref.path] = sdk_run
    return Attached(sdk_run, before)


@contextmanager
def visit(service: WandbService, ref: RunRef, *, is_shared: bool) -> Iterator[Resumed | Attached]:
    """Write into another run for a moment, and leave it as it was except for what the caller logs:
    attach where its writers share it, else resume.

    Raises:
        RunActiveError: another process is writing it alone.
        TransientTrackerError: the environment says ``WANDB_MODE=offline``.
    """
    with alone(ref):
        opened: Resumed | Attached
        if is_shared:
            opened = attach(service, ref, ends=False)
        else:
            opened = resume(service, ref, ours=False, ends=False)
        try:
            yield opened
        finally:
            opened.end(service, keep_clock=True)


def alone(ref: RunRef) -> threading.RLock:
    """Return the lock to hold while this process changes a run that it does not write otherwise."""
    return _visits[ref.path]
