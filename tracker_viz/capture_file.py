"""Write a Capture to one safetensors file and read it back. Called by the spool when writing, by
the pipeline and the renderer when reading.

The arrays are plain safetensors tensors; everything else is one JSON object under the metadata key
``tracker_viz``, with minimum, maximum and quantiles of every array, so that a color scale over a
whole run needs no array at all. A file is never trusted: dtypes, sizes, the schema and every name
are checked before anything is allocated.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from tracker_viz.errors import CaptureFileError, SchemaError, TrackerError
from tracker_viz.files import check_tensor_header, parsed_object, write_atomically
from tracker_viz.stored import ModelDescription, ProbeDescription, Stored
from tracker_viz.types import QUANTILES, ArrayInfo, Capture, CaptureHeader, CaptureRef

ArrayKey = str | tuple[str, int]

SCHEMA_VERSION = 1
MAX_FILE_BYTES = 4 << 30
MAX_ARRAYS = 100_000

_METADATA_KEY = "tracker_viz"
# Errors that a damaged or forged description raises while it is read
_NOT_A_CAPTURES = (KeyError, TypeError, ValueError, AttributeError, OverflowError, TrackerError)
_ARRAY_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_-]+)*")
_DTYPES = {"F16": "float16", "F32": "float32"}
# Every finite float16, rising, and its bit pattern: counting patterns gives exact quantiles without
# sorting an array.
_FLOAT16 = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float64)
_RISING = np.argsort(_FLOAT16, kind="stable")
_RISING = _RISING[np.isfinite(_FLOAT16[_RISING])]
_RISING_VALUES = _FLOAT16[_RISING]


def compact(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array as float16 where that holds its range, else as float32.

    float16 keeps 11 significant bits between 6.1e-5 and 65504; an array whose largest entry is
    above 65504, or below 1e-3 and not 0, becomes float32. NaN and infinities are kept as they are.
    """
    array = np.asarray(array)
    if array.dtype == np.float16:
        return array
    largest = float(max(array.max(initial=0.0), -array.min(initial=0.0)))
    if not math.isfinite(largest):
        largest = float(np.abs(array[np.isfinite(array)]).max(initial=0.0))
    if largest == 0.0 or 1e-3 <= largest <= 65504.0:
        return array.astype(np.float16)
    return array.astype(np.float32)


def write(capture: Capture, path: Path) -> CaptureRef:
    """Write one capture so that ``path`` either holds all of it or does not exist: temporary file,
    fsync, rename.

    Raises:
        CaptureFileError: an array is not float16/float32, or its name is not dotted letters,
            digits, ``_`` and ``-``.
        OSError: the file cannot be written.
    """
    contents = to_bytes(capture)
    write_atomically(contents, path)
    return CaptureRef(capture.step, path.name, len(contents), hashlib.sha256(contents).hexdigest())


def to_bytes(capture: Capture) -> bytes:
    """Return the bytes of a safetensors file; the same capture gives the same bytes."""
    arrays, described = {}, {}
    for name in sorted(capture.arrays):
        array = np.ascontiguousarray(capture.arrays[name])
        _check_array(name, array.dtype.name)
        arrays[name] = array
        described[name] = _describe(array, capture.axes.get(name))
    metadata = {
        "schema": SCHEMA_VERSION,
        "step": capture.step,
        "tokens_seen": capture.tokens_seen,
        "metrics": {name: float(value) for name, value in capture.metrics.items()},
        "model": dict(capture.model),
        "probe": dict(capture.probe),
        "labels": {axis: list(names) for axis, names in capture.labels.items()},
        "arrays": described,
    }
    text = json.dumps(_without_nonfinite(metadata), sort_keys=True, allow_nan=False)
    return safetensors.numpy.save(arrays, {_METADATA_KEY: text})


def read_header(path: Path) -> CaptureHeader:
    """Return everything but the arrays' values.

    Raises:
        CaptureFileError: not a capture file, or damaged.
        SchemaError: written by a newer tracker_viz.
    """
    with _opened(path) as file:
        return _header(file, path)


def read(path: Path, names: Iterable[str] | None = None) -> Capture:
    """Return one capture, or only its arrays called ``names``; names that are not there are left
    out.

    Raises:
        CaptureFileError: not a capture file, or damaged.
        SchemaError: written by a newer tracker_viz.
    """
    with _opened(path) as file:
        if names is None:
            header = _header(file, path)
            chosen = list(header.arrays)
        else:
            wanted = dict.fromkeys(names)
            header = _header(file, path, wanted)
            chosen = [name for name in wanted if name in header.arrays]
        arrays = {name: file.get_tensor(name) for name in chosen}
    return header.capture(arrays)


def read_arrays(path: Path, keys: Iterable[ArrayKey]) -> dict[ArrayKey, NDArray[Any]]:
    """Return the arrays alone, of a file whose header was read before: checking that again takes
    longer than reading small arrays.

    Args:
        keys: names, or (name, row) for one row of an array's first axis; those that are not there
            are left out.

    Raises:
        CaptureFileError: not a whole safetensors file.
    """
    arrays: dict[ArrayKey, NDArray[Any]] = {}
    with _opened(path) as file:
        stored = set(file.keys())
        for key in keys:
            if isinstance(key, str):
                if key in stored:
                    arrays[key] = file.get_tensor(key)
                continue
            name, row = key
            if name in stored:
                arrays[key] = file.get_slice(name)[row]
    return arrays


def file_ref(path: Path, step: int) -> CaptureRef:
    """Return the ref of a capture file on this machine; reads all of it for the sha256."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return CaptureRef(step, path.name, path.stat().st_size, sha256)


REPAIR = "'tracker-viz push spool=<directory>' repairs it while the spool still has that step"


def check_file(path: Path, ref: CaptureRef, *, where: object = None) -> None:
    """Compare a file with its ref.

    Args:
        where: what messages name instead of a path that will be gone.

    Raises:
        CaptureFileError: it is not there, is a link, or has another size or sha256.
    """
    where = where or path
    gone = CaptureFileError(
        f"capture {ref.file_name} is listed, but its file is not there ({where}); {REPAIR}"
    )
    if path.is_symlink() or not path.is_file():
        raise gone
    try:
        # The size first: it spares hashing a large file.
        nbytes = path.stat().st_size
        if nbytes != ref.nbytes:
            raise CaptureFileError(
                f"capture {ref.file_name} has {nbytes:,} bytes where {ref.nbytes:,} were written "
                f"({where}); {REPAIR}"
            )
        sha256 = file_ref(path, ref.step).sha256
    except FileNotFoundError as error:
        raise gone from error  # another process delivered it at this moment
    if sha256 != ref.sha256:
        raise CaptureFileError(
            f"capture {ref.file_name} has another sha256 than when it was written ({where}); "
            f"{REPAIR}"
        )


@contextmanager
def _opened(path: Path) -> Any:
    try:
        nbytes = Path(path).stat().st_size
        if nbytes > MAX_FILE_BYTES:
            raise CaptureFileError(
                f"{path} has {nbytes:,} bytes; a capture file has at most {MAX_FILE_BYTES:,}"
            )
        check_tensor_header(Path(path))
        with safetensors.safe_open(str(path), framework="numpy") as file:
            yield file
    except ValueError as error:
        raise CaptureFileError(f"{error}; pull it again, or leave it out") from error
    except OSError as error:
        raise CaptureFileError(
            f"{path} cannot be read: {error}; pull it again, or leave it out"
        ) from error
    except safetensors.SafetensorError as error:
        raise CaptureFileError(
            f"{path} is not a whole safetensors file ({error}); pull it again, or leave it out"
        ) from error


def _header(file: Any, path: Path, names: Collection[str] | None = None) -> CaptureHeader:
    """Return the checked header.

    Args:
        names: describe these arrays alone: a model of 80 blocks has 600, and each picture reads
            some of them.
    """
    text = (file.metadata() or {}).get(_METADATA_KEY)
    if text is None:
        raise CaptureFileError(
            f"{path} has no {_METADATA_KEY!r} metadata: it is a safetensors file, but not a capture"
        )
    try:
        metadata = parsed_object(text, path)
        schema = int(metadata["schema"])
        if schema > SCHEMA_VERSION:
            raise SchemaError(
                f"{path} has capture schema {schema}; this tracker_viz reads up to "
                f"{SCHEMA_VERSION}: upgrade tracker_viz to read it"
            )
        stored = list(file.keys())
        if len(stored) > MAX_ARRAYS or set(stored) != set(metadata["arrays"]):
            raise CaptureFileError(
                f"{path} describes other arrays than it holds; pull it again, or leave it out"
            )
        arrays = {}
        for name in stored:
            if names is None or name in names:
                arrays[name] = _array_info(file, name, metadata["arrays"][name])
        tokens_seen = metadata["tokens_seen"]
        if tokens_seen is not None:
            tokens_seen = int(tokens_seen)
        return CaptureHeader(
            step=_step(metadata["step"]),
            arrays=arrays,
            labels={axis: tuple(map(str, each)) for axis, each in metadata["labels"].items()},
            tokens_seen=tokens_seen,
            metrics={name: _number(value) for name, value in metadata["metrics"].items()},
            model=_described(ModelDescription, metadata["model"]),
            probe=_described(ProbeDescription, metadata["probe"]),
        )
    except _NOT_A_CAPTURES as error:
        raise CaptureFileError(
            f"{path} has metadata that is not a capture's ({error!r}); pull it again, or leave it "
            "out"
        ) from error


def _described(kind: type[Stored], values: Any) -> dict[str, Any]:
    """Return a description as it was stored, after a check of what others read in it."""
    kind.of(values, "its description")
    return dict(values)


def _array_info(file: Any, name: str, described: Mapping[str, Any]) -> ArrayInfo:
    stored = file.get_slice(name)
    dtype = _DTYPES.get(stored.get_dtype(), stored.get_dtype())
    _check_array(name, dtype)
    shape = tuple(stored.get_shape())
    axes = tuple(map(str, described["axes"]))
    if len(axes) != len(shape):
        raise ValueError(f"array {name} has {len(shape)} axes, {len(axes)} are named")
    return ArrayInfo(
        shape=shape,
        dtype=dtype,
        axes=axes,
        minimum=_number(described["minimum"]),
        maximum=_number(described["maximum"]),
        quantiles=tuple(map(_number, described["quantiles"])),
        n_nonfinite=int(described["n_nonfinite"]),
    )


def _check_array(name: str, dtype: str) -> None:
    if not _ARRAY_NAME.fullmatch(name):
        raise CaptureFileError(
            "array names are dotted letters, digits, '_' and '-', like 'blocks.0.attn.pattern'; "
            f"got {name!r}"
        )
    if dtype not in _DTYPES.values():
        raise CaptureFileError(f"a capture holds float16 and float32 arrays; {name!r} is {dtype}")


def _describe(array: NDArray[Any], axes: tuple[str, ...] | None) -> dict[str, Any]:
    if axes is None:
        axes = tuple(f"axis_{index}" for index in range(array.ndim))
    if len(axes) != array.ndim:
        raise CaptureFileError(
            f"an array of shape {array.shape} needs {array.ndim} axis names; got {axes}"
        )
    values, n_up_to = _distribution(array)
    n_finite = int(n_up_to[-1:].sum())
    minimum, quantiles, maximum = None, [], None
    if n_finite:
        # The k-th smallest entry is the first value up to which there are k.
        ranks = [1, *np.ceil(np.multiply(QUANTILES, n_finite)), n_finite]
        minimum, *quantiles, maximum = values[np.searchsorted(n_up_to, ranks)].tolist()
    return {
        "axes": list(axes),
        "minimum": minimum,
        "maximum": maximum,
        "quantiles": quantiles,
        "n_nonfinite": int(array.size - n_finite),
    }


def _distribution(array: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the finite values, rising, and how many entries are at or below each."""
    if array.dtype == np.float16:
        counts = np.bincount(array.reshape(-1).view(np.uint16), minlength=1 << 16)
        return _RISING_VALUES, np.cumsum(counts[_RISING])
    values = np.sort(array[np.isfinite(array)].astype(np.float64))
    return values, np.arange(1, values.size + 1)


def _step(value: Any) -> int:
    step = int(value)
    if not 0 <= step < 10**12:
        raise ValueError(f"step {str(value)[:30]}")
    return step


def _number(value: Any) -> float:
    """Return a number as it was before ``_without_nonfinite``."""
    if value is None:
        return math.nan
    return float(value)


def _without_nonfinite(value: Any) -> Any:
    """Return ``value`` for JSON, which has no NaN and no infinity: NaN becomes null, an infinity
    text."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, float) and math.isinf(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _without_nonfinite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nonfinite(item) for item in value]
    return value
