"""What a run's captures hold, folded together from their headers."""

from __future__ import annotations

import numpy as np
import pytest

from tracker_viz.errors import LayoutError, RenderError
from tracker_viz.rendering import Series
from tracker_viz.rendering.series import describe_model, si_number
from tracker_viz.types import Capture, CapturePath, CaptureRef

NAN, INF = float("nan"), float("inf")


def capture(step, *, labels=None, model=None, loss=None, **arrays):
    return Capture(
        step=step,
        arrays={name: np.asarray(values, np.float32) for name, values in arrays.items()},
        axes={},
        labels=labels or {},
        tokens_seen=step * 2,
        metrics={} if loss is None else {"loss": loss},
        model=model or {},
    )


@pytest.fixture
def series_of(synthetic, tmp_path):
    def make(*captures, **options):
        return Series([synthetic.write_capture(tmp_path, each) for each in captures], **options)

    return make


def test_captures_are_ordered_by_step_whatever_order_they_came_in(series_of):
    series = series_of(
        capture(20, a=[2], loss=2.0),
        capture(5, a=[0], loss=0.5),
        capture(10, a=[1]),
        missing_steps=(30, 7, 7, 10),
    )
    assert series.steps == (5, 10, 20)
    assert [float(series.read(index, ["a"])["a"][0]) for index in range(3)] == [0, 1, 2]
    assert series.tokens_seen == [10, 20, 40]
    np.testing.assert_array_equal(series.metric("loss"), [0.5, NAN, 2.0])
    assert (series.first.step, series.last.step) == (5, 20)
    assert series.capture(1, ["a"]).metrics == {}
    assert series.capture(2, ["a"]).metrics == {"loss": 2.0}
    assert series.missing_steps == (7, 30), "a step that is there is not missing"


@pytest.mark.parametrize("by_row", [False, True])
def test_attention_is_that_of_the_heads_that_the_last_capture_holds(series_of, by_row):
    """A head that came in later is NaN before, and no other head takes its place."""
    name, axis = "blocks.0.attn.pattern", "blocks.0.head"

    def held(step, *heads):
        maps = np.broadcast_to(np.reshape(heads, (1, -1, 1, 1)), (2, len(heads), 3, 3))
        return capture(step, labels={axis: tuple(map(str, heads))}, **{name: maps})

    series = series_of(held(0, 1, 4, 6), held(5, 1, 4, 6), held(10, 1, 6, 7))
    key = (name, 1) if by_row else name
    shown = [series.read(index, [key])[key][..., 0, 0] for index in range(3)]
    expected = [[1, 6, NAN], [1, 6, NAN], [1, 6, 7]]
    for found, wanted in zip(shown, expected, strict=True):
        np.testing.assert_array_equal(found.reshape(-1, 3)[0], wanted)


def test_an_arrays_range_is_that_of_all_its_finite_entries(series_of):
    entries = [[0.5, -3.0], [NAN, 0.25], [NAN, INF], [7.0, -INF]]
    array = series_of(
        *(capture(step, a=values, b=[NAN]) for step, values in enumerate(entries))
    ).arrays["a"]
    assert (array.minimum, array.maximum) == (-3.0, 7.0)
    assert (array.missing_at, array.reshaped_at) == (None, None)


def test_it_is_known_since_when_an_array_is_missing_or_has_another_shape(series_of):
    series = series_of(
        capture(0, always=[1], ends=[1], grows=[1]),
        capture(3, always=[1], ends=[1], grows=[1, 2], late=[1]),
        capture(6, always=[1], grows=[1, 2, 3], late=[1]),
        capture(9, always=[1], grows=[1], late=[1]),
    )
    assert {
        name: (array.missing_at, array.reshaped_at) for name, array in series.arrays.items()
    } == {
        "always": (None, None),
        "ends": (6, None),
        "grows": (None, (3, (2,))),
        "late": (0, None),
    }
    assert sorted(series.names("*l*")) == ["always", "late"]
    assert series.require("always", "mine") is series.arrays["always"]
    for name, says in (
        ("ends", "step 6 lacks it"),
        ("late", "step 0 lacks it"),
        ("grows", r"steps=\[null,2\]"),
        ("alway", "did you mean"),
    ):
        with pytest.raises(LayoutError, match=says):
            series.require(name, "mine")


def test_no_captures_and_two_of_one_step_are_errors(small_run):
    with pytest.raises(RenderError, match="no capture"):
        Series([])
    with pytest.raises(RenderError, match="same step"):
        Series([*small_run, small_run[2]])


def test_a_capture_that_is_of_another_step_than_its_name_says_is_refused(synthetic, tmp_path):
    written = synthetic.write_capture(tmp_path, capture(7, a=[1]))
    path = written.path.rename(tmp_path / "step-00000008.safetensors")
    with pytest.raises(RenderError, match="contains step 7"):
        Series(
            [CapturePath(CaptureRef(8, path.name, written.ref.nbytes, written.ref.sha256), path)]
        )


def test_axes_have_the_names_that_the_last_capture_gives_or_numbers(series_of):
    series = series_of(
        capture(0, a=[1], labels={"probe": ("old", "older")}),
        capture(1, a=[1], labels={"probe": ("repeated", "text")}),
    )
    assert series.labels("probe", 2) == ("repeated", "text")
    assert series.labels("probe", 3) == series.labels("head", 3) == ("0", "1", "2")


def test_a_title_stands_on_one_line(series_of):
    assert series_of(capture(0), title="a\nb\t c").title == "a b c"


def test_the_header_says_what_the_model_is_unless_it_is_told(series_of):
    model = {"name": "llama", "n_blocks": 4, "n_heads": 6, "n_parameters": 870_000}
    series = series_of(capture(0, a=[1], model=model))
    assert (series.title, series.subtitle) == (
        "llama",
        "llama · 4 blocks × 6 heads · 870 k parameters",
    )
    series = series_of(capture(0, a=[1], model=model), title="mine", subtitle="ours")
    assert (series.title, series.subtitle) == ("mine", "ours")
    assert series_of(capture(0, a=[1])).title == "run"
    assert describe_model({"n_blocks": 1, "n_heads": 1}) == "1 block × 1 head"
    hybrid = {"n_blocks": 4, "n_heads": [0, 4, 0, 4]}
    assert describe_model(hybrid) == "4 blocks, 2 with 4 heads"
    assert describe_model({"n_blocks": 2, "n_heads": [2, 4]}) == "2 blocks × 2 to 4 heads"
    assert describe_model({"n_blocks": 4}) == describe_model({"n_heads": 4}) == "", (
        "half of it says nothing"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (950, "950"), (999.4, "999"), (999.5, "1.00 k"), (1024, "1.02 k"),
        (-16_400_000, "−16.4 M"), (999_400, "999 k"), (999_500, "1.00 M"), (999.5e6, "1.00 B"),
        (7.24e9, "7.24 B"), (999.5e9, "1.00 T"), (1.5e12, "1.50 T"),
    ],
)  # fmt: skip
def test_large_numbers_have_three_digits_and_a_unit(value, text):
    assert si_number(value).replace("-", "−") == text
