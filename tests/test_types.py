"""References parse and print to exactly one form; what is not one is refused with the forms that
are."""

from __future__ import annotations

import pytest

from tracker_viz.errors import ConfigError
from tracker_viz.trackers import open_run
from tracker_viz.types import Capture, CaptureRef, RunRef, capture_file_name, capture_step


@pytest.mark.parametrize(
    "text",
    [
        "mlflow:0a1b2c",
        "wandb:me/my-project/abc123",
        "local:/some/where else/run",
        "local:C:\\runs\\a",
    ],
)
def test_run_reference_prints_as_it_was_written(text):
    assert str(RunRef.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "nope",
        "",
        "mlflow:",
        "mlflow:../../etc",
        "wandb:me/abc",
        "wandb:me//abc",
        "s3:bucket",
        "mlflow",
    ],
)
def test_what_is_no_run_reference_is_refused(text):
    with pytest.raises(ConfigError, match="must look like"):
        RunRef.parse(text)


def test_a_stored_reference_may_name_a_tracker_that_is_not_installed_here():
    ref = RunRef.from_stored("elsewhere:some/run")
    assert (ref.scheme, ref.path, str(ref)) == ("elsewhere", "some/run", "elsewhere:some/run")
    with pytest.raises(ConfigError, match="unknown tracker 'elsewhere'"):
        open_run(ref)


@pytest.mark.parametrize("text", ["nope", "", ":", "mlflow:", "a b:c", "../x:y", "wandb:me/abc"])
def test_what_is_stored_as_a_reference_has_the_form_of_one(text):
    with pytest.raises(ConfigError, match="must look like"):
        RunRef.from_stored(text)


def test_capture_names_sort_by_step():
    names = [capture_file_name(step) for step in (0, 9, 10, 99_999_999, 100_000_000)]
    assert [capture_step(name) for name in names] == [0, 9, 10, 99_999_999, 100_000_000]
    assert names[:4] == sorted(names[:4])


@pytest.mark.parametrize(
    "name",
    [
        "step-1.safetensors",
        "../step-00000001.safetensors",
        "step-00000001.pt",
        "step-000000001.safetensors",
    ],
)
def test_other_file_names_are_no_captures(name):
    with pytest.raises(ConfigError):
        capture_step(name)


def test_capture_ref_must_agree_with_its_name():
    with pytest.raises(ConfigError, match="must say the same step"):
        CaptureRef(2, "step-00000001.safetensors", 10, "0" * 64)


def test_negative_step_is_refused():
    with pytest.raises(ConfigError, match="never negative"):
        Capture(step=-1, arrays={})
