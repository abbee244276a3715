"""Scores of experts and routers, against their formulas written out token by token."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tracker_viz.capture.budget import Budget
from tracker_viz.errors import CaptureError
from tracker_viz.metrics import (
    EXPERT_SCORES,
    ROUTER_SCORES,
    Scorer,
    ScoreSeries,
    find_events,
    run_sentence,
    score_series,
)
from tracker_viz.metrics.mixtures import expert_measures as measures
from tracker_viz.types import Capture

PAGE = (Path(__file__).parents[2] / "docs" / "pages" / "scores.md").read_text()
ROWS, LENGTH, EXPERTS, K = 4, 24, 6, 2
IS_TEXT = np.array([False, True, False, True])


def drawn(seed=0, experts=EXPERTS, rows=ROWS, length=LENGTH, k=K):
    """Random routers: probabilities, chosen and weights, as a capture holds them."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (rows, length, experts)) + np.linspace(-1.5, 1.5, experts)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    chosen = np.argsort(-probabilities, axis=-1)[..., :k]
    return probabilities, chosen, np.take_along_axis(probabilities, chosen, -1)


def token_ids(seed=1):
    return np.random.default_rng(seed).integers(0, 9, (ROWS, LENGTH))


def pairs(chosen):
    """Every (row, token, expert) of the choices, one by one."""
    return [
        (row, token, int(expert))
        for row in range(chosen.shape[0])
        for token in range(chosen.shape[1])
        for expert in chosen[row, token]
    ]


def test_load_is_the_tokens_of_an_expert_over_an_even_share():
    _, chosen, _ = drawn()
    counts = Counter(expert for _, _, expert in pairs(chosen))
    even = ROWS * LENGTH * K / EXPERTS
    expected = [counts[expert] / even for expert in range(EXPERTS)]
    assert measures.load(chosen, EXPERTS) == pytest.approx(expected)
    assert np.mean(expected) == pytest.approx(1)


def test_an_expert_that_no_token_went_to_is_dead():
    chosen = np.zeros((1, 8, 2), np.int64)
    chosen[..., 1] = 3
    assert measures.load(chosen, 4).tolist() == [2, 0, 0, 2]
    assert measures.dead_share(chosen, 4) == 0.5
    assert measures.imbalance(chosen, 4) == 1


def test_text_share_compares_the_shares_of_both_kinds_of_row():
    _, chosen, _ = drawn()
    expected = []
    for expert in range(EXPERTS):
        shares = []
        for kind in (True, False):
            of_kind = [each for row, _, each in pairs(chosen) if IS_TEXT[row] == kind]
            shares.append(of_kind.count(expert) / len(of_kind))
        expected.append(shares[0] / sum(shares))
    assert measures.text_share(chosen, EXPERTS, IS_TEXT) == pytest.approx(expected)


def test_text_share_is_one_half_without_a_preference_however_many_rows_of_a_kind():
    rows = np.tile(np.arange(8).reshape(1, 8, 1), (5, 1, 1))
    is_text = np.array([True, False, False, False, False])
    assert measures.text_share(rows, 8, is_text) == pytest.approx(0.5)
    assert np.isnan(measures.text_share(rows, 8, np.ones(5, bool))).all()


def test_vocabulary_counts_the_other_occurrences_of_a_token_that_went_the_same_way():
    _, chosen, _ = drawn()
    ids = token_ids()
    places = [(row, token) for row in range(ROWS) for token in range(1, LENGTH)]
    for expert, found in enumerate(measures.vocabulary(chosen, EXPERTS, ids)):
        again = possible = 0
        for here in places:
            for other in places:
                if here == other or ids[here] != ids[other] or expert not in chosen[here]:
                    continue
                possible += 1
                again += expert in chosen[other]
        assert found == pytest.approx(again / possible)


def test_vocabulary_of_a_router_that_knows_nothing_of_tokens_is_the_experts_share():
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, 4, (16, 400, 1))
    ids = rng.integers(0, 20, (16, 400))
    assert measures.vocabulary(chosen, 4, ids) == pytest.approx(0.25, abs=0.02)
    by_token = (ids % 4)[..., None]
    assert measures.vocabulary(by_token, 4, ids).tolist() == [1, 1, 1, 1]


def test_entropy_is_one_for_even_probabilities_and_zero_for_one_expert():
    probabilities, _, _ = drawn()
    expected = np.mean(
        [
            -sum(p * math.log(p) for p in probabilities[row, token]) / math.log(EXPERTS)
            for row in range(ROWS)
            for token in range(LENGTH)
        ]
    )
    assert measures.entropy(probabilities) == pytest.approx(expected)
    # Sigmoid routers are scaled first.
    assert measures.entropy(0.3 * probabilities) == pytest.approx(expected)
    assert measures.entropy(np.full((1, 2, 8), 0.7)) == pytest.approx(1)
    assert measures.entropy(np.eye(4)[None]) == 0
    assert math.isnan(measures.entropy(np.full((1, 1, 4), np.nan)))


def test_changed_counts_the_tokens_whose_greatest_weight_moved():
    chosen = np.array([[[2, 0], [1, 3], [3, 1]]])
    weights = np.array([[[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]])
    first = measures.first_experts(chosen, weights)
    assert first.tolist() == [[2, 3, 3]]
    assert measures.changed(first, np.array([[2, 1, 3]])) == pytest.approx(1 / 3)


def capture(step=0, seed=0, blocks=(1, 2), **options):
    arrays, axes = {}, {}
    for block in blocks:
        probabilities, chosen, weights = drawn(seed + block, **options)
        name = f"blocks.{block}.mlp.router"
        arrays |= {
            name: probabilities.astype(np.float16),
            f"{name}.chosen": chosen.astype(np.float16),
            f"{name}.weight": weights.astype(np.float16),
        }
        axes |= {name: ("probe", "token", "expert")}
        axes |= {f"{name}.{part}": ("probe", "token", "choice") for part in ("chosen", "weight")}
    rows = [
        {"kind": "text" if is_text else "repeated", "period": 5, "start": 1, "ids": ids.tolist()}
        for is_text, ids in zip(IS_TEXT, token_ids(), strict=True)
    ]
    return Capture(
        step=step,
        arrays=arrays,
        axes=axes,
        labels={"probe": ("repeated", "text", "hidden", "hidden")},
        model={"n_blocks": 4},
        probe={"length": LENGTH, "rows": rows},
    )


def test_a_scored_capture_has_every_score_of_its_routers_and_a_series_stacks_them():
    scorer = Scorer()
    scored = [scorer(capture(step, seed=10 * step)) for step in (0, 1)]
    names = {name for name in scored[1].arrays if name.startswith("scores.")}
    assert names == {f"scores.expert.{name}" for name in EXPERT_SCORES} | {
        f"scores.router.{name}" for name in ROUTER_SCORES
    }
    load = scored[1].arrays["scores.expert.load"]
    assert load.shape == (4, EXPERTS)
    assert np.isnan(load[[0, 3]]).all()
    assert scored[1].axes["scores.expert.load"] == ("block", "expert")
    assert scored[1].axes["scores.router.changed"] == ("block", "router")

    first = [drawn(10 * step + 1)[1][..., 0] for step in (0, 1)]
    changed = [each.arrays["scores.router.changed"][1, 0] for each in scored]
    assert math.isnan(changed[0])
    assert changed[1] == pytest.approx((first[0] != first[1]).mean())
    series = score_series(scored)
    assert series.experts["load"].shape == (2, 4, EXPERTS)
    assert series.routers["entropy"].shape == (2, 4, 1)
    metrics = scored[1].metrics
    assert {name for name in metrics if name.startswith("router/")} >= {
        "router/entropy_mean",
        "router/changed_mean",
        "router/imbalance_max",
    }


def loads(*of_experts):
    """A run whose one block has experts of these loads, capture by capture."""
    load = np.array(of_experts, np.float32).T[:, None]
    steps = np.arange(len(load)) * 10
    return ScoreSeries(steps, {}, experts={"load": load})


def test_an_expert_that_gets_no_token_to_the_end_is_an_event_with_its_words():
    (event,) = find_events(loads([1, 1, 1, 1, 1, 1], [1, 2, 1, 0, 0, 0]))
    assert (event.kind, event.first_step, event.last_step) == ("dead_experts", 20, 30)
    assert event.headline == "expert dies"
    assert event.text == "20–30: expert 1 of block 0 gets no token of the probe any more"
    (both,) = find_events(loads([2, 2, 2, 2, 2], [1, 0, 0, 0, 0], [1, 0, 0, 0, 0]))
    assert both.caption == "2 experts in block 0 get no token of the probe any more"


@pytest.mark.parametrize(
    "load", [[1, 0, 0, 0, 1], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0], [0.05, 0, 0, 0]]
)
def test_an_expert_that_comes_back_never_lived_or_is_idle_for_a_while_is_no_event(load):
    assert find_events(loads([1] * len(load), load)) == []


def test_a_router_without_its_choices_is_refused_by_name():
    raw = capture()
    arrays = {name: array for name, array in raw.arrays.items() if not name.endswith(".chosen")}
    with pytest.raises(CaptureError, match=r"blocks\.1\.mlp\.router\.chosen must be \[probe"):
        Scorer()(Capture(0, arrays, raw.axes, probe=raw.probe))


def test_routers_of_many_experts_are_thinned_by_block_after_all_of_them_were_scored():
    raw = capture(blocks=range(60), experts=256, k=8)
    scored = Scorer()(Capture(**{**vars_of(raw), "model": {"n_blocks": 60}}))
    kept = Budget(max_mb=1.5).fit(scored)
    nbytes = sum(array.nbytes for array in kept.arrays.values())
    assert nbytes <= 1.5e6
    routers = [name for name in kept.arrays if name.endswith(".mlp.router")]
    assert kept.model["cut"] == {"router_blocks": len(routers)}
    assert 1 < len(routers) < 60
    assert {f"{name}.chosen" for name in routers} <= set(kept.arrays)
    assert kept.arrays["scores.expert.load"].shape == (60, 256)
    assert np.isfinite(kept.arrays["scores.expert.load"]).all()


def vars_of(made):
    return {name: getattr(made, name) for name in made.__dataclass_fields__}


def test_every_score_of_mixtures_is_on_the_page():
    section = PAGE.partition("## Mixtures of experts\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert [re.match(r"\| `(\w+)`", row)[1] for row in rows] == [*EXPERT_SCORES, *ROUTER_SCORES]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 6 for row in rows)


def routed(n_blocks=2, n_experts=4, **scores):
    """A run of some captures; each score is given capture by capture, the same in all blocks, of
    experts for each of them."""
    experts, routers = {}, {}
    for name, values in scores.items():
        values = np.array(values, np.float32)
        if values.ndim == 1:
            routers[name] = values[:, None, None].repeat(n_blocks, 1)
        else:
            experts[name] = values[:, None].repeat(n_blocks, 1)
    n_captures = len(values)
    return ScoreSeries(np.arange(n_captures) * 10, {}, experts=experts, routers=routers)


def test_routing_settles_once_tokens_keep_their_expert_to_the_end():
    nan = math.nan
    (event,) = find_events(routed(changed=[nan, 0.02, 0.5, 0.6, 0.2, 0.05, nan, 0.04, 0.03]))
    assert (event.kind, event.first_step, event.last_step) == ("settled_routing", 30, 50)
    assert event.text == (
        "30–50: 95% of the tokens keep their first expert from capture to capture (40% before)"
    )
    assert event.past_headline == "since 50: routing settles"


@pytest.mark.parametrize(
    "changed",
    [[0.5, 0.05, 0.05], [0.2, 0.05, 0.05, 0.05], [0.5, 0.05, 0.05, 0.05, 0.3], [math.nan] * 5],
    ids=["too short", "never unsettled", "unsettled in the end", "unknown"],
)
def test_routing_that_did_not_settle_for_long_from_unrest_is_no_event(changed):
    assert find_events(routed(changed=changed)) == []


def test_a_router_that_comes_to_use_few_experts_collapses():
    even, mixed, one = [1, 1, 1, 1], [2, 1, 1, 0.4], [0.04, 3.9, 0.03, 0.03]
    found = find_events(routed(load=[even, even, mixed, one, one, one]))
    assert [(event.kind, event.last_step) for event in found] == [("router_collapse", 30)] * 2
    assert found[0].experts[0] == (0, 1), "the busiest first"
    assert found[0].caption == (
        "the router of block 0 sends most tokens to 1 of its experts (3 before)"
    )
    assert find_events(routed(load=[even, even, one, one, one, even])) == []


def test_experts_that_take_one_kind_of_tokens_are_an_event_for_each_kind():
    even = [[1, 1, 1, 1]] * 6
    mixed, special, more = [0.5] * 4, [0.95, 0.5, 0.5, 0.02], [0.96, 0.5, 0.92, 0.02]
    share = [mixed, mixed, special, special, more, more]
    text, repeats = find_events(routed(1, load=even, text_share=share))
    assert (text.headline, text.first_step, text.last_step) == ("expert of text", 10, 20)
    assert text.caption == "expert 0 of block 0 takes mostly text (96%)"
    assert repeats.caption == "expert 3 of block 0 takes mostly repeated random tokens (98%)"
    assert run_sentence([text, repeats]) == "experts: 1 of text, 1 of repeats"
    assert {repeats.who, text.who} == {"L0E0", "L0E3"}
    idle = [[1, 1, 1, 1]] * 5 + [[0.01, 1, 1, 0.01]]
    assert find_events(routed(1, load=idle, text_share=share)) == []
