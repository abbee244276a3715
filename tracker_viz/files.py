"""File operations that survive a kill, a full disk, and a reader beside the writer."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import filelock

from tracker_viz.errors import ConfigError, TrackerError, TransientTrackerError

# Errors of a file system that lacks an operation
_NOT_THERE = frozenset(
    {errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK}
)
MAX_JSON_BYTES = 64 << 20
MAX_LINES_BYTES = 512 << 20
MAX_HEADER_BYTES = 16 << 20
TORN = ".partial"
# Half-written files of other hosts, whose processes are not seen here, are removed at this age.
TORN_AFTER_S = 86_400.0
# Temporary directories are removed at this age, if their process is dead.
LEFT_AFTER_S = 600.0


def user_path(path: str | Path) -> Path:
    """Return a path that a user typed as an absolute one, with ``~`` as the home directory.

    Raises:
        ConfigError: it is relative, and the working directory was deleted.
    """
    expanded = home_expanded(path)
    return expanded if expanded.is_absolute() else working_directory() / expanded


def home_expanded(path: str | Path) -> Path:
    # Unlike Path.expanduser, this leaves ~name as it is where there is no such user.
    return Path(os.path.expanduser(path))


def working_directory() -> Path:
    """Return the directory that this process works in.

    Raises:
        ConfigError: it was deleted.
    """
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise ConfigError(
            "the directory that this process works in was deleted; change to another one, or pass "
            "absolute paths (spool=/..., output=/...)"
        ) from None


def default_cache() -> Path:
    """Return ``$TRACKER_VIZ_CACHE``, else ``tracker_viz`` in the user's cache directory."""
    named = os.environ.get("TRACKER_VIZ_CACHE")
    if named:
        return home_expanded(named)
    named = os.environ.get("XDG_CACHE_HOME")
    if named:
        return home_expanded(named) / "tracker_viz"
    try:
        return Path.home() / ".cache" / "tracker_viz"
    except RuntimeError:
        # A user id without an entry in passwd and without HOME, as in containers
        return Path(tempfile.gettempdir(), f"tracker_viz-{os.getuid()}")


def write_atomically(contents: bytes, path: Path) -> None:
    """Put ``contents`` at ``path`` whole or not at all, and on the disk before this returns."""
    with written_atomically(path) as file:
        file.write(contents)


@contextmanager
def written_atomically(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write to. After the block it is at ``path``, whole and on the disk; if the
    block raises, nothing is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=torn_prefix(), suffix=TORN)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # Some network file systems let nobody change modes; the file is whole without.
        _tolerate(lambda: os.chmod(temporary, 0o644))
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    # The rename itself is durable only once the directory is.
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        # Some file systems sync no directories: their renames are as durable as they get.
        _tolerate(lambda: os.fsync(directory))
    finally:
        os.close(directory)


def _tolerate(call: Callable[[], None]) -> None:
    """Call what a file system may not have; other errors, such as a full disk, are raised."""
    try:
        call()
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise


@contextmanager
def locked(path: Path, *, timeout_s: float) -> Iterator[None]:
    """Hold a lock between processes.

    Raises:
        ConfigError: the file system has no locks.
        filelock.Timeout: another process has it for longer.
    """
    lock = filelock.FileLock(path)
    with locks_explained(path):
        lock.acquire(timeout=timeout_s)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def locks_explained(path: Path) -> Iterator[None]:
    """Say what to do where a file system has no locks."""
    try:
        yield
    except (OSError, NotImplementedError) as error:
        is_timeout = isinstance(error, filelock.Timeout)
        if is_timeout or (isinstance(error, OSError) and error.errno not in _NOT_THERE):
            raise
        raise ConfigError(
            f"the file system of {path.parent} has no file locks ({error}), which "
            "protect files from two processes at once: choose a directory on a "
            "local disk (spool=/tmp/..., "
            "tracking_uri=sqlite:////tmp/.../mlflow.db, hydra.sweep.dir=...), or "
            "mount it with locks"
        ) from error


@contextmanager
def temporary_directory() -> Iterator[Path]:
    """Yield a directory in the system's place for temporary ones, removed after the block. What
    killed processes left there goes before, once in a process."""
    _remove_left_behind()
    with tempfile.TemporaryDirectory(prefix=f"tracker_viz-{_host()}-{os.getpid()}-") as directory:
        yield Path(directory)


@functools.cache
def _remove_left_behind() -> None:
    """Remove temporary directories of this user's processes on this host that are dead. Young ones
    stay: their process may be of another container, whose numbers are not seen here."""
    for left in Path(tempfile.gettempdir()).glob(f"tracker_viz-{_host()}-*-*"):
        with contextlib.suppress(OSError, ValueError):
            about = left.lstat()
            is_ours = about.st_uid == os.getuid()
            is_old = time.time() - about.st_mtime > LEFT_AFTER_S
            if is_ours and is_old and not is_alive(int(left.name.split("-")[2])):
                shutil.rmtree(left)


@contextmanager
def torn_directory(beside: Path) -> Iterator[Path]:
    """Yield a directory for what is renamed to ``beside`` once it is whole, removed after the
    block."""
    directory = make_torn_directory(beside.parent)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def make_torn_directory(parent: Path) -> Path:
    """Make a directory for half-written files; see ``torn_prefix``."""
    parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=parent, prefix=torn_prefix(), suffix=TORN))


def torn_prefix() -> str:
    """Return how the name of a half-written file or directory begins; it ends in ``TORN``.

    The leading dot and the suffix keep what a kill left half-written out of every listing of
    captures; host and process let ``remove_torn`` see that nobody works on it any more.
    """
    return f".{_host()}-{os.getpid()}-"


def remove_torn(directory: Path) -> None:
    """Remove what killed processes left half-written below ``directory``. Others may be at work in
    there: theirs stays, unless it is a day old."""
    for torn in directory.rglob(f".*{TORN}"):
        # Somebody else removed it, or has to.
        with contextlib.suppress(OSError):
            if not _is_torn(torn):
                continue
            if torn.is_dir():
                shutil.rmtree(torn)
            else:
                torn.unlink()


def _is_torn(path: Path) -> bool:
    named = re.match(r"\.([0-9a-f]{8})-(\d+)-", path.name)
    if named and named[1] == _host() and not is_alive(int(named[2])):
        return True
    return time.time() - path.stat().st_mtime > TORN_AFTER_S


@functools.cache
def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def is_alive(pid: int) -> bool:
    """Return whether a process of this machine has this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass  # somebody else's
    return True


def copy_atomically(source: Path, target: Path) -> None:
    """Copy so that ``target`` is either whole and on the disk, or not there."""
    try:
        with written_atomically(target) as copy, source.open("rb") as original:
            shutil.copyfileobj(original, copy, 1 << 20)
    except OSError as error:
        raise TransientTrackerError(
            f"cannot write {target} ({error}); is the disk full or away?"
        ) from error


def append_lines(lines: Sequence[str], path: Path) -> None:
    """Add whole lines to a file and sync it; a last line that a kill cut off is ended first."""
    text = "".join(f"{line}\n" for line in lines).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        if not _ends_a_line(file):
            text = b"\n" + text
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _ends_a_line(file: BinaryIO) -> bool:
    """Return whether a file is empty, or its last line is whole."""
    if not file.seek(0, os.SEEK_END):
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the JSON objects of a file of lines, without lines that a kill cut off; none where
    there is no file."""
    if not path.is_file():
        return []
    objects = []
    for line in _contents(path, MAX_LINES_BYTES).splitlines():
        try:
            objects.append(parsed_object(line, path))
        except TrackerError:
            continue
    return objects


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        TransientTrackerError: the disk is away.
        TrackerError: the file is not there, is too big, or holds something else.
    """
    return parsed_object(_contents(path, MAX_JSON_BYTES), path)


def _contents(path: Path, max_bytes: int) -> bytes:
    try:
        nbytes = path.stat().st_size
        if nbytes > max_bytes:
            raise TrackerError(f"{path} has {nbytes:,} bytes; at most {max_bytes:,} are read")
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise TrackerError(f"{path} cannot be read ({error}); expected a JSON object") from error
    except OSError as error:
        raise TransientTrackerError(f"{path} cannot be read now ({error})") from error


def parsed_json(contents: str | bytes, where: object, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Parse JSON that came from elsewhere.

    Args:
        where: what messages call it.

    Raises:
        TrackerError: it is no JSON, is nested too deeply, or has more than ``max_bytes``.
    """
    if len(contents) > max_bytes:
        raise TrackerError(
            f"{where} has {len(contents):,} bytes of JSON; at most {max_bytes:,} are read"
        )
    try:
        return json.loads(contents)
    except (ValueError, RecursionError) as error:
        raise TrackerError(f"{where} cannot be read ({error}); expected JSON") from error


def parsed_object(
    contents: str | bytes, where: object, max_bytes: int = MAX_JSON_BYTES
) -> dict[str, Any]:
    """Parse a JSON object; see ``parsed_json``."""
    found = parsed_json(contents, where, max_bytes)
    if not isinstance(found, dict):
        raise TrackerError(f"{where} must hold a JSON object; it holds {type(found).__name__}")
    return found


def check_tensor_header(path: Path) -> None:
    """Check that the header of a safetensors file is of a size that may be parsed: the library
    takes twenty times its bytes in memory for it.

    Raises:
        ValueError: it is not.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        nbytes = int.from_bytes(file.read(8), "little")
    if nbytes > min(MAX_HEADER_BYTES, path.stat().st_size):
        raise ValueError(
            f"{path} says that its header has {nbytes:,} bytes; one has at most "
            f"{MAX_HEADER_BYTES:,}, and is part of the file"
        )


def write_json(values: Mapping[str, Any], path: Path) -> None:
    """Write one JSON object, whole or not at all; values that JSON lacks (paths, dtypes) become
    text."""
    text = json.dumps(values, indent=2, sort_keys=True, default=str)
    write_atomically((text + "\n").encode(), path)
