"""A capture survives the way to a file and back, and a file that must not be trusted is refused."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import stat
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import safetensors.numpy

from tracker_viz import capture_file
from tracker_viz.errors import CaptureFileError, SchemaError
from tracker_viz.types import QUANTILES, Capture


@pytest.fixture
def capture():
    generator = np.random.default_rng(0)
    pattern = generator.dirichlet(np.ones(8), size=(2, 3, 8)).astype(np.float16)
    return Capture(
        step=120,
        arrays={
            "blocks.0.attn.pattern": pattern,
            "scores.head.induction": np.array([[0.25, np.nan, np.inf]], np.float32),
        },
        axes={
            "blocks.0.attn.pattern": ("probe", "head", "query", "key"),
            "scores.head.induction": ("block", "head"),
        },
        labels={"probe": ("repeated", "text")},
        tokens_seen=1 << 40,
        metrics={"loss": 3.25, "grad_norm": math.inf, "undefined": math.nan},
        model={"name": "demo", "n_heads": 3},
        probe={
            "length": 8,
            "rows": [{"kind": "repeated", "period": 4, "tokens": ["a", "é", "\n", "字"]}],
        },
    )


def test_everything_in_a_capture_comes_back(capture, tmp_path):
    capture_file.write(capture, tmp_path / capture.file_name)
    back = capture_file.read(tmp_path / "step-00000120.safetensors")
    assert (back.step, back.tokens_seen, back.axes, back.labels, back.model, back.probe) == (
        capture.step,
        capture.tokens_seen,
        capture.axes,
        capture.labels,
        capture.model,
        capture.probe,
    )
    assert back.metrics["loss"] == 3.25
    assert back.metrics["grad_norm"] == math.inf
    assert math.isnan(back.metrics["undefined"])
    for name, array in capture.arrays.items():
        np.testing.assert_array_equal(back.arrays[name], array)
        assert back.arrays[name].dtype == array.dtype


def test_ref_describes_the_file_that_was_written(capture, tmp_path):
    ref = capture_file.write(capture, tmp_path / capture.file_name)
    assert ref == capture_file.file_ref(tmp_path / capture.file_name, 120)
    assert ref.nbytes == (tmp_path / capture.file_name).stat().st_size


def test_header_knows_range_quantiles_and_what_is_not_finite(capture, tmp_path):
    capture_file.write(capture, tmp_path / capture.file_name)
    header = capture_file.read_header(tmp_path / capture.file_name)
    scores = header.arrays["scores.head.induction"]
    assert (scores.minimum, scores.maximum, scores.n_nonfinite) == (0.25, 0.25, 2)
    pattern = header.arrays["blocks.0.attn.pattern"]
    values = capture.arrays["blocks.0.attn.pattern"].astype(np.float64)
    assert pattern.quantiles == tuple(np.quantile(values, QUANTILES, method="inverted_cdf"))
    assert pattern.axes == ("probe", "head", "query", "key")


def test_chosen_arrays_are_read_alone(capture, tmp_path):
    capture_file.write(capture, tmp_path / capture.file_name)
    back = capture_file.read(
        tmp_path / capture.file_name, names=["scores.head.induction", "blocks.7.attn.pattern"]
    )
    assert list(back.arrays) == ["scores.head.induction"]


def test_arrays_and_rows_of_them_are_read_by_key(capture, tmp_path):
    capture_file.write(capture, tmp_path / capture.file_name)
    keys = [
        "scores.head.induction",
        ("blocks.0.attn.pattern", 1),
        "blocks.7.attn.pattern",
        ("blocks.8.attn.pattern", 0),
    ]
    arrays = capture_file.read_arrays(tmp_path / capture.file_name, keys)
    assert list(arrays) == keys[:2]
    np.testing.assert_array_equal(arrays[keys[0]], capture.arrays[keys[0]])
    np.testing.assert_array_equal(arrays[keys[1]], capture.arrays["blocks.0.attn.pattern"][1])


def test_same_capture_gives_same_bytes_in_whatever_order_it_was_put_together(capture):
    turned = dataclasses.replace(
        capture,
        **{
            name: dict(reversed(getattr(capture, name).items()))
            for name in ("arrays", "axes", "metrics", "model", "probe")
        },
    )
    assert list(turned.arrays) != list(capture.arrays)
    assert capture_file.to_bytes(turned) == capture_file.to_bytes(capture)


def test_an_all_nan_array_is_written_and_described(tmp_path):
    capture = Capture(step=0, arrays={"scores.head.sink": np.full((2, 2), np.nan, np.float32)})
    capture_file.write(capture, tmp_path / capture.file_name)
    info = capture_file.read_header(tmp_path / capture.file_name).arrays["scores.head.sink"]
    assert math.isnan(info.minimum)
    assert info.quantiles == ()
    assert info.n_nonfinite == 4


@pytest.mark.parametrize(
    ("largest", "dtype"),
    [
        (0.0, np.float16),
        (1.0, np.float16),
        (65504.0, np.float16),
        (70000.0, np.float32),
        (-70000.0, np.float32),
        (1e-6, np.float32),
    ],
)
def test_compact_keeps_float32_where_float16_has_not_the_range(largest, dtype):
    for more in ([], [np.nan], [np.inf, -np.inf]):
        stored = capture_file.compact(np.array([0.0, largest, *more], np.float32))
        assert stored.dtype == dtype
        assert stored[1] == pytest.approx(largest, rel=1e-3)
    assert capture_file.compact(np.array([1e-6], np.float16)).dtype == np.float16, (
        "what is float16 already gains nothing"
    )


def test_truncated_file_is_refused(capture, tmp_path):
    path = tmp_path / capture.file_name
    capture_file.write(capture, path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CaptureFileError, match="not a whole safetensors file"):
        capture_file.read(path)


def test_newer_schema_is_refused_by_name(tmp_path):
    path = tmp_path / "step-00000001.safetensors"
    safetensors.numpy.save_file(
        {"a": np.zeros(1, np.float32)}, path, {"tracker_viz": json.dumps({"schema": 99})}
    )
    with pytest.raises(SchemaError, match=r"schema 99.*upgrade tracker_viz"):
        capture_file.read_header(path)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {},
        {"tracker_viz": "no json"},
        {"tracker_viz": "[]"},
        {"tracker_viz": "{}"},
        {"tracker_viz": "[" * 100_000},
    ],
)
def test_foreign_safetensors_file_is_refused(metadata, tmp_path):
    path = tmp_path / "step-00000001.safetensors"
    safetensors.numpy.save_file({"a": np.zeros(1, np.float32)}, path, metadata)
    with pytest.raises(CaptureFileError):
        capture_file.read_header(path)


def described(**changes):
    """Metadata of a file with one array ``a`` of shape (1,)."""
    info = {
        "axes": ["x"],
        "minimum": 0.0,
        "maximum": 0.0,
        "quantiles": [0.0] * len(QUANTILES),
        "n_nonfinite": 0,
    }
    plain = {
        "schema": 1,
        "step": 1,
        "tokens_seen": None,
        "metrics": {},
        "model": {},
        "probe": {},
        "labels": {},
        "arrays": {"a": info},
    }
    return {"tracker_viz": json.dumps({**plain, **changes})}, info


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (lambda info: {}, "describes other arrays than it holds"),
        (lambda info: {"a": info, "b": info}, "describes other arrays than it holds"),
        (lambda info: {"a": {**info, "axes": ["x", "y"]}}, "array a has 1 axes, 2 are named"),
        (lambda info: {"a": {**info, "n_nonfinite": None}}, "metadata that is not a capture's"),
    ],
)
def test_metadata_that_does_not_fit_its_arrays_is_refused(arrays, message, tmp_path):
    path = tmp_path / "step-00000001.safetensors"
    whole, info = described()
    safetensors.numpy.save_file({"a": np.zeros(1, np.float32)}, path, whole)
    assert capture_file.read_header(path).arrays["a"].shape == (1,)
    safetensors.numpy.save_file(
        {"a": np.zeros(1, np.float32)}, path, described(arrays=arrays(info))[0]
    )
    with pytest.raises(CaptureFileError, match=message):
        capture_file.read_header(path)


def test_a_file_that_is_too_big_is_refused_before_it_is_opened(capture, tmp_path, monkeypatch):
    capture_file.write(capture, tmp_path / capture.file_name)
    monkeypatch.setattr(capture_file, "MAX_FILE_BYTES", 100)
    with pytest.raises(CaptureFileError, match="a capture file has at most 100"):
        capture_file.read(tmp_path / capture.file_name)


def test_axes_that_do_not_fit_an_array_are_refused(capture):
    with pytest.raises(
        CaptureFileError,
        match=r"an array of shape \(2, 3, 8, 8\) needs 4 axis names; got \('head',\)",
    ):
        capture_file.to_bytes(
            dataclasses.replace(capture, axes={"blocks.0.attn.pattern": ("head",)})
        )


@pytest.mark.parametrize("name", ["../up", "a/b", "a b", ".hidden", "a..b", ""])
def test_a_file_that_holds_an_unsafe_name_is_refused(name, tmp_path):
    path = tmp_path / "step-00000001.safetensors"
    safetensors.numpy.save_file(
        {name: np.zeros(1, np.float32)}, path, described(arrays={name: described()[1]})[0]
    )
    for read in (capture_file.read_header, capture_file.read):
        with pytest.raises(CaptureFileError, match="array names"):
            read(path)


@pytest.mark.parametrize("dtype", [np.int32, np.float64, np.bool_])
def test_a_file_that_holds_another_dtype_is_refused(dtype, tmp_path):
    path = tmp_path / "step-00000001.safetensors"
    safetensors.numpy.save_file({"a": np.zeros(1, dtype)}, path, described()[0])
    for read in (capture_file.read_header, capture_file.read):
        with pytest.raises(CaptureFileError, match="holds float16 and float32 arrays; 'a' is"):
            read(path)


@pytest.mark.parametrize("name", ["../up", "a/b", "a b", ".hidden", "a..b", ""])
def test_array_with_an_unsafe_name_is_refused(name):
    with pytest.raises(CaptureFileError, match="array names"):
        capture_file.to_bytes(Capture(step=0, arrays={name: np.zeros(1, np.float32)}))


def test_array_of_another_dtype_is_refused():
    with pytest.raises(CaptureFileError, match="float64"):
        capture_file.to_bytes(Capture(step=0, arrays={"a": np.zeros(1)}))


def test_failed_write_leaves_nothing_behind(capture, tmp_path, monkeypatch):
    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        capture_file.write(capture, tmp_path / capture.file_name)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_on_the_disk_whole_before_it_has_its_name_and_its_name_after(
    capture, tmp_path, monkeypatch
):
    path, nbytes, order = tmp_path / capture.file_name, len(capture_file.to_bytes(capture)), []
    fsync = os.fsync

    def noted(descriptor):
        found = os.fstat(descriptor)
        order.append(
            "the name"
            if stat.S_ISDIR(found.st_mode)
            else f"{found.st_size} bytes, named: {path.exists()}"
        )
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    capture_file.write(capture, path)
    assert order == [f"{nbytes} bytes, named: False", "the name"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644  # others may read what training wrote


def test_a_file_that_cannot_be_renamed_is_not_there(capture, tmp_path, monkeypatch):
    def refused(source, target):
        raise PermissionError

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(PermissionError):
        capture_file.write(capture, tmp_path / capture.file_name)
    assert list(tmp_path.iterdir()) == []


def test_kill_in_mid_write_never_lists_half_a_capture(tmp_path):
    program = textwrap.dedent(f"""
        import numpy as np, pathlib
        from tracker_viz import capture_file
        from tracker_viz.types import QUANTILES, Capture
        array = np.random.default_rng(0).standard_normal((256, 1024)).astype(np.float32)
        print("go", flush=True)
        for step in range(10_000):
            capture = Capture(step=step, arrays={{"a": array}})
            capture_file.write(capture, pathlib.Path({str(tmp_path)!r}) / capture.file_name)
    """)
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"go\n"
    while len(list(tmp_path.glob("step-*"))) < 10:
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    process.stdout.close()
    whole = sorted(tmp_path.glob("step-*.safetensors"))
    assert len(whole) >= 10
    for path in whole:
        capture_file.read(path)


def test_a_file_that_is_gone_is_named(tmp_path):
    for read in (
        capture_file.read,
        capture_file.read_header,
        lambda path: capture_file.read_arrays(path, ["x"]),
    ):
        with pytest.raises(
            CaptureFileError,
            match=r"step-00000001\.safetensors cannot be read: .*No such file.*pull it again",
        ):
            read(tmp_path / "step-00000001.safetensors")
