"""Keep the note on a run's page up to date with its files, and with the runs that it was made from.
Called by ``MlflowRun``; what the note says is ``note.py``'s."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager

import mlflow
from mlflow.exceptions import MlflowException

from tracker_viz.errors import ConfigError, TrackerError, TransientTrackerError
from tracker_viz.files import parsed_json
from tracker_viz.trackers.mlflow import note, service
from tracker_viz.trackers.mlflow.artifacts import ArtifactStore
from tracker_viz.trackers.mlflow.limits import MAX_TAG_CHARACTERS
from tracker_viz.types import RunRef

log = logging.getLogger(__name__)

_INPUTS_TAG = "mlflow.tracker_viz.inputs"
# Where runs of version 0.1.0 have them.
_OLD_INPUTS_TAG = "tracker_viz.inputs"
_INPUTS = "compare/inputs.json"


class RunNote:
    """The note of the run ``ref``.

    Args:
        files: the run's.
        conversation: ``with conversation("list files"):`` translates the client's errors into ours.
    """

    def __init__(
        self,
        client: mlflow.MlflowClient,
        files: ArtifactStore,
        ref: RunRef,
        experiment_id: str,
        workspace: str | None,
        conversation: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self._client = client
        self._files = files
        self._ref = ref
        self._experiment_id = experiment_id
        self._workspace = workspace
        self._conversation = conversation
        self._names: dict[RunRef, str] = {}

    def put(self, markdown: str) -> bool:
        """Show ``markdown`` on the run's overview page, unless a person wrote or edited the note
        there. Return whether it is shown."""
        with self._conversation("write the run's note"):
            there = self._client.get_run(self._ref.path).data.tags.get(note.TAG)
            if there and not note.is_ours(there):
                return False
            self._client.set_tag(
                self._ref.path,
                note.TAG,
                note.signed(markdown[: MAX_TAG_CHARACTERS - 100]),
                synchronous=True,
            )
        return True

    def refresh(self) -> None:
        """Write what the run's files say now."""
        written: str | None = None
        while True:
            with self._conversation("list what the note shows"):
                files = [*self._files.names(""), *self._files.names(note.COMPARED)]
                tags = self._client.get_run(self._ref.path).data.tags
                text = note.run_note(
                    files,
                    run_id=self._ref.path,
                    link=self._relative_link,
                    head_table=self._text_of(note.HEAD_TABLE, files),
                    event_table=self._text_of(note.EVENT_TABLE, files),
                    verified=self._text_of(note.VERIFIED, files),
                    compared=self._text_of(note.COMPARED_TABLE, files),
                    inputs=self._inputs(tags),
                    alarms=note.alarms_in(tags),
                )
            # Another process that draws the same run may have put a picture and its note here since
            # the files were listed.
            if text == written or not self.put(text):
                return
            written = text

    def link_inputs(self, refs: Sequence[RunRef]) -> None:
        """Store the runs that this one was made from, and refresh; see ``Run.link_inputs``."""
        texts = list(map(str, refs))
        with self._conversation("link what this was made of"):
            self._files.put_bytes(json.dumps(texts).encode(), _INPUTS)
            tag = json.dumps(texts)[:MAX_TAG_CHARACTERS]
            self._client.set_tag(self._ref.path, _INPUTS_TAG, tag, synchronous=True)
        self.refresh()

    def _text_of(self, artifact: str, files: Collection[str]) -> str | None:
        return self._files.read(artifact).decode(errors="replace") if artifact in files else None

    def _inputs(self, tags: Mapping[str, str]) -> dict[RunRef, str]:
        """Return the runs whose captures this one was made from, with their names."""
        if not {_INPUTS_TAG, _OLD_INPUTS_TAG} & tags.keys():
            return {}
        try:
            texts = parsed_json(self._files.read(_INPUTS), _INPUTS)
            refs = [RunRef.from_stored(str(text)) for text in texts]
        except TransientTrackerError:
            raise
        except (TrackerError, ConfigError, TypeError) as error:
            # Somebody removed or changed it, which must not keep a video out of the run.
            log.warning("%s of %s is left out: %s", _INPUTS, self._ref, error)
            return {}
        names = {ref: self._name_of(ref) for ref in refs[: note.MAX_RUNS]}
        return {ref: names.get(ref, str(ref)) for ref in refs}

    def _name_of(self, ref: RunRef) -> str:
        if ref.scheme != self._ref.scheme:
            return str(ref)
        if ref not in self._names:
            try:
                self._names[ref] = self._client.get_run(ref.path).info.run_name or ref.path
            except MlflowException:
                self._names[ref] = ref.path[:8]  # of another service, or gone for good
        return self._names[ref]

    def _relative_link(self, artifact: str) -> str:
        """Return a link that works wherever the UI is served."""
        link = service.run_link(
            "", self._experiment_id, self._ref.path, artifact, workspace=self._workspace
        )
        return link.lstrip("/")
