"""Token mixers of hybrids, matched and compared across runs by what their mixing maps did."""

from __future__ import annotations

import csv
import dataclasses

import numpy as np
import pytest

from tracker_viz import capture_file
from tracker_viz.comparison import ComparedRun, match_mixers, mixing_distances, mixing_run
from tracker_viz.errors import ConfigError
from tracker_viz.metrics import equal_mixing, read_score_file, score, score_bytes, score_series
from tracker_viz.pipeline import compare
from tracker_viz.pipeline.comparing.compared_mixers import compare_mixers
from tracker_viz.pipeline.comparing.scored_runs import ScoredRun
from tracker_viz.trackers.local import LocalRun
from tracker_viz.types import Capture, CapturePath, CaptureRef

LENGTH = 12
N_BLOCKS, N_HEADS = 4, 3
PLACE = np.arange(LENGTH)
BACK = PLACE[:, None] - PLACE


def mixer(rate, back, sign):
    """Decay from ``back`` tokens before on; every second token with ``sign``."""
    sizes = np.where(back <= BACK, np.exp(-rate * (BACK - back)), 0)
    return np.where(BACK % 2, sign, 1) * sizes


def kinds(seed):
    """rate, tokens back and sign of each head of each block."""
    generator = np.random.default_rng(seed)
    shape = (N_BLOCKS, N_HEADS)
    return np.stack(
        [
            generator.uniform(0.1, 3, shape),
            generator.integers(0, 3, shape),
            generator.choice([-1, 1], shape),
        ],
        axis=-1,
    )


def captures_of(of_heads, *, steps=(0, 10, 20)):
    """Captures of a hybrid: block 0 attends, the others mix; maps become what they are by steps."""
    captures = []
    for step in steps:
        share = step / steps[-1]
        arrays, axes = {}, {}
        uniform = np.tril(np.ones((LENGTH, LENGTH)))
        for block in range(N_BLOCKS):
            maps = np.stack(
                [(1 - share) * uniform + share * mixer(*each) for each in of_heads[block]]
            )
            name = f"blocks.{block}.mixer.mixing"
            if block == 0:
                name = "blocks.0.attn.pattern"
                sizes = np.abs(maps) + 1e-3 * uniform
                maps = sizes / sizes.sum(-1, keepdims=True)
            arrays[name] = maps[None].repeat(2, axis=0).astype(np.float32)
            axes[name] = ("probe", "head", "query", "key")
        rows = [{"kind": "text", "label": "text", "tokens": ["a"] * LENGTH}] * 2
        captures.append(
            Capture(
                step,
                arrays,
                axes=axes,
                labels={"probe": ("text", "text 2")},
                metrics={"loss": 3.0 - share},
                model={"n_blocks": N_BLOCKS, "n_heads": N_HEADS},
                probe={"length": LENGTH, "rows": rows},
            )
        )
    return captures


def run(name, of_heads):
    scored = [score(capture) for capture in captures_of(of_heads)]
    found = mixing_run(ComparedRun(name, score_series(scored)), LENGTH)
    assert found is not None
    return found


def permuted(of_heads):
    return of_heads[:, [2, 0, 1]]


def test_permuted_mixers_find_each_other_and_are_at_distance_zero():
    one, same = run("one", kinds(0)), run("same", permuted(kinds(0)))
    matching = match_mixers([one, same], axis="step")["one", "same"]
    partner = matching.partner()
    assert partner[1, 0] == (1, 1)
    assert partner[3, 2] == (3, 0)
    assert {block for block, _ in partner} == {1, 2, 3}
    assert max(difference for *_, difference in matching.pairs) == pytest.approx(0, abs=1e-6)
    distances = mixing_distances([one, same, run("other", kinds(1))], axis="step")
    assert distances.overall[0, 1] == pytest.approx(0, abs=1e-6)
    assert 0.02 < distances.overall[0, 2] <= 1
    assert distances.percentile[0, 1] < distances.percentile[0, 2]


def test_a_memory_counts_as_a_share_of_the_longest():
    series = run("one", kinds(0)).series
    assert np.nanmax(series.heads["memory"]) <= 1
    assert series.uniform["memory"] == pytest.approx(equal_mixing(LENGTH)["memory"] / (LENGTH - 1))


def test_a_run_without_mixers_has_none_to_compare():
    captures = [score(capture) for capture in captures_of(kinds(0))]
    attends = [
        Capture(
            each.step,
            {name: array for name, array in each.arrays.items() if "mixing" not in name},
        )
        for each in captures
    ]
    assert mixing_run(ComparedRun("attends", score_series(attends)), LENGTH) is None


def scored_run(directory, of_heads):
    """A run as its file of scores gives it back."""
    captures = [score(capture) for capture in captures_of(of_heads)]
    refs = {}
    for capture in captures:
        refs[capture.step] = CaptureRef(capture.step, capture.file_name, 1, "0" * 64)
    probe = captures[0].probe
    path = directory.with_suffix(".safetensors")
    path.write_bytes(score_bytes(score_series(captures), refs, probe, ("text", "text 2")))
    kept = read_score_file(path)
    back = score_series(kept.scored({*refs.values()}))
    run = LocalRun.create(directory, name=directory.name, config={})
    compared = ComparedRun(directory.name, back, {"seed": directory.name})
    return ScoredRun(run, compared, tuple(refs.values()), (), probe, ("text",))


def test_a_comparison_writes_the_pairs_a_chart_and_what_they_say(tmp_path):
    runs = [scored_run(tmp_path / name, kinds(seed)) for name, seed in (("a", 0), ("b", 1))]
    runs.append(scored_run(tmp_path / "c", permuted(kinds(0))))
    labels = {name: f"run {name}" for name in "abc"}
    made = compare_mixers(runs, labels, tmp_path / "out", axis="step", theme="light")
    assert made.findings[0].startswith("Distances of the runs' mixers: runs of one setting")
    assert made.pictures[0].stat().st_size > 10_000
    with made.tables[0].open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 3 * N_HEADS
    same = [row for row in rows if (row["run"], row["other_run"]) == ("run a", "run c")]
    assert {float(row["difference"]) for row in same} == {0.0}
    assert (same[0]["block"], same[0]["head"], same[0]["other_head"]) == ("1", "0", "1")


def test_runs_that_only_mix_are_refused_with_the_way_to_compare_their_maps(tmp_path):
    refs = []
    for name in ("a", "b"):
        run = LocalRun.create(tmp_path / name, name=name, config={})
        for capture in captures_of(kinds(0)):
            scored = score(without_attention(capture))
            path = tmp_path / capture.file_name
            run.put_captures([CapturePath(capture_file.write(scored, path), path)])
        refs.append(f"local:{tmp_path / name}")
    with pytest.raises(ConfigError, match=r"has no attention, .* steps=\[0,null\] ranks"):
        compare(refs, output=tmp_path / "out", cache=tmp_path / "cache", progress=False)


def without_attention(capture):
    arrays = {name: each for name, each in capture.arrays.items() if "attn" not in name}
    axes = {name: capture.axes[name] for name in arrays}
    return dataclasses.replace(capture, arrays=arrays, axes=axes)
