"""Write and read one W&B run: through the session that is open or is opened for it, and through the
public API."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tracker_viz.capture_file import MAX_FILE_BYTES
from tracker_viz.errors import RunActiveError, RunNotFoundError, TrackerError, TransientTrackerError
from tracker_viz.files import temporary_directory, torn_directory
from tracker_viz.trackers.base import Run
from tracker_viz.trackers.bounded import check_size
from tracker_viz.trackers.values import (
    Cell,
    ChunkPolicy,
    MetricPoint,
    RunInfo,
    RunState,
    checked_artifact,
    flatten,
)
from tracker_viz.trackers.wandb import lineage, session
from tracker_viz.trackers.wandb.artifacts import CaptureStore, CaptureUploads, legal_name
from tracker_viz.trackers.wandb.download import download
from tracker_viz.trackers.wandb.history import (
    logged_frames,
    shown_points,
)
from tracker_viz.trackers.wandb.key_frames import await_frames, read_frames, shown_frames
from tracker_viz.trackers.wandb.media import (
    file_key,
    frames_key,
    has_panel,
    panel_media,
    store_table,
    table_artifact,
    table_key,
    table_media,
    video_key,
    video_media,
)
from tracker_viz.trackers.wandb.service import (
    DEFAULT_ENTITY,
    OWN_CONFIG,
    WandbService,
    translated,
)
from tracker_viz.trackers.wandb.snapshot import LISTED_AT_ONCE, STATES
from tracker_viz.trackers.wandb.writer import RunWriter
from tracker_viz.types import CapturePath, CaptureRef, RunRef

log = logging.getLogger(__name__)

JOB_TYPE = "trial"  # of a sweep's runs
RESULTS = "compare"  # job type of the run that holds what was made of a sweep


class WandbRun(Run):
    """One run. Methods may be called from several threads at once.

    Args:
        sdk_run: the client's object while this process writes the run; None for a run that is read,
            or resumed for writing.
        ours: tracker_viz created the run.
        joined: the run is the user's own, and their loop logs to it, too.
    """

    # A version costs about ten requests, one after the other, however many files it has: in a
    # backlog the more the better. While training goes on it is the seconds that count, for they are
    # what a preview has to wait.
    chunk = ChunkPolicy(captures=100, nbytes=256 << 20, seconds=30.0)

    def __init__(
        self,
        service: WandbService,
        ref: RunRef,
        *,
        sdk_run: Any = None,
        ours: bool = False,
        joined: bool = False,
    ) -> None:
        self._service, self._ref = service, ref
        self._sdk_run = sdk_run
        self._offline = sdk_run is not None and session.is_offline(sdk_run)
        self._writer = RunWriter(service, ref, sdk_run=sdk_run, ours=ours, joined=joined)
        self._store = CaptureStore(service, ref)
        self._uploads = CaptureUploads(service, ref)

    @property
    def ref(self) -> RunRef:
        return self._ref

    @property
    def online(self) -> bool:
        """False: captures stay in the spool until ``push``; everything else goes into W&B's own
        offline log, for ``wandb sync``."""
        return not self._offline

    def why_offline(self) -> str:
        directory = session.sync_directory(self._sdk_run)
        return (
            "wandb works offline in this process; first, where W&B can be reached: "
            f"wandb sync {directory}"
        )

    @property
    def resumed(self) -> bool:
        return self._writer.resumed

    @property
    def confirms_points(self) -> bool:
        return False  # the client's process sends them when it finds time

    @property
    def environment(self) -> Mapping[str, str]:
        return self._service.environment

    def info(self) -> RunInfo:
        if self._offline:
            state: RunState = "finished" if session.is_finished(self._sdk_run) else "running"
            return self._info(
                self._sdk_run.name or self._sdk_run.id, state, dict(self._sdk_run.config)
            )
        run = self._service.fetch_run(self._ref)
        return self._info(str(run.name), STATES.get(run.state, "running"), run.config)

    def _info(self, name: str, state: RunState, config: Mapping[str, Any]) -> RunInfo:
        noted = config.get(OWN_CONFIG)
        parent = noted.get("parent") if isinstance(noted, Mapping) else None
        plain = flatten({key: value for key, value in config.items() if key != OWN_CONFIG})
        return RunInfo(
            self._ref, name, state, plain, RunRef.from_stored(str(parent)) if parent else None
        )

    def url(self, artifact: str | None = None) -> str:
        entity, project, run_id = map(quote, self._ref.path.split("/"))
        page = f"{self._service.app_url}/{entity}/{project}/runs/{run_id}"
        return f"{page}/files/{quote(checked_artifact(artifact))}" if artifact is not None else page

    # -- writing -----------------------------------------------------------------------------------

    def put_captures(self, captures: Sequence[CapturePath]) -> None:
        if self._offline:
            raise TransientTrackerError(
                f"{self._ref} is offline: 'wandb sync {session.sync_directory(self._sdk_run)}', "
                "then 'tracker-viz push spool=<directory>'"
            )
        if not captures:
            return
        with self._writer.writing() as (sdk_run, _):
            self._uploads.upload(sdk_run, captures)

    def log_metrics(self, points: Sequence[MetricPoint]) -> None:
        with self._writer.writing() as (_, rows), translated(self._service.base_url, self._ref):
            rows.add(points)

    def shown_points(self, points: Sequence[MetricPoint]) -> frozenset[int]:
        if self._offline:
            return frozenset()
        return shown_points(self._service, self._ref, points)

    def set_summary(self, values: Mapping[str, float | int | str]) -> None:
        with self._writer.writing() as (sdk_run, _), translated(self._service.base_url, self._ref):
            sdk_run.summary.update(dict(values))

    def alert(self, kind: str, step: int, sentence: str) -> None:
        """Send an alert, which W&B passes on to where its user wants alerts, and tag the run."""
        with self._writer.writing() as (sdk_run, _), translated(self._service.base_url, self._ref):
            # Titles have at most 64 characters.
            sdk_run.alert(f"tracker_viz: {kind}"[:64], sentence, level="WARN")
            tags, tag = tuple(sdk_run.tags or ()), f"alarm: {kind}"
            if tag not in tags:
                sdk_run.tags = (*tags, tag)

    def put_file(self, file: Path, artifact: str) -> str:
        """Store a file in the run's Files tab, and if W&B can show it (a page, a picture) in a
        panel. Only the panel needs the run to be resumed."""
        link = self.url(artifact)
        with temporary_directory() as folder:
            named = folder / artifact
            named.parent.mkdir(parents=True, exist_ok=True)
            named.symlink_to(file.absolute())
            if self._offline:
                kept = Path(self._sdk_run.dir) / artifact
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(named, kept)
                self._sdk_run.save(str(kept), base_path=self._sdk_run.dir, policy="now", glob=False)
            else:
                run = self._service.fetch_run(self._ref)
                with translated(self._service.base_url, self._ref):
                    run.upload_file(str(named), root=str(folder))
            if has_panel(artifact):
                try:
                    self._show(file_key(artifact), panel_media(named))
                except RunActiveError as error:
                    log.warning(
                        "%s is among the files of the run; its panel appears "
                        "when it is uploaded again (%s)",
                        artifact,
                        error,
                    )
        return link

    def put_video(self, video: Path, *, layout: str, last_step: int) -> str:
        """Log the video as media under ``tracker_viz/<layout>``; one that is made again is a new
        version on the same key."""
        self._show(video_key(layout), video_media(video))
        return self.url()

    def put_live_video(self, video: Path, *, layout: str, last_step: int) -> str:
        return self.put_video(video, layout=layout, last_step=last_step)

    def put_table(self, rows: Sequence[Mapping[str, Cell]], name: str) -> str:
        """Show the table in a panel; for queries over many runs it is an artifact too."""
        table = table_media(rows, name)
        with self._writer.writing() as (sdk_run, shown):
            with translated(self._service.base_url, self._ref):
                store_table(sdk_run, table, table_key(name))
                shown.add_media(table_key(name), table)
            if not self._offline:
                self._uploads.wait(table_artifact(table))
        return self.url()

    def _show(self, key: str, media: Any) -> None:
        with self._writer.writing() as (_, rows), translated(self._service.base_url, self._ref):
            rows.add_media(key, media)

    def put_key_frames(self, frames: Sequence[tuple[int, Path]], layout: str) -> str:
        """Log a picture per training step; the panel's slider can use the metric
        ``tracker_viz/step``.

        Rows cannot be removed: a picture that the run shows already is left out, and one that
        changed becomes another row.
        """
        key, read, sdk_run = frames_key(layout), read_frames(frames), self._writer.current()
        shown = [] if self._offline else list(shown_frames(self._service, self._ref, key))
        shown += logged_frames(sdk_run, key) if sdk_run else []  # later than what the service shows
        last = {frame.step: frame for frame in shown}
        if changed := [frame for frame in read if last.get(frame.step) != frame]:
            with self._writer.writing() as (_, rows), translated(self._service.base_url, self._ref):
                rows.add_frames(key, read, changed)
            if self._writer.current() is None:
                await_frames(self._service, self._ref, key, changed)
        return self.url()

    def link_inputs(self, refs: Sequence[RunRef]) -> None:
        """Link runs as used artifacts, which needs no resuming; runs that are not on this service
        are named in the config."""
        if self._offline:
            raise TransientTrackerError(
                f"{self._ref} is offline, and W&B links runs on the server only"
            )
        lineage.link(self._service, self._ref, refs)

    def source_in_page(self, ref: RunRef, artifact: str) -> str | None:
        """Return None: W&B's panels show the runs of a group side by side themselves, and a page in
        one reaches no other run's files."""
        return None

    def guards_files(self, ref: RunRef, artifact: str) -> bool:
        return True

    def results_run(self) -> WandbRun:
        """Return a run of job type ``compare`` in the sweep's group, where W&B shows it beside the
        sweep's runs; this run is not in the group."""
        return results_run(self._service, self._ref, self.info().name)

    def sibling_options(self) -> Mapping[str, Any]:
        entity, project, _ = self._ref.path.split("/")
        known = None if entity == DEFAULT_ENTITY else entity
        return {"project": project, "entity": known, "base_url": self._service.base_url}

    def set_parent(self, parent: RunRef) -> None:
        """Put the run into the sweep's group; one that the user's code put into another group gets
        a tag. Both work offline too."""
        parent_id = parent.path.rpartition("/")[2]
        with self._writer.writing() as (sdk_run, _), translated(self._service.base_url, self._ref):
            session.add_to_group(sdk_run, parent_id, otherwise=_sweep_tag(parent_id))
            noted = {**(sdk_run.config.get(OWN_CONFIG) or {}), "parent": str(parent)}
            sdk_run.config.update({OWN_CONFIG: noted}, allow_val_change=True)

    def clear_captures(self) -> None:
        if not self._offline:
            self._store.clear()

    def finish(self, state: RunState) -> None:
        self._writer.finish(state)

    # -- reading -----------------------------------------------------------------------------------

    def list_captures(self) -> list[CaptureRef]:
        return [] if self._offline else self._store.list()

    def fetch(self, ref: CaptureRef, directory: Path) -> Path:
        return self._store.fetch(ref, directory)

    def list_files(self) -> list[str]:
        """List the Files tab; videos are media, in a folder of the client's own."""
        run = self._service.fetch_run(self._ref)
        with translated(self._service.base_url, self._ref):
            return sorted(
                file.name for file in run.files(per_page=LISTED_AT_ONCE) if "/" not in file.name
            )

    def get_file(self, artifact: str, directory: Path) -> Path:
        checked_artifact(artifact)
        target = directory / artifact
        run = self._service.fetch_run(self._ref)
        with translated(self._service.base_url, self._ref):
            found = [file for file in run.files([artifact]) if file.name == artifact]
            if not found:
                raise TrackerError(f"{self._ref} has no file {artifact!r}")
            what = f"{artifact} of {self._ref}"
            check_size(found[0].size, max_bytes=MAX_FILE_BYTES, what=what)
            with torn_directory(target) as folder:
                part = folder / target.name
                download(self._service, found[0], part, max_bytes=MAX_FILE_BYTES, what=what)
                part.replace(target)
        return target

    def children(self) -> list[RunRef]:
        if self._offline:
            return []
        entity, project, run_id = self._ref.path.split("/")
        api = self._service.api()
        runs: dict[str, Any] = {}
        with translated(self._service.base_url, self._ref):
            for filters in ({"group": run_id}, {"tags": {"$in": [_sweep_tag(run_id)]}}):
                for run in api.runs(f"{entity}/{project}", filters=filters):
                    runs[run.id] = run

        trials = [run.id for run in runs.values() if run.job_type != RESULTS and run.id != run_id]
        return [RunRef("wandb", f"{entity}/{project}/{trial}") for trial in trials]


def results_run(service: WandbService, sweep: RunRef, name: str) -> WandbRun:
    """Return the run of job type ``compare`` in the group of a sweep, created where it is not there
    yet.

    Args:
        name: of the sweep.
    """
    service.require_online(sweep)
    entity, project, sweep_id = sweep.path.split("/")
    results_id = legal_name("", sweep_id, f"-{RESULTS}")
    ref = RunRef("wandb", f"{entity}/{project}/{results_id}")
    if live := session.live_run(ref):
        return WandbRun(service, ref, sdk_run=live, ours=True)
    try:
        session.require_unwritten(service.fetch_run(ref), ref)
    except RunNotFoundError:
        sdk_run = session.start(
            service,
            settings={},
            entity=entity,
            project=project,
            id=results_id,
            name=f"{RESULTS} {name}",
            config={OWN_CONFIG: {"parent": str(sweep)}},
            group=sweep_id,
            job_type=RESULTS,
            mode="online",
        )
        return WandbRun(service, ref, sdk_run=sdk_run, ours=True)
    return WandbRun(service, ref, ours=True)


def _sweep_tag(parent_id: str) -> str:
    return f"sweep:{parent_id}"[: session.TAG_CHARACTERS]
