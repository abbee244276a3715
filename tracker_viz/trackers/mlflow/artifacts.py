"""Store and read the files of one MLflow run, wherever its artifact store is: in a directory of
this machine, behind the server, or with a third party such as S3.

``run.py`` decides which files there are. Transfers go through MLflow's own client for the store.
"""

from __future__ import annotations

import posixpath
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri

from tracker_viz.errors import NoSuchFileError, TrackerError
from tracker_viz.files import (
    TORN,
    copy_atomically,
    remove_torn,
    torn_prefix,
    write_atomically,
)
from tracker_viz.trackers.mlflow.errors import artifact_errors, http_status
from tracker_viz.types import RunRef

MAX_READ_BYTES = 256 << 20


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

    def put(self, file: Path, artifact: str) -> None:
        root = self._local_root()
        if root is not None:
            # MLflow's own copy is neither whole at once nor synced, and the spool drops what is
            # stored.
            copy_atomically(file, root / artifact)
            return
        folder, name = posixpath.split(artifact)
        if file.name == name:
            self._upload(file, folder)
            return
        with tempfile.TemporaryDirectory(prefix="tracker_viz-") as directory:
            # The client names an artifact after its file; a link gives it the name without a copy.
            link = Path(directory, name)
            link.symlink_to(file.absolute())
            self._upload(link, folder)

    def put_bytes(self, contents: bytes, artifact: str) -> None:
        with tempfile.TemporaryDirectory(prefix="tracker_viz-") as directory:
            file = Path(directory, posixpath.basename(artifact))
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
            tempfile.TemporaryDirectory(prefix="tracker_viz-") as directory,
            self.downloaded(artifact, Path(directory)) as part,
        ):
            return self._contents(part, artifact, max_bytes)

    def _contents(self, file: Path, artifact: str, max_bytes: int) -> bytes:
        nbytes = file.stat().st_size
        if nbytes > max_bytes:
            raise TrackerError(
                f"{artifact} of {self._ref} has {nbytes:,} bytes; at most {max_bytes:,} are read"
            )
        return file.read_bytes()

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
    def downloaded(self, artifact: str, directory: Path) -> Iterator[Path]:
        """Download a file under a temporary name, which is deleted after the block unless it was
        moved."""
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=directory, prefix=torn_prefix(), suffix=TORN
        ) as temporary:
            part = Path(temporary, posixpath.basename(artifact))
            with self._conversation(f"download {artifact}"):
                try:
                    with self._store_errors():
                        # Its public neighbour lists the folder first, draws a progress bar and
                        # starts a thread pool for every file.
                        self._repository._download_file(artifact, str(part))
                except Exception as error:
                    if http_status(error) != 404:
                        raise
                    raise NoSuchFileError(f"{self._ref} has no file {artifact!r}") from None
            yield part

    def _upload(self, file: Path, folder: str) -> None:
        with self._store_errors():
            self._repository.log_artifact(str(file), folder or None)

    def _store_errors(self) -> AbstractContextManager[None]:
        """Translate errors of a store that clients reach directly; those that the server passes on
        are translated by the conversation around."""
        return (
            nullcontext()
            if self._artifact_uri.startswith("mlflow-artifacts:")
            else artifact_errors(self._artifact_uri)
        )

    @property
    def _repository(self) -> Any:
        """The store's own client: MlflowClient would ask for the run again before every file."""
        with self._making:
            if self._repository_made is None:
                self._repository_made = get_artifact_repository(
                    self._artifact_uri, tracking_uri=self._uri
                )
            return self._repository_made

    def _local_root(self) -> Path | None:
        """Return the directory of the run's artifacts if it is on this machine; None if the store
        is reached through a client.

        Raises:
            TrackerError: it is a directory of the server's machine. MLflow's client would write to
                the same path here.
        """
        if not is_local_uri(self._artifact_uri):
            return None
        root = Path(local_file_uri_to_path(self._artifact_uri))
        # <artifact root>/<experiment>/<run>/artifacts are all made on first use; what the root lies
        # in is there before.
        above = root.parents[min(3, len(root.parents) - 1)]
        if self._uri.startswith("http") and not above.is_dir():
            raise TrackerError(
                f"{self._ref} keeps its files in the directory {root}, which this machine does not "
                "have; start that server with "
                "--serve-artifacts and --artifacts-destination, so that it passes them on"
            )
        return root
