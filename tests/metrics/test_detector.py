"""Our scores beside those of TransformerLens's head detector, whose formulas are written down here a second time, with loops."""

from __future__ import annotations

import numpy as np
import pytest

from tracker_viz.errors import ConfigError
from tracker_viz.metrics import detector, heads
from tracker_viz.metrics.probe import uniform_attention

PERIOD, START, COPIES = 8, 1, 3
TOKENS = ["<bos>", *(COPIES * list("qwertyui"))]
T = len(TOKENS)


def expected_pattern(tokens, head):
    pattern = np.zeros((len(tokens), len(tokens)))
    for query in range(len(tokens)):
        for key in range(query + 1):
            pattern[query, key] = {
                "previous_token": key == query - 1,
                "duplicate_token": key < query and tokens[key] == tokens[query],
                # the token before the key is an earlier copy of the query's
                "induction": key >= 1 and key - 1 < query and tokens[key - 1] == tokens[query],
            }[head]
    return pattern


def expected_score(attention, pattern, measure, exclude_bos=False, exclude_current_token=False):
    total = matched = difference = 0.0
    size = len(attention)
    for query in range(size):
        for key in range(size):
            if (exclude_bos and key == 0) or (exclude_current_token and key == query):
                continue
            total += attention[query, key]
            matched += attention[query, key] * pattern[query, key]
            difference += abs(attention[query, key] - pattern[query, key])
    return matched / total if measure == "mul" else 1 - difference / size**2 * size


def random_attention(seed, n_heads=3):
    weights = np.tril(np.exp(3 * np.random.default_rng(seed).normal(size=(n_heads, T, T))))
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("head", ["previous_token", "duplicate_token", "induction"])
@pytest.mark.parametrize("measure", ["mul", "abs"])
@pytest.mark.parametrize("options", [{}, {"exclude_bos": True}, {"exclude_current_token": True}], ids=["all", "no bos", "no current"])
def test_detector_gives_what_the_published_formulas_give(head, measure, options):
    attention = random_attention(0)
    pattern = detector.detection_pattern(TOKENS, head)
    np.testing.assert_array_equal(pattern, expected_pattern(TOKENS, head))
    expected = [expected_score(one, pattern, measure, **options) for one in attention]
    assert detector.detection_score(attention, pattern, measure=measure, **options) == pytest.approx(expected, abs=1e-5)


def test_on_repeated_rows_mul_counts_what_our_scores_count_over_all_queries():
    attention = random_attention(1)
    n_later = T - START - PERIOD
    for head, ours in (("induction", heads.induction), ("duplicate_token", heads.duplicate_token)):
        theirs = detector.detection_score(attention, detector.detection_pattern(TOKENS, head))
        assert theirs * T == pytest.approx(ours(attention, period=PERIOD, start=START) * n_later, rel=1e-5)
    theirs = detector.detection_score(attention, detector.detection_pattern(TOKENS, "previous_token"))
    assert theirs * T == pytest.approx(heads.previous_token(attention) * (T - 2) + attention[:, 1, 0], rel=1e-5)


def test_a_perfect_induction_head_gets_half_from_mul_and_all_from_ours():
    tokens = [0, *range(1, 33), *range(1, 33)]
    attention = np.zeros((65, 65), np.float32)
    for query in range(65):
        attention[query, query - 31 if query >= 33 else 0] = 1
    theirs = detector.detection_score(attention, detector.detection_pattern(tokens, "induction"))
    assert theirs == pytest.approx(0.49, abs=0.005)
    assert heads.induction(attention, period=32, start=1) == pytest.approx(1)


def test_abs_is_one_only_for_the_pattern_itself():
    pattern = detector.detection_pattern(TOKENS, "previous_token")
    assert detector.detection_score(pattern, pattern, measure="abs") == pytest.approx(1)
    assert detector.detection_score(uniform_attention(T), pattern, measure="abs") < 0


def test_misspelt_head_and_measure_are_named():
    with pytest.raises(ConfigError, match="did you mean 'induction'"):
        detector.detection_pattern(TOKENS, "inductoin")
    with pytest.raises(ConfigError, match="unknown error measure 'sub'"):
        detector.detection_score(uniform_attention(T), uniform_attention(T), measure="sub")
