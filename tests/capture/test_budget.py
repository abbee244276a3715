"""A capture takes no more than it may."""

from __future__ import annotations

import numpy as np
import pytest

from tracker_viz import capture_file
from tracker_viz.capture.budget import fit, weight_side
from tracker_viz.errors import ConfigError
from tracker_viz.types import Capture


def capture(blocks=4, heads=12, length=128, rows=3, width=256):
    rng = np.random.default_rng(0)
    arrays, axes = {}, {}
    for block in range(blocks):
        pattern = np.tril(rng.random((rows, heads, length, length), np.float32)) + np.eye(
            length, dtype=np.float32
        )
        arrays[f"blocks.{block}.attn.pattern"] = (pattern / pattern.sum(-1, keepdims=True)).astype(
            np.float16
        )
        axes[f"blocks.{block}.attn.pattern"] = ("probe", "head", "query", "key")
        for name in ("attn.w_q", "mlp.w_in"):
            arrays[f"blocks.{block}.{name}"] = rng.normal(0, 0.02, (width, width)).astype(
                np.float32
            )
            axes[f"blocks.{block}.{name}"] = ("out", "in")
    arrays["scores.head.sink"] = rng.random((blocks, heads), np.float32)
    axes["scores.head.sink"] = ("block", "head")
    kinds = ("repeated", "repeated", "text")[:rows]
    return Capture(
        step=3,
        arrays=arrays,
        axes=axes,
        labels={"probe": ("repeated", "repeated 2", "text")[:rows]},
        model={"n_blocks": blocks, "n_heads": heads},
        probe={
            "length": length,
            "rows": [{"kind": kind, "tokens": [str(i) for i in range(length)]} for kind in kinds],
        },
    )


def stored_mb(made):
    return len(capture_file.to_bytes(made)) / 1e6


def test_what_fits_is_kept_whole_as_float16():
    made = fit(capture(), max_mb=100)
    assert {name: array.shape for name, array in made.arrays.items()} == {
        name: array.shape for name, array in capture().arrays.items()
    }
    assert {
        array.dtype for name, array in made.arrays.items() if not name.startswith("scores.")
    } == {np.dtype("float16")}
    assert "cut" not in made.model


@pytest.mark.parametrize("max_mb", [8, 4, 2, 1, 0.5, 0.2, 0.1])
def test_a_capture_takes_no_more_than_its_budget(max_mb):
    made = fit(capture(), max_mb)
    assert stored_mb(made) <= max_mb
    assert stored_mb(made) >= 0.35 * max_mb  # nor is it cut for nothing
    assert made.arrays["scores.head.sink"].shape == (4, 12)
    assert set(made.axes) == set(made.arrays)


def test_the_display_rows_go_last_and_are_named():
    made = fit(capture(), 5)
    assert made.labels["probe"] == ("repeated", "text")
    assert [row["kind"] for row in made.probe["rows"]] == ["repeated", "text"]
    assert made.arrays["blocks.0.attn.pattern"].shape == (2, 12, 128, 128)
    assert fit(capture(), 2.5).labels["probe"] == ("repeated",)


def test_heads_that_were_left_out_are_known_by_their_labels():
    made = fit(capture(), 1.5)
    heads = [int(name) for name in made.labels["blocks.2.head"]]
    assert len(heads) == made.arrays["blocks.2.attn.pattern"].shape[1] <= 8
    length = made.arrays["blocks.2.attn.pattern"].shape[-1]
    original = capture().arrays["blocks.2.attn.pattern"][0, heads][:, :length, :length]
    assert np.array_equal(made.arrays["blocks.2.attn.pattern"][0], original)
    assert made.model["cut"]["heads"] == 8


def test_fewer_positions_leave_rows_that_still_sum_to_one():
    made = fit(capture(), 0.5)
    pattern = made.arrays["blocks.0.attn.pattern"].astype(np.float32)
    assert pattern.shape[-1] == 64
    np.testing.assert_allclose(pattern.sum(-1), 1, atol=5e-3)
    assert made.probe["length"] == 64
    assert len(made.probe["rows"][0]["tokens"]) == 64


def test_every_capture_of_a_run_is_cut_alike():
    first, second = fit(capture(), 1), fit(fit(capture(), 1), 1)
    assert {name: array.shape for name, array in first.arrays.items()} == {
        name: array.shape for name, array in second.arrays.items()
    }


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="max_mb must be greater than 0; got 0"):
        fit(capture(), 0)


def test_the_side_of_a_weight_sample_uses_the_bytes_it_may():
    shapes = [(4096, 4096)] * 4 + [(11008, 4096)] * 3
    side = weight_side(shapes * 32, 10e6)
    assert side**2 * 2 * 7 * 32 <= 10e6 < (side + 1) ** 2 * 2 * 7 * 32
    assert weight_side([(64, 32)], 1e6) >= 64
