"""Cache on disk what was learned from matplotlib and seaborn, for the next process.

    arrays = kept.recall("cells", key) or kept.keep("cells", key, learn())

Learning takes seconds, most of them to import seaborn. Everything here may be deleted at any time,
also while it is read; a file that is damaged or was made by other versions is learned again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import zipfile
import zlib
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.files import default_cache, home_expanded, write_atomically

Arrays = Mapping[str, NDArray[Any]]

MOST_BYTES = 64 << 20
_DRAWN_BY = ("matplotlib", "seaborn", "numpy")

log = logging.getLogger(__name__)


def directory() -> Path:
    """Return the directory of the cached files, which may not exist yet."""
    return default_cache() / ".drawn"


def recall(kind: str, key: str) -> Arrays | None:
    """Return the arrays that were kept under ``key``, or None."""
    path = _path(kind, key)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # what is used stays longest
    return arrays


def keep(kind: str, key: str, arrays: Arrays) -> Arrays:
    """Keep arrays under ``key`` and return them; where the disk takes nothing they are only
    returned."""
    contents = io.BytesIO()
    np.savez_compressed(contents, **arrays)  # type: ignore[arg-type]
    try:
        write_atomically(contents.getvalue(), _path(kind, key))
        _remove_oldest()
    except OSError as error:
        log.debug("not kept for the next time: %s", error)
    return arrays


def fonts() -> str | None:
    """Return a key that changes when matplotlib may find other fonts: the state of its font list.
    None if it has no list yet; texts are not kept then."""
    if os.environ.get("MPLCONFIGDIR"):
        places = [Path(os.environ["MPLCONFIGDIR"])]
    else:
        caches = home_expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
        places = [caches / "matplotlib", home_expanded("~/.matplotlib")]
    lists = []
    for place in places:
        for path in sorted(place.glob("fontlist*.json")):
            with contextlib.suppress(OSError):
                status = path.stat()
                lists.append((path.name, status.st_size, status.st_mtime_ns))
    return repr(lists) if lists else None


def _path(kind: str, key: str) -> Path:
    digest = hashlib.sha256(f"{_made_by()}\n{key}".encode()).hexdigest()
    return directory() / f"{kind}-{digest[:40]}.npz"


@cache
def _made_by() -> str:
    """Return a key that changes when the same plan could be drawn differently: the versions of the
    libraries that draw, and the hash of our own code."""
    versions = [f"{name} {metadata.version(name)}" for name in _DRAWN_BY]
    code = hashlib.sha256()
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        code.update(source.read_bytes())
    return " ".join([*versions, code.hexdigest()])


def _remove_oldest() -> None:
    """Remove what was used longest ago until the rest fits ``MOST_BYTES``."""
    found = []
    for path in directory().glob("*.npz"):
        with contextlib.suppress(FileNotFoundError):  # another process removed it
            status = path.stat()
            found.append((status.st_mtime, status.st_size, path))
    total = 0
    for _, nbytes, path in sorted(found, reverse=True):
        total += nbytes
        if total > MOST_BYTES:
            path.unlink(missing_ok=True)
