"""Heads matched by what they did: permuted heads are matched back, identical runs are at distance
0, shuffled ones are the baseline."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster

from tracker_viz.comparison import (
    BEHAVIOR,
    ComparedRun,
    behaviors,
    chance_distance,
    cluster_heads,
    clustering,
    distance,
    distance_matrix,
    match_heads,
    matched_orders,
    ranking,
)
from tracker_viz.comparison.matching import Behavior
from tracker_viz.errors import ConfigError
from tracker_viz.metrics import ScoreSeries

STEPS = np.arange(0, 1000, 25)
UNIFORM = {**dict.fromkeys(BEHAVIOR, 0.05), "entropy": 1.0}


def learning_run(name, *, shape=(3, 4), seed=0, steps=STEPS, noise=0.01, roles=None):
    """Heads that take roles along sigmoids. ``roles``: (block, head) -> (score, onset step); the
    same ones for every seed by default."""
    rng = np.random.default_rng(seed)
    heads = {score: np.full((len(steps), *shape), UNIFORM[score], np.float32) for score in BEHAVIOR}
    roles = roles or {
        (0, 1): ("previous_token", 300),
        (1, 2): ("induction", 500),
        (2, 0): ("sink", 200),
        (2, 3): ("duplicate_token", 700),
    }
    for (block, head), (score, onset) in roles.items():
        heads[score][:, block, head] += 0.85 / (1 + np.exp(-(steps - onset) / 20))
        heads["entropy"][:, block, head] -= 0.7 / (1 + np.exp(-(steps - onset) / 20))
    heads = {
        score: np.clip(values + noise * rng.normal(size=values.shape), 0, 1).astype(np.float32)
        for score, values in heads.items()
    }
    return ComparedRun(name, ScoreSeries(steps, heads, uniform=UNIFORM))


def permuted(run, name, seed=0):
    """The same run with the heads of every block in another order: (run, block -> order)."""
    rng = np.random.default_rng(seed)
    n_blocks, n_heads = run.series.shape
    order = np.stack([rng.permutation(n_heads) for _ in range(n_blocks)])
    heads = {
        score: np.take_along_axis(values, order[None], axis=2)
        for score, values in run.series.heads.items()
    }
    return ComparedRun(name, ScoreSeries(run.series.steps, heads, uniform=UNIFORM)), order


@pytest.mark.parametrize("seed", range(5))
def test_permuted_heads_are_matched_back(seed):
    run = learning_run("a", seed=seed)
    other, order = permuted(run, "b", seed)
    a, b = behaviors([run, other])
    matching = match_heads(a, b)
    assert len(matching.pairs) == 12
    for (block, head), (other_block, other_head), difference in matching.pairs:
        assert block == other_block
        assert order[block][other_head] == head
        assert difference == 0


@pytest.mark.parametrize(
    ("a", "b"),
    [([[0, 0], [0.5, 0]], [[0.5, 0], [0.9, 0.3]]), ([[1, 0], [-0.3, 0]], [[0.3, 0.9], [0.31, 0]])],
    ids=["squares, not lengths", "stronger heads first"],
)
def test_the_pairing_has_the_least_sum_of_squares_weighted_by_what_is_at_stake(a, b):
    uniform = np.zeros(2, np.float32)
    of_a, of_b = (
        Behavior(((0, 0), (0, 1)), np.array(vectors, np.float32), uniform, n_blocks=1)
        for vectors in (a, b)
    )
    assert match_heads(of_a, of_b).partner() == {(0, 0): (0, 0), (0, 1): (0, 1)}


def test_matched_order_lines_up_the_same_behavior():
    run = learning_run("a")
    other, order = permuted(run, "b")
    lined_up = matched_orders([run, other])[1]
    for block, heads in lined_up.items():
        assert [order[block][head] for head in heads] == [0, 1, 2, 3]


def test_heads_without_a_partner_stand_last():
    order = matched_orders([learning_run("a", noise=0), learning_run("b", shape=(3, 6), noise=0)])[
        1
    ]
    assert {block: sorted(heads) for block, heads in order.items()} == {
        block: list(range(6)) for block in range(3)
    }
    assert order[1][2] == 2, "the induction head beside the induction head"


def test_heads_that_do_the_same_in_other_places_are_found_within_the_model_only():
    a = learning_run("a", roles={(0, 0): ("induction", 400)}, noise=0)
    b = learning_run("b", roles={(2, 3): ("induction", 400)}, noise=0)
    first, second = behaviors([a, b])
    assert match_heads(first, second, scope="model").partner()[0, 0] == (2, 3)
    assert match_heads(first, second, scope="block").partner()[0, 0][0] == 0
    assert distance(first, second, scope="model") == pytest.approx(0, abs=1e-6)
    assert distance(first, second, scope="block") > 0.03


def test_identical_runs_and_permuted_runs_are_at_distance_zero():
    run = learning_run("a")
    matrix = distance_matrix([run, permuted(run, "b")[0], learning_run("c", seed=9)])
    assert matrix.names == ("a", "b", "c")
    assert matrix.overall[0, 1] == 0
    assert np.all(np.diag(matrix.overall) == 0)
    assert np.all(matrix.by_depth[:, 0, 1] == 0)
    np.testing.assert_array_equal(matrix.overall, matrix.overall.T)


def test_two_seeds_lie_between_zero_and_the_shuffled_baseline():
    matrix = distance_matrix([learning_run("a", seed=1), learning_run("b", seed=2)])
    assert 0 < matrix.overall[0, 1] < 0.5 * matrix.shuffled[0, 1]
    assert matrix.shuffled[0, 1] > 0.05


def random_run(name, n_heads, *, seed, n_blocks=3):
    """Heads that take random roles at random steps: nothing in common with another seed."""
    rng = np.random.default_rng(seed)
    steps = np.arange(0, 200, 10)
    heads = {}
    for score in BEHAVIOR:
        onset = rng.integers(30, 150, (n_blocks, n_heads))
        top = rng.uniform(0, 0.9, (n_blocks, n_heads))
        heads[score] = (0.02 + top * (steps[:, None, None] >= onset)).astype(np.float32)
    return ComparedRun(name, ScoreSeries(steps, heads, uniform=UNIFORM))


@pytest.mark.parametrize("n_heads", [4, 8, 16, 32])
def test_unrelated_heads_are_at_chance_however_many_there_are(n_heads):
    shares = []
    for seed in range(0, 24, 4):
        runs = [random_run(str(index), n_heads, seed=seed + index) for index in range(4)]
        matrix = distance_matrix(runs, n_shuffles=30)
        shares += (matrix.overall / matrix.shuffled)[np.triu_indices(4, 1)].tolist()
    assert np.mean(shares) == pytest.approx(1.0, abs=0.03)


def test_percentiles_of_unrelated_runs_are_spread_evenly_and_those_of_alike_runs_are_low():
    percentiles = []
    for seed in range(0, 40, 2):
        runs = [random_run("a", 6, seed=seed), random_run("b", 6, seed=seed + 1)]
        percentiles.append(distance_matrix(runs, n_shuffles=60).percentile[0, 1])
    assert 0.3 < np.mean(percentiles) < 0.7
    assert np.min(percentiles) < 0.3
    assert np.max(percentiles) > 0.7
    alike = distance_matrix([learning_run("a", seed=1), learning_run("b", seed=2)])
    assert alike.percentile[0, 1] < 0.02
    assert alike.n_shuffles == 200


def test_chance_does_not_depend_on_which_run_comes_first_and_is_the_same_each_time():
    runs = [random_run("small", 4, seed=0), random_run("large", 7, seed=1)]
    a, b = behaviors(runs)
    assert distance(a, b) == pytest.approx(distance(b, a))
    forward, backward = chance_distance(a, b), chance_distance(b, a)
    assert forward.mean == pytest.approx(backward.mean, rel=0.03)
    np.testing.assert_array_equal(forward.distances, chance_distance(a, b).distances)


def test_heads_that_all_stayed_uniform_are_at_distance_zero_and_chance_has_no_share():
    idle = [learning_run(name, roles={(0, 0): ("sink", 5000)}, noise=0) for name in "ab"]
    matrix = distance_matrix(idle)
    assert matrix.overall[0, 1] == matrix.shuffled[0, 1] == 0
    assert matrix.percentile[0, 1] == 1, "no more alike than any shuffle"


def erased(run, heads, name="erased"):
    """The run, with some heads that never became anything."""
    scores = {score: values.copy() for score, values in run.series.heads.items()}
    for score, values in scores.items():
        for block, head in heads:
            values[:, block, head] = UNIFORM[score]
    return ComparedRun(name, ScoreSeries(run.series.steps, scores, uniform=UNIFORM))


def test_erasing_all_induction_heads_is_no_less_than_the_difference_of_two_seeds():
    """Seeds: the same roles in other heads of the block, taken earlier or later, and among many
    heads that each differ a little."""
    roles = {
        (0, 1): ("previous_token", 300),
        (1, 2): ("induction", 500),
        (1, 3): ("induction", 520),
        (2, 0): ("sink", 200),
    }
    other = {
        (0, 0): ("previous_token", 350),
        (1, 1): ("induction", 590),
        (1, 0): ("induction", 610),
        (2, 2): ("sink", 240),
    }
    run = learning_run("a", shape=(3, 8), roles=roles, noise=0.03)
    seed = learning_run("b", shape=(3, 8), roles=other, noise=0.03, seed=5)
    matrix = distance_matrix([run, seed, erased(run, [(1, 2), (1, 3)])])
    assert matrix.overall[0, 2] > 1.3 * matrix.overall[0, 1]


@pytest.mark.parametrize("end", [12, 20, 39])
def test_the_same_run_stopped_early_is_at_distance_zero_and_no_head_is_matched_wrongly(end):
    run = random_run("whole", 6, seed=3)
    scores = {name: values[:end] for name, values in run.series.heads.items()}
    stopped = ComparedRun("stopped", ScoreSeries(run.series.steps[:end], scores, uniform=UNIFORM))
    whole_and_other = [run, permuted(stopped, "stopped")[0], random_run("other", 6, seed=4)]
    matrix = distance_matrix(whole_and_other)
    assert matrix.axis == "step"
    assert matrix.overall[0, 1] == 0
    assert matrix.percentile[0, 1] <= 1 / 200

    a, b = behaviors([run, stopped])
    assert all(first == second for first, second, _ in match_heads(a, b).pairs)
    order = matched_orders([run, stopped])[1]
    assert all(heads == tuple(range(6)) for heads in order.values())


def test_a_run_that_was_killed_early_shortens_no_comparison_of_the_others():
    long = [learning_run("a", seed=1), learning_run("b", seed=2)]
    killed = learning_run("killed", seed=3, steps=STEPS[:4])
    alone, beside = distance_matrix(long), distance_matrix([*long, killed])
    assert beside.overall[0, 1] == alone.overall[0, 1]
    grouped = cluster_heads([*long, killed])
    assert grouped.left_out == ("killed",)
    assert set(grouped.runs) == {"a", "b"}


def test_a_difference_in_one_block_shows_at_its_depth_alone():
    other = {
        (0, 1): ("previous_token", 300),
        (1, 2): ("current_token", 500),
        (2, 0): ("sink", 200),
        (2, 3): ("duplicate_token", 700),
    }
    matrix = distance_matrix([learning_run("a", noise=0), learning_run("b", roles=other, noise=0)])
    assert matrix.by_depth[[0, 2], 0, 1] == pytest.approx(0, abs=1e-6)
    assert matrix.by_depth[1, 0, 1] > 0.05
    assert 0 < matrix.overall[0, 1] < matrix.by_depth[1, 0, 1]


def test_the_more_two_runs_differ_the_greater_their_distance():
    reference = learning_run("a", noise=0)
    later = {
        (0, 1): ("previous_token", 300),
        (1, 2): ("induction", 700),
        (2, 0): ("sink", 200),
        (2, 3): ("duplicate_token", 700),
    }
    other = {
        (0, 1): ("current_token", 300),
        (1, 2): ("current_token", 500),
        (2, 0): ("current_token", 200),
        (2, 3): ("current_token", 700),
    }
    runs = [
        reference,
        learning_run("later", roles=later, noise=0),
        learning_run("other", roles=other, noise=0),
    ]
    overall = distance_matrix(runs).overall[0]
    assert overall[0] == 0 < overall[1] < overall[2]


def test_different_schedules_change_little():
    dense = learning_run("dense", noise=0)
    sparse = learning_run(
        "sparse", steps=np.unique((975 * (np.arange(30) / 29) ** 1.5).astype(int)), noise=0
    )
    a, b = behaviors([dense, sparse])
    assert distance(a, b) < 0.01


def test_on_the_axis_of_steps_runs_are_compared_over_the_steps_that_both_have():
    long = learning_run("long", noise=0.0)
    half = learning_run("half", noise=0.0, steps=STEPS[: len(STEPS) // 2])
    by_step, by_progress = (
        [each for *_, each in match_heads(*behaviors([long, half], axis=axis)).pairs]
        for axis in ("step", "progress")
    )
    assert max(by_step) == pytest.approx(0, abs=1e-6)
    assert max(by_progress) > 0.1


def test_extra_heads_count_by_what_they_became():
    small = learning_run("a", noise=0)
    idle, busy = learning_run("b", shape=(3, 8), noise=0), learning_run("c", shape=(3, 8), noise=0)
    for block in range(3):
        busy.series.heads["current_token"][:, block, 4:] = 0.9
    a, b, c = behaviors([small, idle, busy])
    assert len(match_heads(a, b).left_b) == 12
    assert match_heads(a, b).left_a == ()
    assert distance(a, b) == pytest.approx(0, abs=1e-6), "heads that became nothing add nothing"
    assert distance(a, c) > 0.1
    assert distance(c, a) == pytest.approx(distance(a, c))


def test_models_of_other_depth_are_compared_at_the_same_relative_depth():
    shallow = learning_run(
        "a",
        shape=(2, 2),
        roles={(0, 0): ("previous_token", 300), (1, 1): ("induction", 500)},
        noise=0,
    )
    deep = learning_run(
        "b",
        shape=(4, 2),
        roles={(1, 0): ("previous_token", 300), (3, 1): ("induction", 500)},
        noise=0,
    )
    a, b = behaviors([shallow, deep])
    partner = match_heads(a, b).partner()
    assert partner[0, 0] == (1, 0)
    assert partner[1, 1] == (3, 1)
    assert distance_matrix([shallow, deep]).by_depth.shape == (2, 2, 2)
    with pytest.raises(ConfigError, match="these models have 2 and 4 blocks: use order=index"):
        matched_orders([shallow, deep])


def test_missing_heads_take_no_part():
    run = learning_run("a")
    for values in run.series.heads.values():
        values[:, 0, 3] = np.nan
    (a, b) = behaviors([run, learning_run("b")])
    assert (0, 3) not in a.heads
    assert len(a.heads) == 11
    assert len(match_heads(a, b).left_b) == 1


def test_runs_without_a_score_or_a_stretch_in_common_are_refused():
    run = learning_run("a")
    other = ComparedRun(
        "b",
        ScoreSeries(STEPS, {"divergence": run.series.heads["sink"]}, uniform={"divergence": 0.0}),
    )
    with pytest.raises(ConfigError, match="b: divergence"):
        behaviors([run, other])
    with pytest.raises(ConfigError, match="needs the scores sink, kurtosis in every run"):
        behaviors([run, learning_run("b")], scores=("sink", "kurtosis"))
    with pytest.raises(ConfigError, match="no step in common"):
        behaviors([run, learning_run("late", steps=STEPS + 5000)], axis="step")
    with pytest.raises(ConfigError, match="within a 'block' or within the 'model'; got 'layer'"):
        match_heads(*behaviors([run, learning_run("b")]), scope="layer")


def test_clusters_put_heads_of_one_kind_side_by_side_across_runs():
    runs = [learning_run("a", seed=1), permuted(learning_run("b", seed=2), "b", 3)[0]]
    grouped = cluster_heads(runs)
    assert grouped.values.shape == (24, len(BEHAVIOR) * 24)
    groups = fcluster(grouped.linkage, 5, criterion="maxclust")
    of_induction = [
        groups[index]
        for index, (run, (block, head)) in enumerate(zip(grouped.runs, grouped.heads, strict=True))
        if runs["ab".index(run)].series.heads["induction"][-1, block, head] > 0.5
    ]
    assert len(of_induction) == 2
    assert len(set(of_induction)) == 1
    assert (groups == of_induction[0]).sum() == 2
    assert grouped.labels[5] == "a L1H1"
    column = list(grouped.scores).index("induction") * 24 + 23
    induction_at_end = [
        runs["ab".index(run)].series.heads["induction"][-1][head]
        for run, head in zip(grouped.runs, grouped.heads, strict=True)
    ]
    np.testing.assert_allclose(grouped.values[:, column], induction_at_end, atol=1e-6)


def test_of_more_heads_than_a_picture_holds_the_most_specialised_of_each_run_are_grouped(
    monkeypatch,
):
    monkeypatch.setattr(clustering, "MAX_CLUSTERED_HEADS", 8)
    runs = [learning_run("a"), learning_run("b", seed=1)]
    grouped = cluster_heads(runs)
    assert [list(grouped.runs).count(name) for name in "ab"] == [4, 4]
    assert {
        head for run, head in zip(grouped.runs, grouped.heads, strict=True) if run == "a"
    } == set(ranking(runs[0].series)[:4])


def compared_run(name, scores):
    """scores: score -> [head] values at the end, 0 at the start."""
    heads = {
        score: np.stack([np.zeros((1, len(values))), *[np.tile(values, (1, 1))] * 2]).astype(
            np.float32
        )
        for score, values in scores.items()
    }
    return ComparedRun(
        name, ScoreSeries(np.array([0, 10, 20]), heads, uniform=dict.fromkeys(heads, 0.05))
    )


def test_matched_heads_stand_in_the_column_of_the_first_runs_head_that_did_the_same():
    first = compared_run("first", {"induction": [0.9, 0.0, 0.5], "sink": [0.0, 0.9, 0.0]})
    permuted = compared_run("permuted", {"induction": [0.0, 0.5, 0.9], "sink": [0.9, 0.0, 0.0]})
    fewer = compared_run("fewer", {"induction": [0.0], "sink": [0.9]})
    more = compared_run("more", {"induction": [0.1, 0.5, 0.0, 0.9], "sink": [0.1, 0.0, 0.9, 0.0]})
    orders = matched_orders([first, permuted, fewer, more])
    assert [order[0] for order in orders] == [(0, 1, 2), (2, 0, 1), (None, 0, None), (3, 2, 1, 0)]


def test_the_first_heads_of_a_run_are_of_as_many_roles_as_there_are():
    run = compared_run(
        "run",
        {
            "induction": [0.9, 0.8, 0.0, 0.1],
            "sink": [0.0, 0.0, 0.7, 0.1],
            "specialisation": [0.9, 0.8, 0.7, 0.95],
        },
    )
    assert [head for _, head in ranking(run.series)] == [0, 2, 3, 1]
