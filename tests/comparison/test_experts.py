"""Experts of two runs are paired by the tokens that they get."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from tracker_viz import capture_file
from tracker_viz.comparison import ComparedRun, RoutedRun, experts_sentence, match_experts
from tracker_viz.errors import ConfigError
from tracker_viz.metrics import Scorer, read_score_file, score_bytes, score_series
from tracker_viz.pipeline.comparing.compared_experts import compare_experts
from tracker_viz.pipeline.comparing.scored_runs import ScoredRun
from tracker_viz.trackers.local import LocalRun
from tracker_viz.types import Capture, CapturePath

TOKENS, K = 60, 2


def choices(seed, experts, tokens=TOKENS):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(tokens, experts)) + np.linspace(0, 2, experts)
    return np.argsort(-logits, axis=-1)[:, :K]


def routed(name, seed=0, blocks=(0, 1), experts=5, n_blocks=None, order=None):
    chosen = {block: choices(seed + block, experts) for block in blocks}
    if order is not None:
        chosen = {block: np.asarray(order)[each] for block, each in chosen.items()}
    return RoutedRun(name, chosen, dict.fromkeys(blocks, experts), n_blocks or max(blocks) + 1)


def test_permuted_experts_find_each_other_and_agree_in_everything():
    order = [3, 0, 4, 1, 2]
    found = match_experts(routed("a"), routed("b", order=order))
    assert found.agreement == 1
    assert found.percentile == 0
    assert [pair[:2] for pair in found.pairs] == [
        ((block, expert), (block, order[expert])) for block in (0, 1) for expert in range(5)
    ]
    assert {alike for *_, alike in found.pairs} == {1}


def test_the_pairs_share_as_many_tokens_as_any_pairing_could():
    a, b = routed("a", seed=3, blocks=[0], experts=4), routed("b", seed=9, blocks=[0], experts=4)
    most = 0
    for order in itertools.permutations(range(4)):
        most = max(
            most,
            sum(
                np.isin(order[expert], b.chosen[0][token])
                for token in range(TOKENS)
                for expert in a.chosen[0][token]
            ),
        )
    assert match_experts(a, b).agreement == pytest.approx(most / (TOKENS * K))


def test_routers_that_have_nothing_to_do_with_each_other_agree_as_chance_does():
    ranks = [match_experts(routed("a", seed=s), routed("b", seed=s + 100)) for s in range(8)]
    for found in ranks:
        assert found.agreement == pytest.approx(found.chance, abs=0.1)
    assert np.mean([found.percentile for found in ranks]) > 0.2


def test_models_of_other_depth_and_other_numbers_of_experts_are_matched_by_relative_depth():
    found = match_experts(
        routed("a", blocks=[0, 1], experts=3), routed("b", blocks=[1, 3], experts=6, n_blocks=4)
    )
    blocks = Counter((a[0], b[0]) for a, b, _ in found.pairs)
    assert blocks == {(0, 1): 3, (1, 3): 3}
    assert 0 < found.agreement < 1


def test_runs_that_routed_other_numbers_of_tokens_are_refused():
    few = RoutedRun("few", {0: choices(0, 4, tokens=10)}, {0: 4}, 1)
    with pytest.raises(ConfigError, match="few routed 10 tokens, a 60"):
        match_experts(few, routed("a"))
    with pytest.raises(ConfigError, match="none has no routers"):
        match_experts(routed("a"), RoutedRun("none", {}, {}, 1))


def scored_run(directory, seed, *, ids=tuple(range(TOKENS)), mixture=True):
    """A run whose capture holds what one row of the probe chose."""
    arrays = {}
    if mixture:
        chosen = choices(seed, 4)[None]
        arrays = {
            "blocks.0.mlp.router": np.full((1, TOKENS, 4), 0.25, np.float16),
            "blocks.0.mlp.router.chosen": chosen.astype(np.float16),
            "blocks.0.mlp.router.weight": np.full((1, TOKENS, K), 0.5, np.float16),
        }
    probe = {"length": TOKENS, "rows": [{"kind": "text", "ids": list(ids)}]}
    capture = Scorer()(Capture(0, arrays, model={"n_blocks": 1}, probe=probe))
    run = LocalRun.create(directory, name=directory.name, config={})
    path = directory.parent / capture.file_name
    ref = capture_file.write(capture, path)
    run.put_captures([CapturePath(ref, path)])
    # As a run's file of scores gives them back.
    path.write_bytes(score_bytes(score_series([capture]), {0: ref}, probe, ("text",)))
    compared = ComparedRun(directory.name, read_score_file(path).series)
    return ScoredRun(run, compared, (ref,), (), probe, ("text",))


def test_a_comparison_writes_the_pairs_and_says_what_they_share(tmp_path):
    runs = [scored_run(tmp_path / name, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    labels = {name: f"run {name}" for name in "abc"}
    made = compare_experts(runs, labels, tmp_path / "out", tmp_path / "cache")
    assert [path.name for path in made.paths] == ["experts.csv"]
    header, *lines = made.paths[0].read_text().splitlines()
    assert header.startswith("run,block,expert,other_run,")
    assert lines[0] == "run a,0,0,run b,0,0,1.0,1.0," + lines[0].rpartition(",")[2]
    assert len(lines) == 3 * 4
    assert made.findings[0].startswith("Experts of 3 pairs of runs, matched by their tokens, share")
    assert "100 %; by chance" in made.findings[0]


def test_experts_are_not_matched_over_other_tokens_and_not_looked_for_without_a_mixture(tmp_path):
    runs = [scored_run(tmp_path / "a", 1), scored_run(tmp_path / "b", 1, ids=range(1, TOKENS + 1))]
    made = compare_experts(runs, {"a": "a", "b": "b"}, tmp_path / "out", None)
    assert not made.paths
    assert "the probes hold different tokens" in made.notes[0]
    plain = [scored_run(tmp_path / name, 0, mixture=False) for name in ("c", "d")]
    assert not compare_experts(plain, {"c": "c", "d": "d"}, tmp_path / "out", None).findings


def test_one_pair_of_runs_is_said_without_a_range():
    found = match_experts(routed("a"), routed("b"))
    assert experts_sentence({("a", "b"): found}).startswith(
        "Experts of 1 pair of runs, matched by their tokens, share 100 % of the choices (by chance"
    )
