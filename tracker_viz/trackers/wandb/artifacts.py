"""Upload captures as W&B artifacts, list them, and download them.

A chunk of captures is one version of the collection ``captures-<run id>``, type
``tracker-viz-capture``. Each run has its own collection and each file name contains the step,
because W&B's digest covers paths and contents only and must never take two steps for one. The
metadata has each file's size and sha256 as one text with a line per file, so that a run is listed
without a download.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb
from wandb.sdk.artifacts.exceptions import WaitTimeoutError

from tracker_viz.capture_file import MAX_FILE_BYTES, check_file
from tracker_viz.errors import CaptureFileError, ConfigError, TrackerError, TransientTrackerError
from tracker_viz.files import torn_directory
from tracker_viz.trackers.bounded import TooManyBytesError
from tracker_viz.trackers.wandb.download import download
from tracker_viz.trackers.wandb.service import AWAY, WandbService, translated
from tracker_viz.types import CapturePath, CaptureRef, RunRef, capture_step

log = logging.getLogger(__name__)

ARTIFACT_TYPE = "tracker-viz-capture"
LISTED_AT_ONCE = 100
MAX_NAME_CHARACTERS = 128

# Patience with one upload: a fixed part, and what its bytes take over a slow line.
UPLOAD_S = 60.0
UPLOAD_BYTES_PER_S = 250_000

_METADATA_KEY = "captures"


def capture_artifact(run_id: str, captures: Sequence[CapturePath]) -> wandb.Artifact:
    """Return a version that is still to be logged. Its files are read where they are, without a
    copy in the user's cache."""
    artifact = wandb.Artifact(
        legal_name("captures-", run_id),
        type=ARTIFACT_TYPE,
        description="tracker_viz captures; see them with 'tracker-viz render'",
        metadata={_METADATA_KEY: to_text([capture.ref for capture in captures])},
    )
    for capture in captures:
        artifact.add_file(
            str(capture.path.absolute()),
            name=capture.ref.file_name,
            policy="immutable",
            skip_cache=True,
        )
    return artifact


def legal_name(prefix: str, run_id: str, suffix: str = "") -> str:
    """Return the name of something that belongs to one run, as W&B takes it for artifacts.

    Artifact names have at most 128 letters, digits, ``_``, ``-`` and ``.``; run ids may hold nearly
    anything. An id that fits stays as it is, any other is abbreviated and gets its hash, so that
    two runs never share a name.
    """
    name = f"{prefix}{run_id}{suffix}"
    if re.fullmatch(r"[A-Za-z0-9_.-]+", name) and len(name) <= MAX_NAME_CHARACTERS:
        return name

    digest = hashlib.sha256(run_id.encode()).hexdigest()[:16]
    room = MAX_NAME_CHARACTERS - len(f"{prefix}-{digest}{suffix}")
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "_", run_id)[:room]
    return f"{prefix}{readable}-{digest}{suffix}"


def to_text(refs: Iterable[CaptureRef]) -> str:
    """Return lines such as ``step-00000100.safetensors 1048576 <sha256>``."""
    return "\n".join(f"{ref.file_name} {ref.nbytes} {ref.sha256}" for ref in refs)


def from_text(text: Any) -> list[CaptureRef]:
    """Parse what ``to_text`` wrote, in text that came from a server.

    Raises:
        ConfigError: a line has another form, or does not name a capture.
    """
    refs = []
    for line in str(text).splitlines():
        match line.split(" "):
            case [name, nbytes, sha256] if _is_size(nbytes):
                refs.append(CaptureRef(capture_step(name), name, int(nbytes), sha256))
            case _:
                raise ConfigError(
                    f"a capture is listed as '<file name> <bytes> <sha256>'; got {line[:200]!r}"
                )
    return refs


def _is_size(text: str) -> bool:
    # Python turns no text of thousands of digits into a number.
    return text.isdecimal() and len(text) <= 12 and int(text) <= MAX_FILE_BYTES


class CaptureUploads:
    """Uploads captures into one run."""

    def __init__(self, service: WandbService, ref: RunRef) -> None:
        self._service = service
        self._ref = ref
        self._under_way: dict[tuple[Any, frozenset[CaptureRef]], wandb.Artifact] = {}

    def upload(self, sdk_run: Any, captures: Sequence[CapturePath]) -> None:
        """Upload captures, see ``base.Run.put_captures``; ``sdk_run`` is the client's run, open for
        writing."""
        chunk = frozenset(capture.ref for capture in captures)
        # An upload that an earlier call gave up waiting for is still under way: a second copy would
        # only wait in the queue after it.
        artifact = self._under_way.get((sdk_run, chunk))
        if artifact is None:
            artifact = capture_artifact(self._ref.path.rpartition("/")[2], captures)
            with translated(self._service.base_url, self._ref):
                sdk_run.log_artifact(artifact)
            self._under_way[sdk_run, chunk] = artifact
        self.wait(artifact, sum(ref.nbytes for ref in chunk))
        del self._under_way[sdk_run, chunk]

    def wait(self, artifact: wandb.Artifact, nbytes: int = 0) -> None:
        """Wait until the service has committed the version: nothing counts as uploaded before."""
        try:
            artifact.wait(timeout=int(UPLOAD_S + nbytes / UPLOAD_BYTES_PER_S))
        except (WaitTimeoutError, *AWAY) as error:
            raise TransientTrackerError(
                f"W&B at {self._service.shown_url} has not confirmed {artifact.name} yet"
            ) from error
        except ValueError as error:
            # The client gave up on it: the next call starts afresh.
            self._under_way = {
                key: other for key, other in self._under_way.items() if other is not artifact
            }
            raise upload_error(error, artifact.name, self._service.shown_url) from error


def upload_error(error: ValueError, what: str, base_url: str) -> TrackerError:
    """Translate the client's message about an upload that failed for good: a refusal by the
    service, or an outage that outlasted the client's patience."""
    status = re.search(r"\berror (\d{3})\b", str(error))
    text = " ".join(str(error).split())[:300]
    if status and status[1].startswith("4") and status[1] not in {"408", "429"}:
        return TrackerError(f"W&B at {base_url} refused {what}: {text}")
    return TransientTrackerError(f"W&B at {base_url} did not take {what}: {text}")


class CaptureStore:
    """One run's captures on the server. Methods may be called from several threads at once."""

    def __init__(self, service: WandbService, ref: RunRef) -> None:
        self._service = service
        self._ref = ref
        self._versions: dict[CaptureRef, Any] = {}
        self._files: dict[str, dict[str, Any]] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def list(self) -> list[CaptureRef]:
        """Return the captures ordered by step, each step once: the one that was stored last."""
        holders: dict[int, tuple[CaptureRef, Any]] = {}
        for artifact in capture_versions(self._service, self._ref):
            holders |= {ref.step: (ref, artifact) for ref in _refs(artifact)}
        with self._lock:
            self._versions |= dict(holders.values())
        return [holders[step][0] for step in sorted(holders)]

    def clear(self) -> None:
        """Delete every version."""
        for artifact in capture_versions(self._service, self._ref):
            with translated(self._service.base_url, self._ref):
                artifact.delete(delete_aliases=True)
        with self._lock:
            self._versions.clear()
            self._files.clear()

    def fetch(self, ref: CaptureRef, directory: Path) -> Path:
        """Download a capture, see ``base.Run.fetch``."""
        target = directory / ref.file_name
        try:
            check_file(target, ref)
        except CaptureFileError:
            pass  # not here yet, or not whole
        else:
            return target
        with torn_directory(target) as folder:
            try:
                self._download(ref, folder)
            except (CaptureFileError, TransientTrackerError):
                # Links are signed and run out in a long pull, and a damaged capture may have been
                # put again since it was listed.
                self._forget(ref)
                self._download(ref, folder)
            (folder / ref.file_name).replace(target)
        return target

    def _download(self, ref: CaptureRef, folder: Path) -> None:
        file = self._file(ref)
        if file.size != ref.nbytes:
            raise CaptureFileError(
                f"capture {ref.file_name} has {file.size:,} bytes in {self._ref} where "
                f"{ref.nbytes:,} were written"
            )
        with translated(self._service.base_url, self._ref):
            part, what = folder / ref.file_name, f"{ref.file_name} of {self._ref}"
            try:
                download(self._service, file, part, max_bytes=ref.nbytes, what=what)
            except TooManyBytesError as error:
                raise CaptureFileError(f"{error}, as its index says") from None
        check_file(part, ref)

    def _file(self, ref: CaptureRef) -> Any:
        """Return the server's file. All files of a version are listed by one request."""
        if ref not in self._versions:
            self.list()
        with self._lock:
            artifact = self._versions.get(ref)
            if artifact is None:
                raise CaptureFileError(
                    f"{self._ref} does not hold {ref.file_name} with sha256 {ref.sha256}; list its "
                    "captures again"
                )
            lock = self._locks.setdefault(artifact.id, threading.Lock())
        with lock:
            if artifact.id not in self._files:
                with translated(self._service.base_url, self._ref):
                    self._files[artifact.id] = {
                        file.name: file for file in artifact.files(per_page=LISTED_AT_ONCE)
                    }
            files = self._files[artifact.id]
        if ref.file_name not in files:
            raise CaptureFileError(f"{artifact.name} lists {ref.file_name} but does not contain it")
        return files[ref.file_name]

    def _forget(self, ref: CaptureRef) -> None:
        with self._lock:
            artifact = self._versions.pop(ref, None)
            if artifact is not None:
                self._files.pop(artifact.id, None)


def capture_versions(service: WandbService, ref: RunRef) -> list[wandb.Artifact]:
    """Return the committed versions of a run's captures, oldest first."""
    run = service.fetch_run(ref)
    with translated(service.base_url, ref):
        logged = []
        for artifact in run.logged_artifacts(per_page=LISTED_AT_ONCE):
            if artifact.type == ARTIFACT_TYPE:
                logged.append(artifact)
    whole = [artifact for artifact in logged if artifact.state == "COMMITTED"]
    return sorted(whole, key=lambda artifact: int(artifact.version.removeprefix("v")))


def _refs(artifact: Any) -> list[CaptureRef]:
    """Return the captures that one version's metadata lists; none for a version that somebody else
    wrote."""
    metadata: Mapping[str, Any] = artifact.metadata
    try:
        return from_text(metadata[_METADATA_KEY])
    except (KeyError, ConfigError) as error:
        log.warning("%s is left out: its metadata lists no captures (%s)", artifact.name, error)
        return []
