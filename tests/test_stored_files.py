"""Whatever a stored file holds, reading it gives its values or one of our errors."""

from __future__ import annotations

import itertools
import json
import random
import struct

import pytest
from local_runs import only_run, steps_at

from tracker_viz import capture_file, stored
from tracker_viz.delivery import Destination, Outbox
from tracker_viz.delivery.journal import Journal
from tracker_viz.demo import checkpoint
from tracker_viz.errors import CaptureFileError, ConfigError, TrackerError, TrackerVizError
from tracker_viz.files import MAX_HEADER_BYTES, read_json, read_lines
from tracker_viz.metrics.score_file import read_score_file
from tracker_viz.stored import Stored
from tracker_viz.trackers.local import LocalRun, LocalTracker
from tracker_viz.trackers.mlflow.note import run_note
from tracker_viz.trackers.testing import make_capture
from tracker_viz.types import RunRef

DEEP = "[" * 100_000 + "]" * 100_000
ODD = ("Infinity", "NaN", "1" + "0" * 400, "1e999", "-1", "null", "[]", "{}", '"x"', "true", DEEP)
KINDS = [kind for kind in vars(stored).values() if isinstance(kind, type)]
KINDS = [kind for kind in KINDS if issubclass(kind, Stored) and kind is not Stored]


def refusal(read, *arguments):
    """Return our error's words, or None where it is read; any other error fails the test."""
    try:
        read(*arguments)
    except TrackerVizError as error:
        return str(error)
    return None


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_reader_raises_our_errors_only(kind):
    names = [*kind.model_fields, "schema", "unknown"]
    for name, value in itertools.product(names, ODD):
        with_one = f'{{"{name}": {value}}}'
        said = refusal(kind.read, with_one, "a file")
        assert said is None or ("a file" in said and len(said) < 500)
    for contents in ("", "{", "[]", "null", DEEP, b"\xff\xfe", "0" * 5000):
        with pytest.raises(TrackerError):
            kind.read(contents, "a file")
    with pytest.raises(TrackerError, match="at most 10 are read"):
        kind.read(b" " * 11, "a file", max_bytes=10)
    assert len(KINDS) > 10


def test_a_newer_schema_is_refused_by_its_number_and_newer_keys_are_kept():
    with pytest.raises(TrackerError, match="has schema 2; this tracker_viz reads up to 1: upgrade"):
        stored.IndexEntry.read('{"schema": 2, "time": 1}', "an entry")
    entry = stored.IndexEntry.read('{"time": 1, "priority": 3}', "an entry")
    assert entry.model_extra == {"priority": 3}


def header_of(path):
    contents = path.read_bytes()
    (nbytes,) = struct.unpack("<Q", contents[:8])
    return json.loads(contents[8 : 8 + nbytes]), contents[8 + nbytes :]


def with_header(path, header, tensors):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + tensors)


@pytest.fixture
def capture(tmp_path):
    path = tmp_path / "step-00000003.safetensors"
    capture_file.write(make_capture(3), path)
    return path


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *itertools.product(
            ["step", "tokens_seen", "metrics", "labels", "arrays", "schema", "model"], ODD
        ),
        ("metrics", f'{{"loss": {ODD[2]}}}'),
        ("model", '{"n_heads": "many"}'),
        ("model", '{"n_blocks": -1}'),
        ("probe", '{"rows": [{"tokens": 5}]}'),
        ("probe", '{"rows": {"kind": "text"}}'),
    ],
)
def test_a_forged_header_is_read_or_refused(capture, key, value):
    header, tensors = header_of(capture)
    described = header["__metadata__"]["tracker_viz"]
    forged = {**json.loads(described), key: "HERE"}
    header["__metadata__"]["tracker_viz"] = json.dumps(forged).replace('"HERE"', value)
    with_header(capture, header, tensors)
    said = refusal(capture_file.read, capture)
    assert said is None or str(capture) in said


def test_a_header_too_big_to_parse_is_refused_before_it_is(capture):
    with_header(capture, b"{" + b" " * MAX_HEADER_BYTES + b"}", b"")
    with pytest.raises(CaptureFileError, match="says that its header has"):
        capture_file.read_header(capture)
    with pytest.raises(CaptureFileError, match="says that its header has"):
        read_score_file(capture)
    capture.write_bytes(struct.pack("<Q", 1 << 60))
    with pytest.raises(CaptureFileError, match="says that its header has"):
        capture_file.read_header(capture)
    with pytest.raises(ConfigError, match="says that its header has"):
        checkpoint.read(capture)


def test_bytes_changed_at_random_are_read_or_refused(capture):
    whole, rng = capture.read_bytes(), random.Random(0)
    refused = []
    for _ in range(300):
        changed = bytearray(whole)
        for _ in range(rng.choice((1, 2, 8))):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        cut = rng.choice((len(changed), rng.randrange(len(changed))))
        capture.write_bytes(changed[:cut])
        refused.append(refusal(capture_file.read, capture))
    assert len(refused) - refused.count(None) > 100


def test_odd_lines_of_a_journal_are_left_out_and_asked_again(tmp_path):
    path = tmp_path / "mlflow.jsonl"
    path.write_text(
        "\n".join(
            [
                '{"captures": [{"step": 1}]}',
                '{"captures": [{"step": 2, "file_name": "x", "nbytes": 1, "sha256": "y"}]}',
                '{"captures": [{"step": 3, "file_name": "step-00000003.safetensors", "nbytes": 1, '
                f'"sha256": "{"ab" * 32}", "of_a_newer_version": 1}}]}}',
                '{"metrics": 5}',
                DEEP,
                '{"metrics": ["step-00000000.safetensors"], "of_a_newer_version": 1}',
            ]
        )
    )
    journal = Journal(path)
    assert list(journal.captures) == ["step-00000003.safetensors"]
    assert journal.metrics == {"step-00000000.safetensors"}
    assert len(read_lines(path)) == 5


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        DEEP,
        '{"config": []}',
        '{"destinations": [{"name": "../x", "scheme": "local", "key": "k"}]}',
        '{"destinations": [{}]}',
        '{"destinations": 5}',
        '{"files": [5]}',
        '{"parent": {"a": 1}}',
        '{"schema": 99}',
    ],
)
def test_a_run_json_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    run = LocalTracker(tmp_path).open_run(RunRef("local", str(tmp_path)))
    with pytest.raises(TrackerError, match=r"run\.json"):
        run.info()
        Outbox(tmp_path, [Destination("local", {"directory": str(tmp_path / "there")})], name="a")


TABLES = ("a,b\n1,2", "head,role,margin,onset_step\nL0,x,much,", "\0", "head")


@pytest.mark.parametrize("table", TABLES)
def test_a_table_that_somebody_replaced_keeps_no_video_out_of_the_run(table, caplog):
    note = run_note(
        ["overview.webm", "head_roles.csv"],
        run_id="r",
        link=str,
        head_table=table,
        compared=table,
        verified=DEEP,
    )
    assert "overview.webm" in note
    long = "head\n" + "x" * 200_000
    assert "Watch" in run_note(["overview.webm"], run_id="r", link=str, head_table=long)


def test_a_file_that_cannot_be_read_is_our_error(tmp_path):
    (tmp_path / "directory").mkdir()
    for path in (tmp_path / "none", tmp_path / "directory"):
        with pytest.raises(TrackerError):
            read_json(path)


@pytest.mark.parametrize("text", ["{", '{"file": "../x", "sha256": ""}', '{"file": 5}', DEEP, "[]"])
def test_a_latest_checkpoint_that_is_none_is_refused(tmp_path, text):
    run = LocalTracker(tmp_path / "runs").create_run(name="a", config={})
    (run.directory / "checkpoints").mkdir()
    (run.directory / checkpoint.LATEST).write_text(text)
    with pytest.raises(ConfigError, match="checkpoint"):
        checkpoint.download_latest(run, tmp_path)


def test_a_run_json_of_a_spool_keeps_what_is_not_known(tmp_path):
    there = Destination("local", {"directory": str(tmp_path / "there")})
    with Outbox(tmp_path / "spool", [there], name="a"):
        pass
    file = tmp_path / "spool/run.json"
    newer = json.loads(file.read_text())
    newer["destinations"][0]["priority"] = "of a newer version"
    newer["priority"] = 1
    file.write_text(json.dumps(newer))
    with Outbox(tmp_path / "spool", [there], name="a") as outbox:
        outbox.submit(make_capture(0))
    kept = json.loads(file.read_text())
    assert kept["priority"] == 1
    assert kept["destinations"][0]["priority"] == "of a newer version"
    assert steps_at(only_run(tmp_path / "there")) == [0]
    assert LocalRun(tmp_path / "spool").info().name == "a"
