"""Write and read one MLflow run through ``MlflowClient``, by its id. Created by ``tracker.py``.

Captures are under ``captures/``, with our own index beside them (``capture_index.py``): a client
that dies during an upload leaves a truncated file that the server lists like any other.
"""

from __future__ import annotations

import logging
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow

from tracker_viz.capture_file import REPAIR, check_file
from tracker_viz.errors import (
    CaptureFileError,
    NoSuchFileError,
    RunNotFoundError,
    TrackerError,
)
from tracker_viz.files import copy_atomically
from tracker_viz.stored import IndexEntry
from tracker_viz.trackers import capture_index
from tracker_viz.trackers.base import Run
from tracker_viz.trackers.bounded import TooManyBytesError
from tracker_viz.trackers.mlflow import logged, media, note, search, service
from tracker_viz.trackers.mlflow.artifacts import ArtifactStore
from tracker_viz.trackers.mlflow.errors import mlflow_errors
from tracker_viz.trackers.mlflow.limits import MAX_TAG_CHARACTERS
from tracker_viz.trackers.mlflow.run_note import RunNote
from tracker_viz.trackers.redaction import without_userinfo
from tracker_viz.trackers.values import (
    Cell,
    ChunkPolicy,
    MetricPoint,
    RunInfo,
    RunState,
    checked_artifact,
    checked_columns,
)
from tracker_viz.types import CapturePath, CaptureRef, RunRef

log = logging.getLogger(__name__)

PROBE_AFTER_S = 2.0
PARENT_TAG = "mlflow.parentRunId"

# The UI shows no tag whose name begins with "mlflow.": so it hides what only we read.
KEY_TAG = "mlflow.tracker_viz.key"
_SWEEP_TAG = "mlflow.tracker_viz.parentRunId"
# Where runs of version 0.1.0 have them.
OLD_KEY_TAG = "tracker_viz.key"

MAX_ENTRY_BYTES = 1 << 20
_STATES: dict[str, RunState] = {
    "RUNNING": "running",
    "SCHEDULED": "running",
    "FINISHED": "finished",
    "FAILED": "failed",
    "KILLED": "killed",
}


class MlflowRun(Run):
    """One run. ``ours``: tracker_viz created it, so ``finish`` ends it."""

    chunk = ChunkPolicy(captures=16, nbytes=128 << 20, seconds=1.0)

    def __init__(
        self,
        client: mlflow.MlflowClient,
        uri: str,
        run: mlflow.entities.Run,
        *,
        ours: bool,
        ui_url: str | None,
    ) -> None:
        self._client = client
        self._uri = uri
        self._run_id: str = run.info.run_id
        self._experiment_id: str = run.info.experiment_id
        self._files = ArtifactStore(uri, run.info.artifact_uri, self.ref, self._service)
        self._ours = ours
        self._ui_url = ui_url
        self._spoken = time.monotonic()
        self._resumed = False
        self._workspace = service.current_workspace()
        self._note = RunNote(
            client, self._files, self.ref, self._experiment_id, self._workspace, self._service
        )

    @property
    def ref(self) -> RunRef:
        return RunRef("mlflow", self._run_id)

    @property
    def resumed(self) -> bool:
        return self._resumed

    @property
    def environment(self) -> Mapping[str, str]:
        known = {
            "tracking_uri": without_userinfo(self._uri),
            "ui_url": self._ui_url,
            "workspace": self._workspace,
        }
        return {name: value for name, value in known.items() if value}

    def info(self) -> RunInfo:
        run = existing_run(self._client, self._uri, self._run_id)
        parent = run.data.tags.get(_SWEEP_TAG) or run.data.tags.get(PARENT_TAG)
        return RunInfo(
            ref=self.ref,
            name=run.info.run_name or self._run_id,
            state=_STATES.get(run.info.status, "finished"),
            config=logged.stored_config(self._files, run) | dict(run.data.params),
            parent=RunRef("mlflow", parent) if parent else None,
        )

    def url(self, artifact: str | None = None) -> str:
        """Return the link. For a store without a server it opens while ``ui_command`` runs."""
        base = service.ui_base(self._uri, self._ui_url)
        return service.run_link(
            base,
            self._experiment_id,
            self._run_id,
            checked_artifact(artifact) if artifact else None,
            workspace=self._workspace,
        )

    @property
    def ui_command(self) -> str | None:
        return service.ui_command(self._uri, self._ui_url)

    # -- writing -----------------------------------------------------------------------------------

    def ensure_store(self) -> None:
        """Check before any training that the artifact store can be used: its client's package, its
        credentials, its bucket.

        Raises:
            MissingDependencyError, TrackerError: it cannot.
        """
        self._listed()

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Show as parameters what was chosen, and store the whole configuration as a file.

        MLflow lists all parameters above every picture, so empty and default values are left out. A
        parameter can never be changed: those that the run has are left alone.
        """
        with self._service("log the config"):
            logged.put_config(self._client, self._files, self._run_id, config)

    def put_captures(self, captures: Sequence[CapturePath]) -> None:
        with self._service("store captures"):
            # MLflow takes artifacts for a deleted run without a word, and nobody would find them.
            existing_run(self._client, self._uri, self._run_id)
            for capture in captures:
                self._files.put(capture.path, f"{capture_index.CAPTURES}/{capture.ref.file_name}")
                # The entry comes last: what is listed was stored whole.
                entry = capture_index.entry_text(capture.ref, time.time())
                name = capture_index.entry_name(capture.ref)
                self._files.put_bytes(entry.encode(), f"{capture_index.INDEX}/{name}")

    def log_metrics(self, points: Sequence[MetricPoint]) -> None:
        with self._service("log metrics"):
            logged.put_points(self._client, self._run_id, points)

    def set_summary(self, values: Mapping[str, float | int | str]) -> None:
        with self._service("set the summary"):
            logged.put_summary(self._client, self._run_id, values)

    def alert(self, kind: str, step: int, sentence: str) -> None:
        """Set a tag by which runs are found, and say it in the run's note."""
        with self._service("tag the run with an alarm"):
            self._client.set_tag(
                self._run_id,
                f"{note.ALARM_TAG}{kind}",
                sentence[:MAX_TAG_CHARACTERS],
                synchronous=True,
            )
        self._note.refresh()

    def put_file(self, file: Path, artifact: str) -> str:
        with self._service(f"store {checked_artifact(artifact)}"):
            self._files.put(file, artifact)
        if note.is_noted(artifact):
            self._note.refresh()
        return self.url(artifact)

    def put_table(self, rows: Sequence[Mapping[str, Cell]], name: str) -> str:
        checked_columns(rows, name)
        artifact = checked_artifact(f"tables/{name}.json")
        with self._service(f"store the table {name}"):
            media.put_table(self._client, self._files, self._run_id, rows, artifact)
        return self.url(artifact)

    def put_key_frames(self, frames: Sequence[tuple[int, Path]], layout: str) -> str:
        with self._service(f"store the key frames of {layout}"):
            media.put_key_frames(self._client, self._files, self._run_id, frames, layout)
        return self.url()

    def link_inputs(self, refs: Sequence[RunRef]) -> None:
        """Store the references in a file, in a tag that can be searched for, and as links in the
        run's note."""
        self._note.link_inputs(refs)

    def source_in_page(self, ref: RunRef, artifact: str) -> str | None:
        """Return the address from which the UI itself loads files. A page in its sandbox may play
        them, whatever their run, but not fetch them."""
        if ref.scheme != "mlflow":
            return None
        base = service.ui_base(self._uri, self._ui_url)
        return urllib.parse.urlsplit(base).path.rstrip("/") + _file_address(
            ref, checked_artifact(artifact)
        )

    def guards_files(self, ref: RunRef, artifact: str) -> bool:
        return service.is_guarded(
            self._uri, self._ui_url, _file_address(ref, checked_artifact(artifact))
        )

    def sibling_options(self) -> Mapping[str, Any]:
        with self._service("find the run's experiment"):
            experiment = self._client.get_experiment(self._experiment_id).name
        return {"tracking_uri": self._uri, "experiment": experiment, "ui_url": self._ui_url}

    def set_parent(self, parent: RunRef) -> None:
        with self._service("note the sweep above the run"):
            tags = self._client.get_run(self._run_id).data.tags
            theirs = tags.get(PARENT_TAG, parent.path)
            # MLflow shows one parent of a run; the user's own nesting is what they look for.
            tag = PARENT_TAG if theirs == parent.path else _SWEEP_TAG
            self._client.set_tag(self._run_id, tag, parent.path, synchronous=True)

    def restart(self) -> None:
        """Show the run as running again, for a process that continues it."""
        with self._service("restart the run"):
            self._client.update_run(self._run_id, status="RUNNING")
        self._resumed = True

    def clear_captures(self) -> None:
        with self._service("remove captures"):
            self._files.remove(capture_index.CAPTURES)

    def remove_torn(self) -> None:
        self._files.remove_torn()

    def finish(self, state: RunState) -> None:
        if not self._ours:
            return
        status = next(name for name, ours in _STATES.items() if ours == state)
        with self._service("end the run"):
            if self._client.get_run(self._run_id).info.status != status:
                with service.no_printed_links():
                    self._client.set_terminated(self._run_id, status)

    # -- reading -----------------------------------------------------------------------------------

    def list_captures(self) -> list[CaptureRef]:
        return self._listed()[0]

    def missing(self, refs: Sequence[CaptureRef]) -> list[CaptureRef]:
        listed, nbytes = self._listed()
        return capture_index.missing_refs(refs, listed, nbytes)

    def fetch(self, ref: CaptureRef, directory: Path) -> Path:
        artifact = f"{capture_index.CAPTURES}/{ref.file_name}"
        here = self._files.in_place(artifact)
        if here is not None:
            check_file(here, ref)
            return here
        target = directory / ref.file_name
        try:
            check_file(target, ref)
        except CaptureFileError:
            try:
                with self._files.downloaded(artifact, directory, max_bytes=ref.nbytes) as part:
                    check_file(part, ref, where=self.ref)
                    part.replace(target)
            except TooManyBytesError as error:
                raise CaptureFileError(f"{error}, as its index says; {REPAIR}") from None
            except NoSuchFileError as error:
                raise CaptureFileError(
                    f"capture {ref.file_name} is listed, but its file is gone ({error}); {REPAIR}"
                ) from None
        return target

    def list_files(self) -> list[str]:
        with self._service("list files"):
            return sorted(self._files.sizes(""))

    def get_file(self, artifact: str, directory: Path) -> Path:
        target = directory / checked_artifact(artifact)
        here = self._files.in_place(artifact)
        if here is not None:
            if not here.is_file():
                raise NoSuchFileError(f"{self.ref} has no file {artifact!r}")
            copy_atomically(here, target)
            return target
        with self._files.downloaded(artifact, target.parent) as part:
            part.replace(target)
        return target

    def children(self) -> list[RunRef]:
        with self._service("find the runs of this sweep"):
            children = search.child_runs(self._client, self._run_id, (PARENT_TAG, _SWEEP_TAG))
        return [RunRef("mlflow", run_id) for run_id in children]

    def _listed(self) -> tuple[list[CaptureRef], dict[str, int | None]]:
        with self._service("list captures"):
            files = self._files.sizes(capture_index.CAPTURES)
            entries = list(self._files.sizes(capture_index.INDEX))
        return capture_index.refs_by_step(entries, files, self._newest), files

    def _newest(self, refs: list[CaptureRef]) -> CaptureRef:
        def written(ref: CaptureRef) -> float:
            name = f"{capture_index.INDEX}/{capture_index.entry_name(ref)}"
            contents = self._files.read(name, max_bytes=MAX_ENTRY_BYTES)
            try:
                return IndexEntry.read(contents, name).time
            except TrackerError:
                return 0.0

        return max(refs, key=written)

    @contextmanager
    def _service(self, doing: str) -> Iterator[None]:
        """Talk to the service, after a check that it answers if the last call was a while ago."""
        if time.monotonic() - self._spoken > PROBE_AFTER_S:
            service.ensure_reachable(self._uri)
        with mlflow_errors(self._uri, doing):
            yield
        self._spoken = time.monotonic()


def existing_run(client: mlflow.MlflowClient, uri: str, run_id: str) -> mlflow.entities.Run:
    try:
        with mlflow_errors(uri, f"open run {run_id}"):
            run = client.get_run(run_id)
    except RunNotFoundError as error:
        raise RunNotFoundError(
            f"mlflow:{run_id} is not in {without_userinfo(uri)}; is that the right service "
            f"(tracking_uri=...)? ({error})"
        ) from None
    if run.info.lifecycle_stage == "deleted":
        with mlflow_errors(uri, f"open run {run_id}"):
            experiment = client.get_experiment(run.info.experiment_id)
        if experiment.lifecycle_stage == "deleted":
            undone = f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
            raise RunNotFoundError(
                f"mlflow:{run_id} was deleted with its experiment {experiment.name!r}; bring both "
                f"back with: {undone}"
            )
        raise RunNotFoundError(
            f"mlflow:{run_id} was deleted; bring it back with: mlflow runs restore --run-id "
            f"{run_id}"
        )
    return run


def _file_address(ref: RunRef, artifact: str) -> str:
    """Return the address from which the UI loads a file, below its own."""
    return f"/get-artifact?{urllib.parse.urlencode({'path': artifact, 'run_uuid': ref.path})}"
