"""Store and read the files of one MLflow run, wherever its artifact store is: in a directory of
this machine, behind the server, or with a third party such as S3.

``run.py`` decides which files there are. Transfers go through MLflow's own client for the store.
"""

from __future__ import annotations

import importlib.metadata
import os
import posixpath
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.rest_utils import augmented_raise_for_status, http_request
from mlflow.utils.uri import is_local_uri

from tracker_viz.capture_file import MAX_FILE_BYTES
from tracker_viz.errors import NoSuchFileError, TrackerError, TransientTrackerError
from tracker_viz.files import (
    copy_atomically,
    remove_torn,
    temporary_directory,
    torn_directory,
    user_path,
    write_atomically,
)
from tracker_viz.trackers.bounded import check_size, write_bounded
from tracker_viz.trackers.mlflow.errors import artifact_errors, http_status
from tracker_viz.trackers.redaction import without_userinfo
from tracker_viz.types import RunRef

MAX_READ_BYTES = 256 << 20
SHARED_VARIABLE = "TRACKER_VIZ_MLFLOW_ARTIFACTS"

_ON_THE_SERVER = frozenset({"mlflow-artifacts", "http", "https"})
# Not ftp, whose client has no time-out and sends passwords in the clear.
_STORES = frozenset(
    {"s3", "gs", "wasb", "wasbs", "abfs", "abfss", "dbfs", "hdfs", "viewfs", "r2", "b2", "sftp"}
)


class ArtifactStore:
    """The files of ``ref``, by their run-relative paths.

    Args:
        uri: the tracking service.
        artifact_uri: root of the run's artifacts, as the service has it.
        conversation: ``with conversation("download x"):`` translates the client's errors into ours.
    """

    def __init__(
        self,
        uri: str,
        artifact_uri: str,
        ref: RunRef,
        conversation: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self._uri = uri
        self._artifact_uri = artifact_uri
        self._ref = ref
        self._conversation = conversation
        self._repository_made: Any = None
        self._making = threading.Lock()
        self._was_there = False

    def put(self, file: Path, artifact: str) -> None:
        root = self._local_root()
        if root is not None:
            self._check_there(root)
            # MLflow's own copy is neither whole at once nor synced, and the spool drops what is
            # stored.
            copy_atomically(file, root / artifact)
            self._was_there = True
            return
        folder, name = posixpath.split(artifact)
        if file.name == name:
            self._upload(file, folder)
            return
        with temporary_directory() as directory:
            # The client names an artifact after its file; a link gives it the name without a copy.
            link = directory / name
            link.symlink_to(file.absolute())
            self._upload(link, folder)

    def _check_there(self, root: Path) -> None:
        """Check that a directory that this object wrote to is still there: where its disk was
        unmounted, an empty one would take files that nobody finds again.

        Raises:
            TransientTrackerError: it is not.
        """
        if self._was_there and not root.is_dir():
            raise TransientTrackerError(
                f"{root}, with the artifacts of {self._ref}, is not there: unmounted, or deleted"
            )

    def put_bytes(self, contents: bytes, artifact: str) -> None:
        with temporary_directory() as directory:
            file = directory / posixpath.basename(artifact)
            write_atomically(contents, file)
            self.put(file, artifact)

    def read(self, artifact: str, *, max_bytes: int = MAX_READ_BYTES) -> bytes:
        """Return the contents of a small file.

        Raises:
            NoSuchFileError: the run has none of that name.
            TrackerError: it is bigger than ``max_bytes``.
        """
        here = self.in_place(artifact)
        if here is not None:
            if not here.is_file():
                raise NoSuchFileError(f"{self._ref} has no file {artifact!r}")
            return self._contents(here, artifact, max_bytes)
        with (
            temporary_directory() as directory,
            self.downloaded(artifact, directory, max_bytes=max_bytes) as part,
        ):
            return self._contents(part, artifact, max_bytes)

    def _contents(self, file: Path, artifact: str, max_bytes: int) -> bytes:
        check_size(file.stat().st_size, max_bytes=max_bytes, what=self._what(artifact))
        return file.read_bytes()

    def _what(self, artifact: str) -> str:
        return f"{artifact} of {self._ref}"

    def sizes(self, folder: str) -> dict[str, int | None]:
        """Return file name -> bytes for the files in a folder; None where the store does not know a
        size."""
        self._local_root()
        with self._store_errors():
            found = self._repository.list_artifacts(folder or None)
        return {posixpath.basename(info.path): info.file_size for info in found if not info.is_dir}

    def names(self, folder: str) -> list[str]:
        """Return the run-relative paths of the files in a folder."""
        return [posixpath.join(folder, name) for name in self.sizes(folder)]

    def remove(self, folder: str) -> None:
        """Remove a folder with all that is in it, if it is there.

        Raises:
            TrackerError: the store's client cannot remove files.
        """
        root = self._local_root()
        if root is not None:
            shutil.rmtree(root / folder, ignore_errors=True)
            return
        try:
            with self._store_errors():
                self._repository.delete_artifacts(folder)
        except NotImplementedError as error:
            raise TrackerError(f"the store {self._artifact_uri} cannot remove files") from error

    def remove_torn(self) -> None:
        """Remove half-written files of killed processes, where the store is a directory here."""
        root = self._local_root()
        if root is not None:
            remove_torn(root)

    def in_place(self, artifact: str) -> Path | None:
        """Return the path of a file if the store is a directory of this machine; None if it must be
        downloaded.

        Raises:
            TrackerError: a link leads out of the store.
        """
        root = self._local_root()
        if root is None:
            return None
        path = root / artifact
        if not path.resolve().is_relative_to(root.resolve()):
            raise TrackerError(f"{path} leads out of the run's artifacts; it is not read")
        return path

    @contextmanager
    def downloaded(
        self, artifact: str, directory: Path, *, max_bytes: int = MAX_FILE_BYTES
    ) -> Iterator[Path]:
        """Download a file under a temporary name, which is deleted after the block unless it was
        moved.

        Raises:
            NoSuchFileError: the run has none of that name.
            TooManyBytesError: it is bigger than ``max_bytes``.
        """
        with torn_directory(directory / "part") as temporary:
            part = temporary / posixpath.basename(artifact)
            with self._conversation(f"download {artifact}"):
                try:
                    with self._store_errors():
                        self._download(artifact, part, max_bytes)
                except Exception as error:
                    if http_status(error) != 404:
                        raise
                    raise NoSuchFileError(f"{self._ref} has no file {artifact!r}") from None
            yield part

    def _download(self, artifact: str, part: Path, max_bytes: int) -> None:
        repository = self._repository
        if isinstance(repository, HttpArtifactRepository):
            self._stream(repository, artifact, part, max_bytes)
            return
        folder, name = posixpath.split(artifact)
        nbytes = self.sizes(folder).get(name)
        check_size(nbytes or 0, max_bytes=max_bytes, what=self._what(artifact))
        # Its public neighbor lists the folder first, draws a progress bar and starts a thread pool
        # for every file.
        repository._download_file(artifact, str(part))

    def _stream(
        self, repository: HttpArtifactRepository, artifact: str, part: Path, max_bytes: int
    ) -> None:
        """Download from a server that passes artifacts on. MLflow's own way takes whatever comes,
        and unpacks it."""
        with http_request(
            repository._host_creds,
            f"/{artifact}",
            "GET",
            stream=True,
            extra_headers={"Accept-Encoding": "identity"},
        ) as response:
            augmented_raise_for_status(response)
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise TrackerError(
                    f"{self._what(artifact)} arrived compressed, which was not "
                    "requested: not unpacked"
                )
            read = partial(response.raw.read, decode_content=False)
            write_bounded(read, part, max_bytes=max_bytes, what=self._what(artifact))

    def _upload(self, file: Path, folder: str) -> None:
        with self._store_errors():
            self._repository.log_artifact(str(file), folder or None)

    def _store_errors(self) -> AbstractContextManager[None]:
        """Translate errors of a store that clients reach directly; those that the server passes on
        are translated by the conversation around."""
        if self._artifact_uri.startswith("mlflow-artifacts:"):
            return nullcontext()
        return artifact_errors(self._artifact_uri)

    @property
    def _repository(self) -> Any:
        """The store's own client: MlflowClient would ask for the run again before every file."""
        with self._making:
            if self._repository_made is None:
                self._check_origin()
                self._repository_made = get_artifact_repository(
                    self._artifact_uri, tracking_uri=self._uri
                )
            return self._repository_made

    def _check_origin(self) -> None:
        """Check where the service says that the files are: the client sends its log-in there.

        Raises:
            TrackerError: that is another web server, or a store of a kind that is not used.
        """
        if self._local_root() is not None:
            return
        place = urlsplit(self._artifact_uri)
        shown = without_userinfo(self._artifact_uri)
        if place.scheme in _ON_THE_SERVER:
            if not self._is_trusted(place):
                raise TrackerError(
                    f"{self._ref} says that its files are at {shown}, another "
                    f"server than {without_userinfo(self._uri)}: nothing is read "
                    "there, and no credentials are sent. If it is correct, set "
                    f"{SHARED_VARIABLE}=<address of that server>"
                )
        elif place.scheme not in _STORES | _plugged_in_stores():
            raise TrackerError(
                f"{self._ref} says that its files are at {shown}; stores are one of "
                f"{', '.join(sorted(_STORES | _ON_THE_SERVER))}"
            )

    def _is_trusted(self, place: SplitResult) -> bool:
        """Return whether a web server is the tracking server, or one that the user named."""
        service = urlsplit(self._uri)
        if place.scheme == "mlflow-artifacts":
            place = place._replace(scheme=service.scheme, netloc=place.netloc or service.netloc)
        named = urlsplit(os.environ.get(SHARED_VARIABLE, ""))
        return _origin(place) in (_origin(service), _origin(named))

    def _local_root(self) -> Path | None:
        """Return the directory of the run's artifacts if it is on this machine; None if the store
        is reached through a client.

        Raises:
            TrackerError: a server names it. It would be of the server's machine, and MLflow's
                client would write to whatever path it says here.
        """
        if not is_local_uri(self._artifact_uri):
            return None
        root = Path(local_file_uri_to_path(self._artifact_uri))
        if is_local_uri(self._uri) or not self._uri.startswith(("http", "databricks", "uc")):
            return root
        shared = os.environ.get(SHARED_VARIABLE)
        if shared and root.resolve().is_relative_to(user_path(shared).resolve()):
            return root
        raise TrackerError(
            f"{self._ref} keeps its files in the directory {root}, according to "
            "the server; start the server with --serve-artifacts and "
            "--artifacts-destination, so that it serves them. If this machine "
            "shares the file system of that directory, set "
            f"{SHARED_VARIABLE}=<its artifact root>"
        )


def _origin(address: SplitResult) -> tuple[str, str]:
    return address.scheme, address.netloc.rpartition("@")[2].lower()


def _plugged_in_stores() -> frozenset[str]:
    """Return the URI schemes that other packages teach MLflow's client."""
    plugged_in = importlib.metadata.entry_points(group="mlflow.artifact_repository")
    return frozenset(entry.name for entry in plugged_in)
