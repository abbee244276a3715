"""Remember what a W&B run was like before it is resumed for a moment, and restore that once the
service shows what was logged."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wandb.proto.wandb_telemetry_pb2 import Feature  # type: ignore[attr-defined]

from tracker_viz.errors import TransientTrackerError
from tracker_viz.trackers.values import RunState
from tracker_viz.trackers.wandb.service import OWN_CONFIG, RENDER, WandbService, translated
from tracker_viz.types import RunRef

VISIBLE_S = 20.0  # after which what was logged must show in the run
LISTED_AT_ONCE = 100

# The client's exit codes; 255 is what it reports of a process that was stopped by hand.
EXIT_CODES: Mapping[str, int] = {"finished": 0, "failed": 1, "killed": 255}


# W&B's word -> ours. A run that fell silent (crashed) was killed, as far as anyone can tell.
STATES: Mapping[str, RunState] = {
    "finished": "finished",
    "failed": "failed",
    "killed": "killed",
    "crashed": "killed",
    "preempted": "killed",
}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The properties of a run that a visit must not change.

    Attributes:
        state: W&B's own word: running, finished, failed, crashed, killed, ...
        internal: the config's hidden part: definitions of metrics (which make charts use the
            training step), versions, machine.
        clock: the summary's own entries of time, by which the table of runs shows how long training
            took.
        media: key -> sha256 of what the summary shows of ours.
        n_renders: the last count of the media of ours.
    """

    state: str
    name: str
    config: Mapping[str, Any]
    internal: Mapping[str, Any]
    clock: Mapping[str, Any]
    media: Mapping[str, str]
    n_renders: int
    group: str | None
    job_type: str | None
    tags: tuple[str, ...]
    notes: str | None

    @classmethod
    def of(cls, run: Any) -> Snapshot:
        """Make one from a ``wandb.apis.public.Run``."""
        summary = run.summary_metrics or {}
        return cls(
            state=str(run.state),
            name=str(run.name),
            config=dict(run.config),
            internal=dict(run.rawconfig.get("_wandb") or {}),
            clock={
                key: summary[key] for key in ("_runtime", "_timestamp", "_wandb") if key in summary
            },
            media={key: value["sha256"] for key, value in _media(summary).items()},
            n_renders=int(summary.get(RENDER) or 0),
            group=run.group,
            job_type=run.job_type,
            tags=tuple(run.tags or ()),
            notes=run.notes,
        )

    @property
    def identity(self) -> dict[str, Any]:
        """Return what to pass to ``wandb.init`` again, so that this process's environment
        (WANDB_NAME, WANDB_RUN_GROUP, ...) does not rename the run."""
        names = ("name", "group", "job_type", "tags", "notes")
        return {name: getattr(self, name) or "" for name in names} | {"tags": self.tags}

    @property
    def exit_code(self) -> int | None:
        return EXIT_CODES.get(self.state)

    @property
    def counted(self) -> bool:
        """True: the loop that wrote the run set the steps of its rows, according to the client's
        own statistics in the config; also where that is unknown."""
        features = (self.internal.get("t") or {}).get("3")
        return (
            features is None or Feature.DESCRIPTOR.fields_by_name["set_step_log"].number in features
        )

    def restore(
        self, service: WandbService, ref: RunRef, logged: Mapping[str, Any], *, clock: bool
    ) -> None:
        """Restore what the client changed by resuming; new definitions of metrics are added to the
        old ones.

        The public API writes a run's whole summary back with its config. So first the service must
        show all that was ``logged``, videos with their sha256, which also proves that they are
        there.
        """
        run = _settled(service, ref, logged)
        with translated(service.base_url, ref):
            now = _media(run.summary_metrics)
            require_stored(
                run,
                {
                    new["path"]: new["size"]
                    for key, new in now.items()
                    if new["sha256"] != self.media.get(key)
                },
            )
        after = Snapshot.of(run)
        internal = {
            **self.internal,
            "m": merged_definitions(self.internal.get("m") or [], after.internal.get("m") or []),
        }
        with translated(service.base_url, ref):
            ours = {OWN_CONFIG: after.config[OWN_CONFIG]} if OWN_CONFIG in after.config else {}
            config = {**self.config, **ours}
            if (after.config, after.internal) != (config, internal):
                run.rawconfig["_wandb"] = internal
                run.config.clear()
                run.config.update(config)
                run.update()
            if clock and after.clock != self.clock:
                run.summary.update(dict(self.clock))


def _settled(service: WandbService, ref: RunRef, logged: Mapping[str, Any]) -> Any:
    """Return the run once the service shows what was ``logged``.

    Raises:
        TransientTrackerError: it does not within ``VISIBLE_S``.
    """
    deadline = time.monotonic() + VISIBLE_S
    while True:
        run = service.fetch_run(ref)
        shown = comparable(run.summary_metrics or {})
        behind = sorted(key for key, value in logged.items() if shown.get(key) != value)
        if not behind:
            return run
        if time.monotonic() > deadline:
            raise TransientTrackerError(
                f"{ref} does not show {', '.join(behind)} as logged, {VISIBLE_S:.0f} s later"
            )
        time.sleep(0.5)


def require_stored(run: Any, sizes: Mapping[str, int]) -> None:
    """Compare the run's files with path -> bytes: a row of the history arrives even if its file was
    lost on the way.

    Raises:
        TransientTrackerError: a file is missing, or has another size.
    """
    if sizes:
        stored = {file.name: file.size for file in run.files(list(sizes), per_page=LISTED_AT_ONCE)}
        if lost := sorted(path for path, nbytes in sizes.items() if stored.get(path) != nbytes):
            raise TransientTrackerError(
                f"run {run.id} names {', '.join(lost)} and does not hold "
                f"{'it' if len(lost) == 1 else 'them'} whole"
            )


def _media(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the single files that a summary shows under keys of ours."""
    media = {}
    for key, value in summary.items():
        if key.startswith("tracker_viz/") and hasattr(value, "get") and "path" in value:
            media[key] = value
    return media


def comparable(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a summary that read the same on both sides: numbers, texts, and the
    sha256 of media."""
    plain = {}
    for key, value in summary.items():
        value = value.get("sha256") if hasattr(value, "get") else value
        if not key.startswith("_") and isinstance(value, int | float | str) and value == value:
            plain[key] = value
    return plain


def merged_definitions(
    old: list[dict[str, Any]], new: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the config's metric definitions: all of ``old`` unchanged, then the others of ``new``.

    A definition is a protobuf message as JSON: ``"1"`` name, ``"2"`` glob, ``"5"`` the 1-based
    place of its step metric *in the list*.
    """

    def name(definition: Mapping[str, Any]) -> tuple[Any, Any]:
        return definition.get("1"), definition.get("2")

    known = {name(definition): place for place, definition in enumerate(old, start=1)}
    added = [definition for definition in new if name(definition) not in known]
    places = known | {
        name(definition): place for place, definition in enumerate(added, start=len(old) + 1)
    }
    merged = list(old)
    for definition in added:
        step_metric = definition.get("5")
        merged.append(
            definition | ({"5": places[name(new[step_metric - 1])]} if step_metric else {})
        )
    return merged
