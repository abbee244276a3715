"""Our scores beside those of TransformerLens's own head detector: equal on the same queries, and by
how much they differ on all of them.

Its measure "mul" is the share of a map's whole attention that lies on a detection pattern; ours are
means over the queries that can do what is looked for. Rows of attention sum to 1, so with the other
queries' rows left empty the two are the same number. Its measure "abs" also counts what lies beside
the pattern, and has no counterpart here.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformer_lens import head_detector

from tracker_viz.metrics import head_measures

PERIOD, START, COPIES = 8, 1, 3
T = START + COPIES * PERIOD
TOKENS = torch.tensor([[0, *(COPIES * list(range(1, PERIOD + 1)))]])
FIRST_REPEAT = START + PERIOD


def random_attention(n_heads=3, seed=0):
    weights = np.tril(np.exp(3 * np.random.default_rng(seed).normal(size=(n_heads, T, T))))
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


def theirs(attention, pattern):
    score = head_detector.compute_head_attention_similarity_score
    options = {"exclude_bos": False, "exclude_current_token": False, "error_measure": "mul"}
    return np.array([score(torch.from_numpy(one.copy()), pattern, **options) for one in attention])


def ours(name, attention):
    copies = {
        "induction": head_measures.induction,
        "duplicate_token": head_measures.duplicate_token,
    }
    return (
        copies[name](attention, period=PERIOD, start=START)
        if name in copies
        else head_measures.previous_token(attention)
    )


@pytest.mark.parametrize(
    ("name", "first_query"),
    [("previous_token", 2), ("induction", FIRST_REPEAT), ("duplicate_token", FIRST_REPEAT)],
)
def test_scores_equal_the_detectors_on_the_queries_that_can_do_it(name, first_query):
    attention = random_attention()
    pattern = getattr(head_detector, f"get_{name}_head_detection_pattern")(TOKENS)
    asked = attention.copy()
    asked[:, :first_query] = 0
    np.testing.assert_allclose(ours(name, attention), theirs(asked, pattern), rtol=1e-5)
    # over all queries: the same attention, divided by all rows; and with query 1, whose previous
    # token is the first one as well
    beside = attention[:, 1, 0] if name == "previous_token" else 0
    np.testing.assert_allclose(
        ours(name, attention) * (T - first_query) + beside,
        T * theirs(attention, pattern),
        rtol=1e-5,
    )


def test_a_perfect_induction_head_gets_half_from_the_detector_and_all_from_ours():
    tokens = torch.tensor([[0, *range(1, 33), *range(1, 33)]])
    attention = np.zeros((1, 65, 65), np.float32)
    for query in range(65):
        attention[0, query, query - 31 if query >= 33 else 0] = 1
    assert theirs(
        attention, head_detector.get_induction_head_detection_pattern(tokens)
    ) == pytest.approx(0.49, abs=0.005)
    assert head_measures.induction(attention, period=32, start=1) == pytest.approx(1)
