"""The index of captures: names that say size and hash, and which of several entries of one step
counts."""

from __future__ import annotations

import json

import pytest

from tracker_viz.trackers import capture_index
from tracker_viz.types import CaptureRef


def ref(step, nbytes=10, digit="a"):
    return CaptureRef(step, f"step-{step:08d}.safetensors", nbytes, digit * 64)


def no_choice(refs):
    raise AssertionError(f"nothing to choose between: {refs}")


def test_an_entrys_name_says_what_its_ref_says():
    assert capture_index.parse_entry(capture_index.entry_name(ref(100, 7))) == ref(100, 7)
    assert json.loads(capture_index.entry_text(ref(100, 7), 1.5)) == {
        "step": 100,
        "file": "step-00000100.safetensors",
        "nbytes": 7,
        "sha256": "a" * 64,
        "time": 1.5,
    }


@pytest.mark.parametrize(
    "name",
    [
        "step-00000100.safetensors",
        f"step-100.7.{'a' * 64}.json",
        f"step-000000100.7.{'a' * 64}.json",
        f"step-00000100.7.{'A' * 64}.json",
        f"step-00000100.7.{'a' * 63}.json",
        f"step-00000100.99999999999.{'a' * 64}.json",
        f"../step-00000100.7.{'a' * 64}.json",
        f"step-00000100.7.{'a' * 64}.json\n",
    ],
)
def test_what_is_no_entry_is_ignored(name):
    assert capture_index.parse_entry(name) is None
    assert capture_index.refs_by_step([name], {}, no_choice) == []


def test_steps_come_in_order_and_once():
    entries = [capture_index.entry_name(ref(step)) for step in (100, 2, 99999999, 0)]
    assert [found.step for found in capture_index.refs_by_step(entries, {}, no_choice)] == [
        0,
        2,
        100,
        99999999,
    ]


def test_of_two_entries_the_one_with_the_files_size_counts():
    entries = [capture_index.entry_name(ref(1, 10)), capture_index.entry_name(ref(1, 11, "b"))]
    assert capture_index.refs_by_step(entries, {"step-00000001.safetensors": 11}, no_choice) == [
        ref(1, 11, "b")
    ]


def test_of_two_entries_that_size_cannot_tell_apart_the_newest_counts():
    entries = [capture_index.entry_name(ref(1, 10)), capture_index.entry_name(ref(1, 10, "b"))]
    for nbytes in (10, 3, None):
        assert capture_index.refs_by_step(
            entries, {"step-00000001.safetensors": nbytes}, lambda refs: refs[-1]
        ) == [ref(1, 10, "b")]


def test_a_single_entry_counts_even_when_its_file_was_cut():
    assert capture_index.refs_by_step(
        [capture_index.entry_name(ref(1, 10))], {"step-00000001.safetensors": 3}, no_choice
    ) == [ref(1, 10)]
