"""Every kind of stored file with its reader, and ways to damage one: what ``test_damaged_files``
tries by the hundred, and ``benchmarks/faults.py fuzz`` by the hundred thousand."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from hypothesis import strategies as st

from tracker_viz import capture_file
from tracker_viz.capture.checkpoints import read_weights
from tracker_viz.delivery.journal import Journal
from tracker_viz.delivery.points import logged_points
from tracker_viz.delivery.spool import Spool
from tracker_viz.demo import checkpoint
from tracker_viz.files import read_json
from tracker_viz.metrics import ScoreSeries
from tracker_viz.metrics.score_file import read_score_file, score_bytes
from tracker_viz.stored import LatestCheckpoint, TimelineFile
from tracker_viz.trackers.capture_index import INDEX, entry_name, parse_entry
from tracker_viz.trackers.file_run import FileRun
from tracker_viz.trackers.local import LocalRun
from tracker_viz.trackers.mlflow.note import run_note
from tracker_viz.trackers.sweep import PARENTS_FILE, noted_parents
from tracker_viz.trackers.testing import make_capture
from tracker_viz.trackers.wandb.artifacts import from_text
from tracker_viz.types import CaptureRef

SHA256 = "ab" * 32
REF = {"step": 3, "file_name": "step-00000003.safetensors", "nbytes": 10, "sha256": SHA256}
ENTRY = CaptureRef(3, "step-00000003.safetensors", 10, SHA256)


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        name: where it lies, below a directory of its own.
        whole: the bytes of a valid one.
        read: reads it there, as its users do.
    """

    name: str
    whole: bytes
    read: Callable[[Path], object]

    @property
    def is_tensors(self) -> bool:
        return self.name.endswith(".safetensors")

    @property
    def is_json(self) -> bool:
        return self.name.endswith((".json", ".jsonl"))


def _capture() -> bytes:
    return capture_file.to_bytes(make_capture(3))


def _scores() -> bytes:
    series = ScoreSeries(
        steps=np.array([3]),
        heads={"sink": np.zeros((1, 1, 2), np.float32)},
        uniform={"sink": 0.1},
        tokens_seen=np.array([64.0]),
        metrics={"loss": np.array([1.0])},
    )
    refs = {3: CaptureRef(3, str(REF["file_name"]), 10, SHA256)}
    return score_bytes(series, refs, {"length": 8}, ["text"])


def _checkpoint() -> bytes:
    described = {"schema": 1, "step": 3, "config": {"model": {"n_blocks": 1}}}
    tensors = {"model.weight": torch.zeros(2, 2)}
    return safetensors.torch.save(tensors, {checkpoint._METADATA_KEY: json.dumps(described)})


def _note(**tables: str) -> str:
    return run_note(["overview.webm", *tables], run_id="r", link=str, **tables)  # type: ignore[arg-type]


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "replace")


def _of_spool(path: Path) -> None:
    spool = Spool(path.parent)
    spool.run.info()
    spool.destinations()
    spool.loop_metrics()
    spool.files()


def _lines(*objects: object) -> bytes:
    return "".join(f"{json.dumps(each)}\n" for each in objects).encode()


def _json(values: object) -> bytes:
    return json.dumps(values).encode()


def _read_capture(path: Path) -> None:
    header = capture_file.read_header(path)
    capture_file.read(path, list(header.arrays)[:1])
    capture_file.read(path)


_DESTINATION = {
    "name": "mlflow",
    "scheme": "mlflow",
    "options": {"tracking_uri": "http://a"},
    "ref": "mlflow:0123456789abcdef0123456789abcdef",
    "ours": True,
    "parent": None,
    "key": "0" * 32,
}
_RUN = {"schema": 1, "name": "a", "state": "running", "config": {"lr": 0.1}, "tags": {"a": "b"}}

KINDS = (
    Kind("step-00000003.safetensors", _capture(), _read_capture),
    Kind("heads.safetensors", _scores(), read_score_file),
    Kind("checkpoint/step-00000003.safetensors", _checkpoint(), checkpoint.read),
    Kind("weights/step-3.safetensors", _checkpoint(), read_weights),
    Kind(
        "shards/model.safetensors.index.json",
        _json({"metadata": {}, "weight_map": {"w": "model-1.safetensors"}}),
        lambda path: read_weights(path.parent),
    ),
    Kind(
        "run.json",
        _json({**_RUN, "destinations": [_DESTINATION], "files": ["a.txt"], "loop_metrics": ["x"]}),
        _of_spool,
    ),
    Kind(
        "sent/mlflow.jsonl",
        _lines({"captures": [REF]}, {"metrics": [REF["file_name"]]}, {"enqueued": []}),
        Journal,
    ),
    Kind(
        "points/metrics.jsonl",
        _lines({"step": 3, "time": 1.5, "loss": 2.0}, {"step": 4, "time": 2.5, "loss": 1.0}),
        lambda path: logged_points(LocalRun(path.parent)),
    ),
    Kind(
        "final/summary.json", _json({"a": 1, "b": "x"}), lambda path: Spool(path.parent).summary()
    ),
    Kind(
        ".tables/heads.json",
        _json({"rows": [{"head": "L0H0", "score": 0.5, "onset": None}]}),
        lambda path: Spool(path.parent.parent).tables(),
    ),
    Kind(
        PARENTS_FILE,
        _json({"parents": [{"ref": "local:/a", "options": {}}]}),
        lambda path: noted_parents(path.parent),
    ),
    Kind(
        "timeline.json",
        _json({"video": "overview.webm", "steps": [0, 3], "starts_s": [0.0, 1.5]}),
        lambda path: TimelineFile.of(read_json(path), path),
    ),
    Kind(
        "latest.json",
        _json({"file": REF["file_name"], "step": 3, "sha256": SHA256}),
        lambda path: LatestCheckpoint.of(read_json(path), path),
    ),
    Kind("verify.json", _json({"verdicts": []}), lambda path: _note(verified=_text(path))),
    Kind(
        "head_roles.csv",
        b"head,role,margin,onset_step,onset_after\nL0H0,induction,0.5,100,50\n",
        lambda path: _note(head_table=_text(path)),
    ),
    Kind(
        "events.csv",
        b"event,text,first_step,last_step\nrole,L0H0 became induction,0,100\n",
        lambda path: _note(event_table=_text(path)),
    ),
    Kind(
        "runs.csv",
        b"run,label,heads_specialised,loss,onset/induction\nmlflow:abc,a,3,0.5,100\n",
        lambda path: _note(compared=_text(path)),
    ),
    Kind(
        "artifact.txt",
        f"{REF['file_name']} 10 {SHA256}\n".encode(),
        lambda path: from_text(_text(path)),
    ),
    Kind(
        "entry.txt",
        f"step-00000003.10.{SHA256}.json".encode(),
        lambda path: parse_entry(_text(path)),
    ),
    Kind(
        f"{INDEX}/{entry_name(ENTRY)}",
        _json({"step": 3, "time": 1.5}),
        lambda path: FileRun._stored_at(LocalRun(path.parents[2]), ENTRY),
    ),
)


# -- damage ----------------------------------------------------------------------------------------

_ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**25), 10**25),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["../x", "1e999", "NaN", "\0", "a" * 300, "mlflow:", "local:/a", "\ud800"]),
)
_VALUES = st.recursive(
    _ODD,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def damaged(draw: st.DrawFn, kind: Kind) -> bytes:
    """Draw one that somebody, or something, changed."""
    ways = [_changed_bytes]
    if kind.is_tensors:
        ways += [_changed_header, _changed_header]
    elif kind.is_json:
        ways += [_changed_lines, _changed_lines]
    return draw(st.sampled_from(ways))(draw, kind.whole)


def _changed_bytes(draw: st.DrawFn, whole: bytes) -> bytes:
    """Change, add, repeat and cut bytes anywhere."""
    changed = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(changed)))
        match draw(st.integers(0, 3)):
            case 0:
                changed[at : at + 1] = draw(st.binary(max_size=4))
            case 1:
                changed[at:at] = draw(
                    st.sampled_from([b"[" * 3000, b"\0", b"9" * 5000, b"\n", b'"'])
                )
            case 2:
                changed[at:at] = changed[max(0, at - 40) : at]
            case _:
                del changed[at:]
    return bytes(changed)


def _changed_lines(draw: st.DrawFn, whole: bytes) -> bytes:
    lines = whole.splitlines()
    number = draw(st.integers(0, len(lines) - 1))
    lines[number] = _changed_json(draw, json.loads(lines[number]))
    return b"\n".join(lines)


def _changed_json(draw: st.DrawFn, document: Any) -> bytes:
    """Put another value in the place of one or two, or leave them out."""
    for _ in range(draw(st.integers(1, 2))):
        places = list(_places(document))
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        if draw(st.integers(0, 4)) == 0:
            del holder[key]
        else:
            holder[key] = draw(_VALUES)
    return json.dumps(document).encode()


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Yield where values are: (dict or list, key or index)."""
    keys = document if isinstance(document, dict) else range(len(document))
    for key in list(keys):
        yield document, key
        if isinstance(document[key], dict | list):
            yield from _places(document[key])


def _changed_header(draw: st.DrawFn, whole: bytes) -> bytes:
    """Change a safetensors header, or what its metadata says in JSON of their own."""
    (nbytes,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + nbytes])
    described = header["__metadata__"]
    if draw(st.booleans()):
        (key,) = described
        described[key] = _changed_json(draw, json.loads(described[key])).decode()
        text = json.dumps(header).encode()
    else:
        text = _changed_json(draw, header)
    length = draw(st.sampled_from([len(text)] * 8 + [0, len(text) - 1, 2**20, 2**63]))
    return struct.pack("<Q", length) + text + whole[8 + nbytes :]
