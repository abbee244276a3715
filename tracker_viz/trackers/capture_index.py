"""The index of a run's captures: one small file per capture, whose *name* says its size and sha256.
Pure functions.

A tracker's own listing says neither hash nor whether an upload ended, so the adapters that store
plain files keep this index:

    captures/step-00000100.safetensors
    captures/index/step-00000100.1048576.<sha256>.json      {"step": 100, "time": 1700000000.0, ...}

Everything that a listing needs is in the names: a thousand captures are listed with two calls and
no download. A folder that was copied from one store to another stays readable.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from tracker_viz.capture_file import MAX_FILE_BYTES
from tracker_viz.errors import ConfigError
from tracker_viz.types import CaptureRef, capture_file_name

CAPTURES = "captures"
INDEX = "captures/index"

_ENTRY = re.compile(r"step-(\d{8,12})\.(\d{1,12})\.([0-9a-f]{64})\.json")


def entry_name(ref: CaptureRef) -> str:
    """Return ``step-00000100.1048576.<sha256>.json``."""
    return f"{PurePosixPath(ref.file_name).stem}.{ref.nbytes}.{ref.sha256}.json"


def entry_text(ref: CaptureRef, time: float) -> str:
    """Return the contents of an index entry. ``time``: seconds since 1970 at which the capture was
    taken."""
    entry = {
        "step": ref.step,
        "file": ref.file_name,
        "nbytes": ref.nbytes,
        "sha256": ref.sha256,
        "time": time,
    }
    return json.dumps(entry) + "\n"


def parse_entry(name: str) -> CaptureRef | None:
    """Parse an entry's name; None for a name that is not an entry's, and for a size that no capture
    has."""
    match = _ENTRY.fullmatch(name)
    if not match or int(match[2]) > MAX_FILE_BYTES:
        return None
    step = int(match[1])
    try:
        ref = CaptureRef(step, capture_file_name(step), int(match[2]), match[3])
    except ConfigError:
        return None
    return ref if entry_name(ref) == name else None


def refs_by_step(
    entry_names: Iterable[str],
    nbytes: Mapping[str, int | None],
    newest: Callable[[list[CaptureRef]], CaptureRef],
) -> list[CaptureRef]:
    """Return the captures ordered by step, each step once.

    Args:
        entry_names: names in the index folder; what is no entry is ignored.
        nbytes: file name -> size of the capture files that are there; None where the store does not
            say.
        newest: chooses among entries of one step that a size cannot tell apart (two writers, or a
            replaced capture).
    """
    entries: dict[int, list[CaptureRef]] = defaultdict(list)
    for ref in filter(None, map(parse_entry, entry_names)):
        entries[ref.step].append(ref)
    chosen = []
    for step in sorted(entries):
        fitting = []
        for ref in entries[step]:
            if nbytes.get(ref.file_name) in (None, ref.nbytes):
                fitting.append(ref)
        fitting = fitting or entries[step]
        chosen.append(fitting[0] if len(fitting) == 1 else newest(fitting))
    return chosen


def missing_refs(
    refs: Sequence[CaptureRef], listed: Iterable[CaptureRef], nbytes: Mapping[str, int | None]
) -> list[CaptureRef]:
    """Return those of ``refs`` that are not listed, or whose file is gone or has another size.

    Args:
        nbytes: as in ``refs_by_step``.
    """
    whole = {ref for ref in listed if nbytes.get(ref.file_name, -1) in (None, ref.nbytes)}
    return [ref for ref in refs if ref not in whole]
