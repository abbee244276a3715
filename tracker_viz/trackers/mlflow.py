"""MLflow as a tracker: the embedded SQLite store, any server, any artifact store that its client knows.

Only the client interface with explicit run ids is used: the fluent one would set a finished run to running and rewrite its
end. Captures lie under ``captures/`` with our own index beside them (``index.py``): a client that dies half-way through an upload
leaves a cut file that the server lists like any other.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import posixpath
import re
import tempfile
import time
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.tracking.context.registry import resolve_tags

from tracker_viz import __version__
from tracker_viz.errors import CaptureFileError, ConfigError, RunNotFoundError, TrackerError
from tracker_viz.trackers import index, mlflow_note, mlflow_service
from tracker_viz.trackers.base import (
    Cell,
    ChunkPolicy,
    MetricPoint,
    RunInfo,
    RunState,
    checked_artifact,
    checked_columns,
    flatten,
    video_artifacts,
    without_userinfo,
)
from tracker_viz.trackers.local import REPAIR, check_file, copy_atomically
from tracker_viz.trackers.mlflow_service import mlflow_errors
from tracker_viz.trackers.mlflow_store import ArtifactStore, NoSuchFileError
from tracker_viz.types import CapturePath, CaptureRef, RunRef

log = logging.getLogger(__name__)

MAX_METRICS_A_CALL = 1000
MAX_PARAMS_A_CALL = 100
MAX_PARAM_CHARACTERS = 6000
MAX_TAG_CHARACTERS = 8000
MAX_NAME_CHARACTERS = 250
RUNS_A_PAGE = 1000
PROBE_AFTER_S = 2.0

_KEY_TAG = "tracker_viz.key"
_NOTE_TAG = "mlflow.note.content"
_SIGNATURE = "\n<!-- tracker_viz "
_PARENT_TAG = "mlflow.parentRunId"
_TABLES_TAG = "mlflow.loggedArtifacts"
_INPUTS_TAG = "tracker_viz.inputs"
_INPUTS = "compare/inputs.json"
_STATES: dict[str, RunState] = {
    "RUNNING": "running",
    "SCHEDULED": "running",
    "FINISHED": "finished",
    "FAILED": "failed",
    "KILLED": "killed",
}


class MlflowTracker:
    """One MLflow service.

    Args:
        tracking_uri: as MLflow has it; None takes what MLflow itself is set to, else ``mlflow.db`` where the program was started.
        experiment: name for new runs, made when it is not there; None: ``MLFLOW_EXPERIMENT_NAME``, ``MLFLOW_EXPERIMENT_ID``,
            ``mlflow.set_experiment``, else MLflow's own ``Default``.
        ui_url: address of the UI where it differs from the tracking URI, behind a proxy.

    Raises:
        ConfigError: the URI names a store that MLflow gave up, or none at all.
    """

    def __init__(self, tracking_uri: str | None = None, experiment: str | None = None, ui_url: str | None = None) -> None:
        self._told_uri = mlflow_service.absolute_uri(tracking_uri) if tracking_uri else None
        self._uri, self._experiment, self._experiment_id = mlflow_service.service_and_experiment(tracking_uri, experiment)
        self._ui_url = ui_url

    @property
    def options(self) -> Mapping[str, str]:
        told = {"tracking_uri": without_userinfo(self._uri), "experiment": self._experiment, "ui_url": self._ui_url}
        return {name: value for name, value in told.items() if value is not None}

    def create_run(
        self,
        *,
        name: str,
        config: Mapping[str, Any],
        tags: Mapping[str, str] | None = None,
        parent: RunRef | None = None,
        key: str | None = None,
    ) -> MlflowRun:
        mlflow_service.ensure_reachable(self._uri)
        mlflow_service.initialise_embedded(self._uri, self._experiment)
        client = mlflow_service.client(self._uri)
        with mlflow_errors(self._uri, "create a run"):
            experiment_id = self._experiment_id or _ensure_experiment(client, self._experiment or "Default")
            made = _find_by_key(client, experiment_id, key)
            if made is None:
                ours = (
                    {"tracker_viz.version": __version__} | ({_KEY_TAG: key} if key else {}) | ({_PARENT_TAG: parent.path} if parent else {})
                )
                told = {_legal_name(tag): str(value)[:MAX_TAG_CHARACTERS] for tag, value in (tags or {}).items()}
                made = client.create_run(experiment_id, run_name=name, tags=resolve_tags(told | ours))
            run = MlflowRun(client, self._uri, made, ours=True, ui_url=self._ui_url)
            run.log_config(config)
        return run

    def open_run(self, ref: RunRef, *, ours: bool = False) -> MlflowRun:
        mlflow_service.ensure_reachable(self._uri)
        database = mlflow_service.database_path(self._uri)
        if database and not database.is_file():
            raise RunNotFoundError(f"{ref} cannot be found: there is no database {database}; say where it is with tracking_uri=...")
        mlflow_service.initialise_embedded(self._uri, None)
        client = mlflow_service.client(self._uri)
        return MlflowRun(client, self._uri, _existing(client, self._uri, ref.path), ours=ours, ui_url=self._ui_url)

    def active_run(self) -> MlflowRun | None:
        active = mlflow.active_run()
        if active is None:
            return None
        fluent = mlflow_service.absolute_uri(mlflow.get_tracking_uri())
        if self._told_uri not in (None, fluent):
            log.warning(
                "the active MLflow run is in %s, not in %s: it is not joined", *map(without_userinfo, (fluent, str(self._told_uri)))
            )
            return None
        return self._joined(active)

    def join(self, live: Any) -> MlflowRun:
        if not isinstance(live, mlflow.entities.Run):
            raise ConfigError(f"an MLflow run is an mlflow.entities.Run, as mlflow.start_run() gives; got {type(live).__qualname__}")
        return self._joined(live)

    def _joined(self, live: mlflow.entities.Run) -> MlflowRun:
        # The run's object does not know its service; the fluent interface, which made it, does.
        uri = self._told_uri or mlflow_service.absolute_uri(mlflow.get_tracking_uri())
        client = mlflow_service.client(uri)
        return MlflowRun(client, uri, live, ours=False, ui_url=self._ui_url)


class MlflowRun:
    """One run. ``ours``: tracker_viz made it, so ``finish`` ends it."""

    chunk = ChunkPolicy(captures=16, nbytes=128 << 20, seconds=1.0)
    online = True

    def __init__(self, client: mlflow.MlflowClient, uri: str, run: mlflow.entities.Run, *, ours: bool, ui_url: str | None) -> None:
        self._client = client
        self._uri = uri
        self._run_id: str = run.info.run_id
        self._experiment_id: str = run.info.experiment_id
        self._files = ArtifactStore(uri, run.info.artifact_uri, self.ref, self._service)
        self._ours = ours
        self._ui_url = ui_url
        self._spoken = time.monotonic()

    @property
    def ref(self) -> RunRef:
        return RunRef("mlflow", self._run_id)

    @property
    def environment(self) -> Mapping[str, str]:
        return {"tracking_uri": without_userinfo(self._uri)} | ({"ui_url": self._ui_url} if self._ui_url else {})

    def info(self) -> RunInfo:
        run = _existing(self._client, self._uri, self._run_id)
        parent = run.data.tags.get(_PARENT_TAG)
        return RunInfo(
            ref=self.ref,
            name=run.info.run_name or self._run_id,
            state=_STATES.get(run.info.status, "finished"),
            config=dict(run.data.params),
            parent=RunRef("mlflow", parent) if parent else None,
        )

    def url(self, artifact: str | None = None) -> str:
        """For a store without a server this is the address that ``ui_command`` would serve."""
        base = mlflow_service.ui_base(self._uri, self._ui_url)
        return mlflow_service.run_link(base, self._experiment_id, self._run_id, checked_artifact(artifact) if artifact else None)

    @property
    def ui_command(self) -> str | None:
        return mlflow_service.ui_command(self._uri, self._ui_url)

    # -- writing --------------------------------------------------------------------------------------------

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Parameters can never be changed in MLflow, so those that the run has are left alone."""
        with self._service("log the config"):
            there = self._client.get_run(self._run_id).data.params
            params = {_legal_name(name): str(value)[:MAX_PARAM_CHARACTERS] for name, value in flatten(config).items()}
            new = [Param(name, value) for name, value in params.items() if name not in there]
            for batch in _batches(new, MAX_PARAMS_A_CALL):
                self._client.log_batch(self._run_id, params=batch)

    def put_captures(self, captures: Sequence[CapturePath]) -> None:
        with self._service("store captures"):
            # MLflow takes artifacts for a deleted run without a word, and nobody would find them.
            _existing(self._client, self._uri, self._run_id)
            for capture in captures:
                self._files.put(capture.path, f"{index.CAPTURES}/{capture.ref.file_name}")
                with tempfile.TemporaryDirectory(prefix="tracker_viz-") as directory:
                    # The entry comes last: what is listed was stored whole.
                    entry = Path(directory, index.entry_name(capture.ref))
                    entry.write_text(index.entry_text(capture.ref, time.time()))
                    self._files.put(entry, f"{index.INDEX}/{entry.name}")

    def log_metrics(self, points: Sequence[MetricPoint]) -> None:
        # A metric that is sent again with the same time is the same row to MLflow.
        metrics = [
            Metric(_legal_name(name), float(value), round((time.time() if point.time is None else point.time) * 1000), point.step)
            for point in points
            for name, value in point.values.items()
        ]
        with self._service("log metrics"):
            for batch in _batches(metrics, MAX_METRICS_A_CALL):
                self._client.log_batch(self._run_id, metrics=batch)

    def set_summary(self, values: Mapping[str, float | int | str]) -> None:
        """Numbers become metrics, by which MLflow's table sorts; text becomes tags."""
        with self._service("set the summary"):
            there = self._client.get_run(self._run_id).data
            now_ms = round(time.time() * 1000)
            numbers = {_legal_name(name): float(value) for name, value in values.items() if not isinstance(value, str)}
            texts = {_legal_name(name): value[:MAX_TAG_CHARACTERS] for name, value in values.items() if isinstance(value, str)}
            changed = [Metric(name, value, now_ms, 0) for name, value in numbers.items() if there.metrics.get(name) != value]
            tags = [RunTag(name, value) for name, value in texts.items() if there.tags.get(name) != value]
            for metrics in _batches(changed, MAX_METRICS_A_CALL):
                self._client.log_batch(self._run_id, metrics=metrics)
            for batch in _batches(tags, MAX_PARAMS_A_CALL):
                self._client.log_batch(self._run_id, tags=batch)

    def put_file(self, file: Path, artifact: str) -> str:
        with self._service(f"store {checked_artifact(artifact)}"):
            self._files.put(file, artifact)
        if mlflow_note.is_noted(artifact):
            self._refresh_note()
        return self.url(artifact)

    def put_video(self, video: Path, *, layout: str, last_step: int) -> str:
        stable, stepped = video_artifacts(layout, last_step, video.suffix)
        self.put_file(video, stepped)
        return self.put_file(video, stable)

    def put_table(self, rows: Sequence[Mapping[str, Cell]], name: str) -> str:
        """As ``MlflowClient.log_table`` has it, which would add rows to those of a table that is there."""
        columns = checked_columns(rows, name)
        artifact = checked_artifact(f"tables/{name}.json")
        cells = [[None if isinstance(cell, float) and not math.isfinite(cell) else cell for cell in row.values()] for row in rows]
        with self._service(f"store the table {name}"):
            self._files.put_bytes(json.dumps({"columns": columns, "data": cells}).encode(), artifact)
            tagged = json.loads(self._client.get_run(self._run_id).data.tags.get(_TABLES_TAG, "[]"))
            entry = {"path": artifact, "type": "table"}
            if entry not in tagged:
                self._client.set_tag(self._run_id, _TABLES_TAG, json.dumps([*tagged, entry]))
        return self.url(artifact)

    def put_key_frames(self, frames: Sequence[tuple[int, Path]], layout: str) -> str:
        """As images of the key ``layout``. MLflow keeps every image that it was ever given and shows the newest of a step."""
        from PIL import Image

        noted = checked_artifact(f"videos/{layout}/key_frames.json")
        with self._service("list the key frames"):
            there = json.loads(self._files.read(noted)) if noted in self._files.names(posixpath.dirname(noted)) else {}
        digests = {str(step): hashlib.sha256(picture.read_bytes()).hexdigest() for step, picture in frames}
        for step, picture in frames:
            if there.get(str(step)) != digests[str(step)]:
                with self._service("store a key frame"), Image.open(picture) as opened:
                    self._client.log_image(self._run_id, opened, key=layout, step=step)
        if not there.items() >= digests.items():
            with self._service("note the key frames"):
                self._files.put_bytes(json.dumps(there | digests).encode(), noted)
        return self.url()

    def link_inputs(self, refs: Sequence[RunRef]) -> None:
        """As a tag, and as links in the run's note."""
        text = json.dumps(list(map(str, refs)))
        with self._service("link what this was made of"):
            self._files.put_bytes(text.encode(), _INPUTS)
            shown = [str(ref) for ref in refs[: mlflow_note.MAX_INPUTS]]
            self._client.set_tag(self._run_id, _INPUTS_TAG, json.dumps(shown))
        self._refresh_note()

    def source_in_page(self, ref: RunRef, artifact: str) -> str | None:
        """As the UI itself fetches files; a page in its sandbox may play them, of whichever run, but not fetch them."""
        if ref.scheme != "mlflow":
            return None
        prefix = urllib.parse.urlsplit(mlflow_service.ui_base(self._uri, self._ui_url)).path.rstrip("/")
        return f"{prefix}/get-artifact?{urllib.parse.urlencode({'path': checked_artifact(artifact), 'run_uuid': ref.path})}"

    def results_run(self) -> MlflowRun:
        return self

    def finish(self, state: RunState) -> None:
        if not self._ours:
            return
        status = next(name for name, ours in _STATES.items() if ours == state)
        with self._service("end the run"):
            if self._client.get_run(self._run_id).info.status != status:
                with mlflow_service.no_printed_links():
                    self._client.set_terminated(self._run_id, status)

    def set_note(self, markdown: str) -> bool:
        """Show ``markdown`` on the run's overview page, unless somebody wrote or edited the note there; returns whether it is shown."""
        with self._service("write the run's note"):
            note = self._client.get_run(self._run_id).data.tags.get(_NOTE_TAG)
            if note and note != _signed(note.rpartition(_SIGNATURE)[0]):
                return False
            self._client.set_tag(self._run_id, _NOTE_TAG, _signed(markdown))
        return True

    def _refresh_note(self) -> None:
        with self._service("list what the note shows"):
            files = self._files.names("")
            inputs = [RunRef.parse(text) for text in json.loads(self._client.get_run(self._run_id).data.tags.get(_INPUTS_TAG, "[]"))]
        with tempfile.TemporaryDirectory(prefix="tracker_viz-") as directory:
            has_table = mlflow_note.HEAD_TABLE in files
            table = self.get_file(mlflow_note.HEAD_TABLE, Path(directory)) if has_table else None
            self.set_note(mlflow_note.run_note(files, run_id=self._run_id, link=self._relative_link, head_table=table, inputs=inputs))

    def _relative_link(self, artifact: str) -> str:
        """Works wherever somebody has the UI."""
        return mlflow_service.run_link("", self._experiment_id, self._run_id, artifact).lstrip("/")

    # -- reading --------------------------------------------------------------------------------------------

    def list_captures(self) -> list[CaptureRef]:
        return self._listed()[0]

    def missing(self, refs: Sequence[CaptureRef]) -> list[CaptureRef]:
        listed, nbytes = self._listed()
        whole = {ref for ref in listed if nbytes.get(ref.file_name, -1) in (None, ref.nbytes)}
        return [ref for ref in refs if ref not in whole]

    def fetch(self, ref: CaptureRef, directory: Path) -> Path:
        artifact = f"{index.CAPTURES}/{ref.file_name}"
        here = self._files.in_place(artifact)
        if here is not None:
            check_file(here, ref)
            return here
        target = directory / ref.file_name
        try:
            check_file(target, ref)
        except CaptureFileError:
            try:
                with self._files.downloaded(artifact, directory) as part:
                    check_file(part, ref)
                    part.replace(target)
            except NoSuchFileError as error:
                raise CaptureFileError(f"capture {ref.file_name} is listed, but its file is gone ({error}); {REPAIR}") from None
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
        found: list[RunRef] = []
        token = None
        with self._service("find the runs of this sweep"):
            while True:
                page = self._client.search_runs(
                    [self._experiment_id],
                    f"tags.`{_PARENT_TAG}` = '{self._run_id}'",
                    max_results=RUNS_A_PAGE,
                    order_by=["attributes.start_time ASC"],
                    page_token=token,
                )
                found += [RunRef("mlflow", run.info.run_id) for run in page]
                token = page.token
                if not token:
                    return found

    def _listed(self) -> tuple[list[CaptureRef], dict[str, int | None]]:
        with self._service("list captures"):
            files = self._files.sizes(index.CAPTURES)
            entries = list(self._files.sizes(index.INDEX))
        return index.refs_by_step(entries, files, self._newest), files

    def _newest(self, refs: list[CaptureRef]) -> CaptureRef:
        def written(ref: CaptureRef) -> float:
            try:
                return float(json.loads(self._files.read(f"{index.INDEX}/{index.entry_name(ref)}"))["time"])
            except (ValueError, KeyError, TypeError):
                return 0.0

        return max(refs, key=written)

    @contextmanager
    def _service(self, doing: str) -> Iterator[None]:
        """A conversation with the service, after a sign of life when the last one was a while ago."""
        if time.monotonic() - self._spoken > PROBE_AFTER_S:
            mlflow_service.ensure_reachable(self._uri)
        with mlflow_errors(self._uri, doing):
            yield
        self._spoken = time.monotonic()


def _ensure_experiment(client: mlflow.MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except mlflow.exceptions.MlflowException:
            # Another process made it between the two calls.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise TrackerError(
            f"the experiment {name!r} was deleted; choose another with experiment=..., or restore it: "
            f"mlflow experiments restore --experiment-id {found.experiment_id}"
        )
    return str(found.experiment_id)


def _existing(client: mlflow.MlflowClient, uri: str, run_id: str) -> mlflow.entities.Run:
    try:
        with mlflow_errors(uri, f"open run {run_id}"):
            run = client.get_run(run_id)
    except RunNotFoundError as error:
        raise RunNotFoundError(
            f"mlflow:{run_id} is not in {without_userinfo(uri)}; is that the right service (tracking_uri=...)? ({error})"
        ) from None
    if run.info.lifecycle_stage == "deleted":
        raise RunNotFoundError(f"mlflow:{run_id} was deleted; bring it back with: mlflow runs restore --run-id {run_id}")
    return run


def _find_by_key(client: mlflow.MlflowClient, experiment_id: str, key: str | None) -> mlflow.entities.Run | None:
    if key is None:
        return None
    if not re.fullmatch(r"[0-9a-f]{32}", key):
        raise ConfigError(f"a run's key is 32 hexadecimal digits; got {key!r}")
    found = client.search_runs([experiment_id], f"tags.`{_KEY_TAG}` = '{key}'", ViewType.ACTIVE_ONLY, max_results=1)
    return found[0] if found else None


def _signed(markdown: str) -> str:
    """A note that can be told from one that a person wrote or edited: a comment at its end, which no page shows, has its digest."""
    markdown = markdown[: MAX_TAG_CHARACTERS - 100]
    return f"{markdown}{_SIGNATURE}{hashlib.sha256(markdown.encode()).hexdigest()[:16]} -->"


def _legal_name(name: str) -> str:
    """A name as MLflow takes it for parameters, metrics and tags: letters, digits and ``_-. :/``, a plain relative path."""
    name = re.sub(r"[^\w.\- :/]", "_", str(name))[:MAX_NAME_CHARACTERS]
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return "/".join(parts) or "_"


def _batches(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    return (items[first : first + size] for first in range(0, len(items), size))
