"""The file of all scores of a run: the same numbers as in the captures, a fraction of the bytes,
and never trusted over a capture."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections import Counter

import numpy as np
import pytest
import safetensors.numpy
import torch

import tracker_viz as tv
from tracker_viz import capture_file
from tracker_viz.delivery import push
from tracker_viz.demo.model import Decoder, ModelConfig
from tracker_viz.errors import CaptureFileError, TransientTrackerError
from tracker_viz.metrics import SCORE_FILE, read_score_file, score_bytes, score_series
from tracker_viz.trackers.local import LocalRun, LocalTracker
from tracker_viz.types import Capture, CapturePath, CaptureRef

VIDEO = {"size": "960x540", "hold_s": 0.2, "seconds_per_capture": 0.1}


def train(spool, *, seed, steps=8, close=True, run="local", **options):
    torch.manual_seed(seed)
    model = Decoder(
        ModelConfig(
            n_blocks=2,
            n_heads=2,
            n_kv_heads=2,
            d_model=16,
            d_ffn=24,
            context_length=32,
            vocab_size=40,
        )
    )
    probe = torch.arange(10, 22).repeat(2)[None]
    watcher = tv.watch(
        model,
        run=run,
        probe=probe,
        every=2,
        total_steps=steps,
        name=f"run {seed}",
        config={"seed": seed},
        spool=spool,
        max_overhead=float("inf"),
        **options,
    )
    for step in range(steps):
        with torch.no_grad():
            for weight in model.parameters():
                weight += 0.05 * torch.randn_like(weight)
        watcher.step(step, tokens_seen=64 * (step + 1), loss=3.0 + seed / 7 - step / 10)
    if close:
        watcher.close(progress=False)
    else:  # as if it were killed here: nothing is written or sent after the captures
        watcher.outbox.close("killed")
    return LocalRun(spool)


@pytest.fixture
def runs(tmp_path):
    return [train(tmp_path / f"run-{seed}", seed=seed) for seed in range(3)]


@pytest.fixture
def fetched(monkeypatch):
    """run -> steps of the captures that were fetched of it."""
    found: dict[str, Counter] = {}
    fetch = LocalRun.fetch

    def noted(run, ref, directory):
        found.setdefault(run.directory.name, Counter())[ref.step] += 1
        return fetch(run, ref, directory)

    monkeypatch.setattr(LocalRun, "fetch", noted)
    return found


def compare(runs, tmp_path, **options):
    return tv.compare(
        [run.ref for run in runs],
        video=VIDEO,
        upload=False,
        output=tmp_path / "out",
        cache=tmp_path / "cache",
        progress=False,
        **options,
    )


def captures_of(run):
    return [run.fetch(ref, run.directory) for ref in run.list_captures()]


def test_it_holds_the_very_scores_that_the_captures_hold(runs):
    file = read_score_file(runs[1].directory / SCORE_FILE)
    expected = score_series(map(capture_file.read, captures_of(runs[1])))
    assert list(file.captures) == runs[1].list_captures()
    assert set(file.series.heads) == set(expected.heads)
    for name, values in expected.heads.items():
        np.testing.assert_array_equal(file.series.heads[name], values)
    np.testing.assert_array_equal(file.series.metrics["loss"], expected.metrics["loss"])
    np.testing.assert_array_equal(file.series.tokens_seen, expected.tokens_seen)
    assert "induction" in expected.spread
    for name, values in expected.spread.items():
        np.testing.assert_array_equal(file.series.spread[name], values)
    assert file.series.definitions == expected.definitions == 2
    assert file.series.n_rows == dict(expected.n_rows)
    assert file.series.uniform == pytest.approx(expected.uniform)
    assert not any(name.startswith("attn/") for name in file.series.metrics)
    assert file.probe["length"] == 24


def test_a_comparison_by_these_files_says_the_same_and_pulls_only_what_it_draws(
    runs, tmp_path, fetched
):
    quick = compare(runs, tmp_path, max_gb=1e-9)
    assert fetched == {run.directory.name: {0: 1, 8: 1} for run in runs}
    assert "The video shows 2 of 5 points of time: their captures have" in " ".join(quick.notes)
    for run in runs:
        (run.directory / SCORE_FILE).unlink()
    slow = compare(runs, tmp_path)
    assert set(fetched["run-0"]) == {0, 2, 4, 6, 8}
    assert quick.rows == slow.rows
    assert quick.pictures[1].read_bytes() == slow.pictures[1].read_bytes()
    assert not any("points of time" in note for note in slow.notes)


def test_a_tracker_that_is_away_is_not_asked_for_every_capture_instead(
    runs, tmp_path, monkeypatch, fetched
):
    def away(run, artifact, directory):
        raise TransientTrackerError("away")

    monkeypatch.setattr(LocalRun, "get_file", away)
    with pytest.raises(TransientTrackerError):
        compare(runs, tmp_path)
    assert not fetched


def test_a_killed_run_is_compared_by_its_captures(runs, tmp_path, fetched):
    killed = train(tmp_path / "killed", seed=5, close=False)
    assert not (killed.directory / SCORE_FILE).exists()
    result = compare([runs[0], killed], tmp_path, max_gb=1e-9)
    assert [row["captures"] for row in result.rows] == [5, 5]
    assert set(fetched["killed"]) == {0, 2, 4, 6, 8}
    assert set(fetched["run-0"]) == {0, 8}


def test_captures_that_came_or_were_replaced_since_count_and_not_the_file(runs, tmp_path):
    """As after a run that was resumed from a checkpoint and then killed."""
    last = capture_file.read(captures_of(runs[0])[-1])
    for step, value in ((4, 0.875), (10, 0.75)):
        scores = {
            name: np.full_like(array, value)
            for name, array in last.arrays.items()
            if name.startswith("scores.head.")
        }
        changed = dataclasses.replace(
            last, step=step, arrays=dict(last.arrays) | scores, metrics={"loss": 0.125 * step}
        )
        path = tmp_path / "changed" / changed.file_name
        runs[0].put_captures([CapturePath(capture_file.write(changed, path), path)])
    rows = compare(runs[:2], tmp_path).rows
    assert (rows[0]["steps"], rows[0]["captures"], rows[0]["loss"], rows[0]["max/induction"]) == (
        10,
        6,
        1.25,
        0.875,
    )


def test_a_damaged_file_is_left_aside(runs, tmp_path, fetched, caplog):
    expected = compare(runs, tmp_path).rows
    path = runs[2].directory / SCORE_FILE
    path.write_bytes(path.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING):
        assert compare(runs, tmp_path).rows == expected
    assert "the score file cannot be read, so the captures are read instead" in caplog.text
    assert set(fetched["run-2"]) == {0, 2, 4, 6, 8}


def test_a_capture_that_cannot_be_had_is_passed_over_and_named(runs, tmp_path):
    whole = compare(runs, tmp_path)
    (runs[1].directory / "captures" / "step-00000004.safetensors").write_bytes(b"damaged")
    result = compare(runs, tmp_path)
    assert result.rows == whole.rows
    assert "Captures that could not be pulled: seed=1 (step 4)." in result.notes
    assert result.duration_s == whole.duration_s


def test_of_many_runs_some_are_drawn_and_the_table_has_all(runs, tmp_path, fetched):
    more = [*runs, *(train(tmp_path / f"run-{seed}", seed=seed) for seed in (3, 4))]
    fetched.clear()
    result = compare(more, tmp_path, shown=3)
    assert [row["label"] for row in result.rows] == [
        f"run {seed} · seed={seed}" for seed in range(5)
    ]
    assert [ref.path for ref in result.shown] == [
        str(tmp_path / f"run-{seed}") for seed in (0, 2, 4)
    ]  # the loss rises with the seed
    assert set(fetched) == {"run-0", "run-2", "run-4"}
    assert (
        "Shown: 3 of the 5 runs, evenly from the lowest loss to the highest; the table has them "
        "all." in result.notes
    )


def test_runs_that_were_scored_in_other_ways_are_told_apart(runs, tmp_path):
    plain = train(tmp_path / "plain", seed=7, score_rows=0)
    result = compare([*runs, plain], tmp_path, max_gb=1e-9)
    (note,) = [note for note in result.notes if "scored in different ways" in note]
    assert "version 2 of the definitions on 5 repeated rows (periods 6, 9, 12) in" in note
    assert "on 1 repeated rows (periods 12) in seed=7" in note
    assert not any("different ways" in note for note in compare(runs, tmp_path).notes)


def test_it_reaches_a_run_that_was_away_by_push_and_is_whole_again_after_resuming(tmp_path):
    options = {"run": f"local:{tmp_path / 'there'}"}
    LocalTracker(tmp_path).create_run(name="there", config={})
    train(tmp_path / "spool", seed=0, **options)
    there = LocalRun(tmp_path / "there")
    assert list(read_score_file(there.directory / SCORE_FILE).captures) == there.list_captures()
    (there.directory / SCORE_FILE).unlink()
    push(tmp_path / "spool")
    assert list(read_score_file(there.directory / SCORE_FILE).captures) == there.list_captures()
    train(tmp_path / "other-spool", seed=0, steps=12, **options)
    assert [ref.step for ref in there.list_captures()] == [0, 2, 4, 6, 8, 10, 12]
    assert list(read_score_file(there.directory / SCORE_FILE).captures) == there.list_captures()


def scored_capture(step, **scores):
    arrays = {
        f"scores.{name}": np.full((1, 2), value, np.float32) for name, value in scores.items()
    }
    return Capture(step, arrays, model={"score_rows": {"sink": 5}, "score_definitions": 2})


def test_it_keeps_spread_rows_and_version_where_older_readers_see_no_scores(tmp_path):
    series = score_series(
        [scored_capture(step, **{"head.sink": 0.5, "head_sd.sink": 0.25}) for step in (1, 2)]
    )
    refs = {
        step: CaptureRef(step, f"step-0000000{step}.safetensors", 9, "0" * 64) for step in (1, 2)
    }
    path = tmp_path / "heads.safetensors"
    path.write_bytes(score_bytes(series, refs, {}, []))
    read = read_score_file(path)
    again = score_series(read.scored(set(refs.values())))
    for found in (read.series, again):
        np.testing.assert_array_equal(found.spread["sink"], np.full((2, 1, 2), 0.25))
        assert set(found.heads) == {"sink"}
        assert found.n_rows == {"sink": 5}
        assert found.definitions == 2
    with safetensors.safe_open(str(path), framework="numpy") as file:
        taken_for_scores = [name for name in file.keys() if "." in name]  # noqa: SIM118
    assert taken_for_scores == ["head.sink"]


def test_a_file_from_before_spread_was_stored_is_of_the_first_definitions(contents, tmp_path):
    path = tmp_path / "heads.safetensors"
    path.write_bytes(contents)
    with safetensors.safe_open(str(path), framework="numpy") as file:
        described = json.loads(file.metadata()["tracker_viz_scores"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del described["score_rows"], described["score_definitions"]
    path.write_bytes(safetensors.numpy.save(tensors, {"tracker_viz_scores": json.dumps(described)}))
    series = read_score_file(path).series
    assert (series.spread, series.n_rows, series.definitions) == ({}, {}, 1)


@pytest.fixture
def contents():
    capture = Capture(
        3,
        {"scores.head.sink": np.ones((2, 2), np.float32)},
        metrics={"loss": 1.0},
        model={"uniform_scores": {"sink": 0.1}},
    )
    return score_bytes(
        score_series([capture]),
        {3: CaptureRef(3, capture.file_name, 1000, "0" * 64)},
        {"length": 4},
        ["text"],
    )


def test_it_says_when_roles_were_formed_for_whoever_reads_it_without_us(contents, tmp_path):
    (tmp_path / "heads.safetensors").write_bytes(contents)
    with safetensors.safe_open(tmp_path / "heads.safetensors", "numpy") as file:
        (onsets,) = json.loads(file.metadata()["tracker_viz_scores"])["onsets"]
    assert (onsets["role"], onsets["onset_step"], onsets["onset_at_0.5"]) == ("sink", None, None)


HOSTILE = {
    "a newer schema": lambda described, tensors: described.update(schema=2),
    "a step that is none": lambda described, tensors: described.update(
        captures=[[-1, 10, "0" * 64]]
    ),
    "a hash that is none": lambda described, tensors: described.update(
        captures=[[3, 10, "../../x"]]
    ),
    "more captures than rows": lambda described, tensors: described.update(
        captures=[[3, 10, "0" * 64], [4, 10, "0" * 64]]
    ),
    "other metrics than values": lambda described, tensors: described.update(
        metrics=["loss", "more"]
    ),
    "scores of another kind": lambda described, tensors: tensors.update(
        {"head.sink": np.ones((1, 2, 2), np.float64)}
    ),
    "scores of another shape": lambda described, tensors: tensors.update(
        {"head.more": np.ones((1, 3, 2), np.float32)}
    ),
    "spread of another shape": lambda described, tensors: tensors.update(
        {"head_sd:sink": np.ones((1, 3, 2), np.float32)}
    ),
    "no scores' axes": lambda described, tensors: tensors.update(
        {"head.sink": np.ones((1, 2), np.float32)}
    ),
    "no list": lambda described, tensors: described.pop("captures"),
}


@pytest.mark.parametrize("damage", HOSTILE, ids=str)
def test_a_file_that_is_not_what_it_says_is_refused(contents, tmp_path, damage):
    path = tmp_path / "heads.safetensors"
    path.write_bytes(contents)
    assert read_score_file(path).series.metrics["loss"].tolist() == [1.0]
    with safetensors.safe_open(str(path), framework="numpy") as file:
        described = json.loads(file.metadata()["tracker_viz_scores"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    HOSTILE[damage](described, tensors)
    path.write_bytes(safetensors.numpy.save(tensors, {"tracker_viz_scores": json.dumps(described)}))
    with pytest.raises(
        CaptureFileError, match=r"is not a whole file of scores|this tracker_viz reads 1"
    ):
        read_score_file(path)
