"""Scores of attention heads: perfect heads score 1, unspecialized ones the analytic baseline, on
any probe."""

from __future__ import annotations

import numpy as np
import pytest

from tracker_viz.errors import CaptureError, ProbeError
from tracker_viz.metrics import HEAD_SCORES, chart_metrics, head_measures, head_scores
from tracker_viz.metrics.probe_rows import FIRST_QUERY, ProbeRow, probe_rows, uniform_attention

T = 64
REPEATED = ProbeRow("repeated", T, period=20, start=1)
TEXT = ProbeRow("text", T)


def scores_of(patterns, rows, **options):
    return head_scores.measure_heads(patterns, rows, **options).scores


def attention_to(target_of_query, length=T, *, otherwise=0):
    """A head that puts all its attention on one key per query: float32 [query, key]."""
    attention = np.zeros((length, length), np.float32)
    for query in range(length):
        key = target_of_query(query)
        attention[query, key if 0 <= key <= query else otherwise] = 1
    return attention


def random_heads(rng, shape, length=T, sharpness=2.0):
    """Causal softmax attention of random logits: float32 [*shape, query, key]."""
    logits = rng.normal(size=(*shape, length, length)) * sharpness
    weights = np.where(np.tril(np.ones((length, length), bool)), np.exp(logits), 0)
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


def harmonic(last):
    return sum(1 / n for n in range(1, last + 1))


PREVIOUS = attention_to(lambda i: i - 1)
CURRENT = attention_to(lambda i: i)
FIRST = attention_to(lambda i: 0)
INDUCTION = attention_to(lambda i: i - REPEATED.period + 1 if i >= 1 + REPEATED.period else 0)
DUPLICATE = attention_to(lambda i: i - REPEATED.period if i >= 1 + REPEATED.period else 0)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("previous_token", PREVIOUS),
        ("current_token", CURRENT),
        ("sink", FIRST),
        ("induction", INDUCTION),
        ("duplicate_token", DUPLICATE),
    ],
)
def test_perfect_head_scores_one_and_no_other_perfect_head_does(name, head):
    perfect = {
        "previous_token": PREVIOUS,
        "current_token": CURRENT,
        "sink": FIRST,
        "induction": INDUCTION,
        "duplicate_token": DUPLICATE,
    }
    measure = HEAD_SCORES[name].measure
    assert measure(head, REPEATED) == pytest.approx(1)
    others = [measure(other, REPEATED) for kind, other in perfect.items() if kind != name]
    assert max(others) < 0.4, (
        "the sink head is where the synthetic induction head rests in the first copy, nothing more"
    )


def test_uniform_attention_gives_the_analytic_baselines():
    """Sums of 1/(i+1), written down independently of the measures."""
    one_key = (harmonic(T) - 1 - 1 / 2) / (T - 2)  # mean of 1/(i+1) over i = 2..T-1
    first_copy_end = REPEATED.start + REPEATED.period
    copies = [(i - REPEATED.start) // REPEATED.period / (i + 1) for i in range(first_copy_end, T)]
    expected = {
        "previous_token": one_key,
        "current_token": one_key,
        **dict.fromkeys(("previous_token_repeated", "previous_token_text"), one_key),
        **dict.fromkeys(("current_token_repeated", "current_token_text"), one_key),
        "learned_sink": 0,
        **dict.fromkeys(("sink", "sink_repeated", "sink_text"), harmonic(T) / T),  # from i = 0 on
        "confidence": one_key,
        **dict.fromkeys(("induction", "induction_min"), np.mean(copies)),
        **dict.fromkeys(("duplicate_token", "duplicate_token_min"), np.mean(copies)),
        "entropy": 1,
        "specialisation": 0,
        "divergence": 0,
        "positional_share": 1 / (T - 2),
        "distance": np.mean([i / 2 for i in range(2, T)]),
    }
    assert set(expected) == set(HEAD_SCORES)
    for name, value in expected.items():
        assert HEAD_SCORES[name].uniform([REPEATED, TEXT]) == pytest.approx(value, abs=2e-6), name


def test_shuffled_attention_falls_to_the_analytic_baseline():
    """Each row's weights dealt anew to the keys it may see: whatever the head was, only the spread
    is left."""
    rng = np.random.default_rng(0)
    shuffled = np.zeros((200, T, T), np.float32)
    for head in range(len(shuffled)):
        for query in range(T):
            shuffled[head, query, : query + 1] = rng.permutation(INDUCTION[query, : query + 1])
    for name in ("previous_token", "current_token", "sink", "induction", "duplicate_token"):
        uniform = HEAD_SCORES[name].uniform([REPEATED])
        assert HEAD_SCORES[name].measure(shuffled, REPEATED).mean() == pytest.approx(
            uniform, abs=0.006
        ), name


def test_attention_without_softmax_or_with_a_recency_bias_has_no_sink():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(8, T, T))
    causal = np.tril(np.ones((T, T), bool))
    # Ramapuram et al. 2024: sigmoid attention with the bias -log(n)
    sigmoid = np.where(causal, 1 / (1 + np.exp(-(logits - np.log(T)))), 0).astype(np.float32)
    back = np.subtract.outer(np.arange(T), np.arange(T))
    alibi = np.where(causal, np.exp(logits - 0.25 * back), 0)
    alibi = (alibi / alibi.sum(-1, keepdims=True)).astype(np.float32)
    assert head_measures.sink(sigmoid).max() < 0.05
    assert head_measures.sink(alibi).max() < 0.1
    assert head_measures.sink(FIRST) == 1


def test_sink_and_its_share_are_those_of_gu():
    """``[sequence, block, head, query, key]`` -> share of heads, by the formula of their published
    code, written down a second time."""
    rng = np.random.default_rng(3)
    rests = rng.random((2, 3, 4, T, 1)) < rng.random((2, 3, 4, 1, 1))
    attention = np.where(rests, FIRST, random_heads(rng, (2, 3, 4)))
    importance = (attention / np.arange(T, 0, -1)).sum(
        -2
    )  # of the key at k: its mean over the T - k queries that see it
    published = (importance > 0.3).mean((0, 1, 2))[0]
    np.testing.assert_allclose(head_measures.sink(attention), importance[..., 0], rtol=1e-5)
    assert 0.2 < published < 0.8
    scores = scores_of(dict(enumerate(attention.swapaxes(0, 1))), [REPEATED, TEXT], n_blocks=3)
    assert chart_metrics(scores, {}, ())["attn/sink_share"] == pytest.approx(published)


def test_induction_counts_every_earlier_copy():
    row = ProbeRow("repeated", 1 + 4 * 8, period=8, start=1)
    oldest = attention_to(lambda i: 1 + (i - 1) % 8 + 1 if i >= 9 else 0, row.length)
    assert head_measures.induction(oldest, period=8, start=1) == pytest.approx(1)


def test_induction_ignores_the_first_copy_and_the_beginning_of_sequence():
    anything = INDUCTION.copy()
    anything[: REPEATED.start + REPEATED.period] = uniform_attention(T)[
        : REPEATED.start + REPEATED.period
    ]
    assert head_measures.induction(anything, period=20, start=1) == pytest.approx(1)


def test_entropy_is_zero_for_one_key_and_half_between():
    assert head_measures.entropy(PREVIOUS) == pytest.approx(0, abs=1e-6)
    square_root_many = np.zeros((1, T, T), np.float32)
    for query in range(T):
        n = max(round(np.sqrt(query + 1)), 1)
        square_root_many[0, query, :n] = 1 / n
    assert head_measures.entropy(square_root_many)[0] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("length", [8, 34])
def test_spread_scores_are_what_their_definitions_say(length):
    rng = np.random.default_rng(2)
    check_spread_scores(random_heads(rng, (6,), length), atol=1e-4)


def test_divergences_of_a_long_probe_lie_near_the_mean_over_all_queries():
    rng = np.random.default_rng(3)
    check_spread_scores(random_heads(rng, (6,), length=128), atol=0.05)


def test_spread_scores_are_those_of_rows_that_sum_to_one():
    rng = np.random.default_rng(4)
    attention = random_heads(rng, (6,), length=34)
    leaking = attention * rng.uniform(0.1, 1, attention.shape[:-1]).astype(np.float32)[..., None]
    for measure in (
        head_measures.entropy,
        head_measures.specialisation,
        head_measures.divergence,
        head_measures.distance,
        head_measures.positional_share,
    ):
        np.testing.assert_allclose(
            measure(leaking), measure(attention), atol=1e-4, err_msg=measure.__name__
        )


def check_spread_scores(attention, *, atol):
    """Entropy on every query, Jensen-Shannon divergences by way of Kullback-Leibler ones, all in
    float64."""
    length = attention.shape[-1]
    rows = attention[:, FIRST_QUERY:].astype(np.float64)
    uniform = uniform_attention(length)[FIRST_QUERY:].astype(np.float64)
    log = np.log2(np.maximum(rows, 1e-300))
    entropy = -(rows * log).sum(-1) / np.log2(np.arange(FIRST_QUERY, length) + 1)
    assert head_measures.entropy(attention) == pytest.approx(entropy.mean(-1), abs=1e-5)

    def kl(p, q):
        return np.where(
            p > 0, p * (np.log2(np.maximum(p, 1e-300)) - np.log2(np.maximum(q, 1e-300))), 0
        ).sum(-1)

    middle = (rows + uniform) / 2
    from_uniform = (kl(rows, middle) + kl(np.broadcast_to(uniform, rows.shape), middle)) / 2
    assert head_measures.specialisation(attention) == pytest.approx(from_uniform.mean(-1), abs=atol)
    others = (rows.sum(0) - rows) / 5
    middle = (rows + others) / 2
    assert head_measures.divergence(attention) == pytest.approx(
        ((kl(rows, middle) + kl(others, middle)) / 2).mean(-1), abs=atol
    )


def test_picking_single_tokens_is_the_most_specialised():
    one_of = [
        0.5 * np.log2(2 * n / (n + 1)) + 0.5 * (np.log2(2 / (n + 1)) / n + (n - 1) / n)
        for n in range(3, T + 1)
    ]
    assert head_measures.specialisation(PREVIOUS[None])[0] == pytest.approx(
        np.mean(one_of), abs=0.02
    )
    assert head_measures.specialisation(PREVIOUS[None])[0] == pytest.approx(0.87, abs=0.01), (
        "as the docstring says"
    )


def windowed(attention, width):
    """The same heads behind a sliding window: float16, as captures hold it."""
    inside = np.tril(np.ones((T, T), bool)) & ~np.tril(np.ones((T, T), bool), -width)
    cut = np.where(inside, attention, 0)
    return (cut / cut.sum(-1, keepdims=True)).astype(np.float16).astype(np.float32)


@pytest.mark.parametrize("width", [2, 8, 32, 60])
def test_a_sliding_window_is_no_specialisation(width):
    uniform = windowed(np.broadcast_to(uniform_attention(T), (3, T, T)), width)
    assert head_measures.window(uniform) == width
    assert head_measures.entropy(uniform) == pytest.approx(1, abs=1e-3)
    assert head_measures.specialisation(uniform) == pytest.approx(0, abs=1e-3)


def test_heads_behind_a_window_are_measured_by_the_keys_that_they_may_see():
    rng = np.random.default_rng(20)
    heads = windowed(random_heads(rng, (4,)), 16)
    assert head_measures.window(heads) == 16
    rows = heads[:, FIRST_QUERY:].astype(np.float64)
    entropy = -(rows * np.log(np.maximum(rows, 1e-300))).sum(-1)
    expected = (entropy / np.log(np.minimum(np.arange(FIRST_QUERY, T) + 1, 16))).mean(-1)
    np.testing.assert_allclose(head_measures.entropy(heads), expected, atol=1e-3)
    sharp = np.stack([*heads[:3], PREVIOUS])
    assert head_measures.window(sharp) == 16, "its other heads show the window"
    assert head_measures.specialisation(sharp)[3] > 0.6


@pytest.mark.parametrize(
    "heads",
    [
        PREVIOUS[None],
        CURRENT[None],
        np.stack([PREVIOUS, attention_to(lambda i: i - 5)]),
        np.stack([PREVIOUS, INDUCTION]),
        random_heads(np.random.default_rng(21), (1,), sharpness=6.0).astype(np.float16),
        np.zeros((2, T, T), np.float32),
        np.full((2, T, T), np.nan, np.float32),
    ],
    ids=["previous", "current", "two sharp", "induction", "half precision", "nothing", "NaN"],
)
def test_zeros_of_sharp_heads_are_no_window(heads):
    assert head_measures.window(heads) is None


def test_a_decay_that_underflows_is_no_window():
    back = np.subtract.outer(np.arange(T), np.arange(T))
    rng = np.random.default_rng(22)
    logits = rng.normal(size=(1, T, T)) - 0.5 * back
    decayed = np.where(back >= 0, np.exp(logits), 0)
    decayed = (decayed / decayed.sum(-1, keepdims=True)).astype(np.float16)
    assert decayed[0, -1, 0] == 0
    assert head_measures.window(decayed.astype(np.float32)) is None


def test_one_query_that_is_not_finite_leaves_the_other_heads_their_divergence():
    attention = random_heads(np.random.default_rng(23), (4,), length=16)
    whole = head_measures.divergence(attention)
    broken = attention.copy()
    broken[1, 9] = np.nan
    with np.errstate(all="raise"):
        found = head_measures.divergence(broken)
    assert np.isnan(found).tolist() == [False, True, False, False]
    np.testing.assert_allclose(found[[0, 2, 3]], whole[[0, 2, 3]], atol=0.05)
    without = np.delete(attention, 1, axis=0)
    broken[1] = np.nan
    np.testing.assert_allclose(
        head_measures.divergence(broken)[[0, 2, 3]], head_measures.divergence(without), rtol=1e-5
    )
    assert np.isnan(head_measures.divergence(broken[:2])).all(), "no other head is left"


def test_divergence_tells_the_odd_head_out():
    attention = np.stack([PREVIOUS, PREVIOUS, PREVIOUS, FIRST])
    scores = head_measures.divergence(attention)
    assert scores[3] == pytest.approx(1, abs=0.05)
    assert np.all(scores[:3] < 0.3)
    alone = head_measures.divergence(attention[:1])
    assert alone.shape == (1,)
    assert np.isnan(alone).all(), "a head alone in its block is like nothing"


def test_positional_share_finds_a_fixed_distance_but_no_sink():
    assert head_measures.positional_share(np.stack([attention_to(lambda i: i - 5)]))[0] > 0.9
    assert head_measures.positional_share(FIRST[None])[0] < 0.05


def test_resting_on_the_first_token_is_no_confidence():
    assert head_measures.confidence(FIRST) == 0
    assert head_measures.confidence(PREVIOUS) == pytest.approx(1)


def test_distance_is_in_tokens():
    assert head_measures.distance(attention_to(lambda i: i - 1)[None])[0] == pytest.approx(1)
    assert head_measures.distance(FIRST[None])[0] == pytest.approx(np.mean(np.arange(2, T)))


def test_a_learned_sink_that_takes_all_attention_does_not_hide_the_queries_that_do_attend():
    attention = PREVIOUS[None].copy()
    attention[0, 10:20] = 0
    assert head_measures.distance(attention)[0] == pytest.approx(1)
    assert head_measures.entropy(attention)[0] == pytest.approx(0, abs=1e-6)
    assert np.isnan(head_measures.entropy(np.zeros_like(attention))[0])


@pytest.mark.parametrize("seed", range(5))
def test_properties_hold_for_any_causal_attention(seed):
    rng = np.random.default_rng(seed)
    length = int(rng.integers(6, 90))
    start = int(rng.integers(0, 2))
    row = ProbeRow("repeated", length, int(rng.integers(2, length - start)), start)
    attention = random_heads(rng, (2, 5), length, sharpness=rng.uniform(0, 8))
    order = rng.permutation(5)
    for name, score in HEAD_SCORES.items():
        values = score.measure(attention, row)
        assert values.shape == (2, 5), name
        assert np.isfinite(values).all(), name
        top = length - 1 if score.unit == "tokens" else 1 + 1e-5
        assert (values >= 0).all(), name
        assert (values <= top).all(), name
        np.testing.assert_allclose(
            score.measure(attention[:, order], row),
            values[:, order],
            atol=2e-6,
            err_msg=f"{name}: order of heads",
        )
        in_half = score.measure(attention.astype(np.float16).astype(np.float32), row)
        np.testing.assert_allclose(
            in_half, values, atol=2e-3 * max(1, top), err_msg=f"{name}: float16"
        )
    mixture = {
        "previous_token",
        "current_token",
        "sink",
        "induction",
        "duplicate_token",
    }  # linear in the attention
    uniform = uniform_attention(length)
    for name in mixture:
        measure = HEAD_SCORES[name].measure
        half = measure((attention + uniform) / 2, row)
        np.testing.assert_allclose(
            half, (measure(attention, row) + measure(uniform, row)) / 2, atol=1e-6
        )


def test_every_head_of_every_block_is_scored_and_missing_ones_are_nan():
    rng = np.random.default_rng(4)
    rows = [REPEATED, TEXT]
    patterns = {0: random_heads(rng, (2, 3)), 2: random_heads(rng, (2, 5)).astype(np.float16)}
    scores = scores_of(patterns, rows, n_blocks=4)
    assert set(scores) == set(HEAD_SCORES) - {"learned_sink"}
    for name, values in scores.items():
        assert values.shape == (4, 5)
        assert values.dtype == np.float32
        assert np.isfinite(values[0, :3]).all(), name
        assert np.isfinite(values[2]).all(), name
        assert np.isnan(values[[1, 3]]).all(), name
        assert np.isnan(values[0, 3:]).all(), name
    expected = (head_measures.sink(patterns[0][0]) + head_measures.sink(patterns[0][1])) / 2
    np.testing.assert_allclose(scores["sink"][0, :3], expected, rtol=1e-6)
    np.testing.assert_allclose(
        scores["sink_repeated"][0, :3], head_measures.sink(patterns[0][0]), rtol=1e-6
    )
    np.testing.assert_allclose(
        scores["previous_token_repeated"][0, :3],
        head_measures.previous_token(patterns[0][0]),
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        scores["sink_text"][0, :3], head_measures.sink(patterns[0][1]), rtol=1e-6
    )
    np.testing.assert_allclose(
        scores["induction"][0, :3],
        head_measures.induction(patterns[0][0], period=20, start=1),
        rtol=1e-6,
    )


def test_two_threads_score_what_one_does(monkeypatch):
    rng = np.random.default_rng(10)
    patterns = {block: random_heads(rng, (2, 3)) for block in (0, 1, 4)}
    one = scores_of(patterns, [REPEATED, TEXT], n_blocks=5)
    monkeypatch.setattr(head_scores, "MANY_ENTRIES", 1)
    two = scores_of(patterns, [REPEATED, TEXT], n_blocks=5)
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])


def test_heads_kept_by_a_budget_stand_at_their_own_place():
    patterns = {0: random_heads(np.random.default_rng(5), (1, 2))}
    scores = scores_of(patterns, [TEXT], n_blocks=1, heads={0: [1, 6]})
    assert np.flatnonzero(np.isfinite(scores["sink"][0])).tolist() == [1, 6]


def test_a_probe_without_repetition_has_no_induction_score():
    scores = scores_of({0: random_heads(np.random.default_rng(6), (1, 2))}, [TEXT], n_blocks=1)
    assert "induction" not in scores
    assert "duplicate_token" not in scores
    assert "sink_repeated" not in scores
    assert np.isnan(HEAD_SCORES["induction"].uniform([TEXT]))
    assert head_scores.uniform_scores((TEXT,)).keys() == scores.keys()


@pytest.mark.parametrize(
    ("name", "perfect"), [("previous_token", PREVIOUS), ("current_token", CURRENT)]
)
def test_a_head_that_does_it_in_one_kind_of_row_alone_gets_that_rows_share(name, perfect):
    """One of three rows for a head that does it in text alone, two for one that does it in repeats
    alone."""
    in_text, in_repeats = np.stack([FIRST, FIRST, perfect]), np.stack([perfect, perfect, FIRST])
    pattern = np.stack([in_text, in_repeats], axis=1)
    scores = scores_of({0: pattern}, [REPEATED, REPEATED, TEXT], n_blocks=1)
    np.testing.assert_allclose(scores[name], [[1 / 3, 2 / 3]], rtol=1e-6)


def test_a_learned_sink_column_is_no_position():
    attention = random_heads(np.random.default_rng(7), (1, 2))
    with_sink = np.concatenate([attention / 2, np.full((1, 2, T, 1), 0.5, np.float32)], -1)
    for dtype in (np.float32, np.float16):
        scores = scores_of({0: with_sink.astype(dtype)}, [TEXT], n_blocks=1)
        np.testing.assert_allclose(
            scores["sink"][0], head_measures.sink(attention[0]) / 2, rtol=2e-3
        )
        for name in ("entropy", "distance", "specialisation"):
            np.testing.assert_allclose(
                scores[name][0], HEAD_SCORES[name].measure(attention[0], TEXT), rtol=5e-3
            )
        np.testing.assert_allclose(scores["learned_sink"][0], 0.5, rtol=2e-3)
        assert (scores["confidence"] < 0.5).all(), (
            "half of the attention goes to the sink, which is not a token"
        )


def test_a_learned_sink_is_scored_where_a_block_has_one():
    attention = random_heads(np.random.default_rng(7), (1, 2))
    with_sink = np.concatenate([attention / 4, np.full((1, 2, T, 1), 0.75, np.float32)], -1)
    with_sink[:, :, :2, -1] = 0  # as of every score, the first two queries do not count
    scores = scores_of({0: attention, 1: with_sink}, [TEXT], n_blocks=2)
    np.testing.assert_allclose(scores["learned_sink"], [[np.nan] * 2, [0.75] * 2], rtol=1e-6)
    assert "learned_sink" not in scores_of({0: attention}, [TEXT], n_blocks=1)


def test_a_score_has_the_standard_deviation_over_its_rows():
    rng = np.random.default_rng(12)
    rows = [REPEATED, TEXT, ProbeRow("repeated", T, 11, 1), ProbeRow("repeated", T, 20, 1)]
    patterns = {1: random_heads(rng, (4, 3))}
    measured = head_scores.measure_heads(patterns, rows, n_blocks=2)
    assert measured.n_rows["previous_token"] == 4
    assert measured.n_rows["induction"] == measured.n_rows["induction_min"] == 3
    assert measured.n_rows["sink_text"] == 1
    assert "sink_text" not in measured.sd
    assert set(measured.sd) == {name for name, count in measured.n_rows.items() if count > 1}
    for name in ("previous_token", "previous_token_repeated", "induction", "entropy"):
        score = HEAD_SCORES[name]
        of_rows = [
            score.measure(attention, row)
            for attention, row in zip(patterns[1], rows, strict=True)
            if row in score.measured_on(rows)
        ]
        np.testing.assert_allclose(measured.scores[name][1], np.mean(of_rows, 0), rtol=1e-6)
        np.testing.assert_allclose(measured.sd[name][1], np.std(of_rows, 0, ddof=1), rtol=1e-5)
        assert measured.sd[name].dtype == np.float32
        assert np.isnan(measured.sd[name][0]).all()
    np.testing.assert_array_equal(measured.sd["induction_min"], measured.sd["induction"])


def test_a_head_that_looks_a_fixed_distance_back_is_no_induction_head_on_other_periods():
    rows = [REPEATED, ProbeRow("repeated", T, 15, 1), ProbeRow("repeated", T, 15, 1)]
    fixed = attention_to(lambda i: i - REPEATED.period + 1)
    inducing = [
        attention_to(lambda i, p=row.period: i - p + 1 if i >= 1 + p else 0) for row in rows
    ]
    pattern = np.stack([np.stack([fixed, head]) for head in inducing])
    alone = scores_of({0: pattern[:1]}, rows[:1], n_blocks=1)
    assert alone["induction_min"][0, 0] == pytest.approx(1), "one period cannot tell"
    scores = scores_of({0: pattern}, rows, n_blocks=1)
    assert scores["induction_min"][0, 0] < 0.05
    assert scores["induction"][0, 0] == pytest.approx(1 / 3, abs=0.05)
    assert scores["induction_min"][0, 1] == pytest.approx(1)


def test_the_least_period_is_the_lowest_mean_and_not_the_lowest_row():
    rows = [ProbeRow("repeated", T, period, 1) for period in (20, 11, 11, 20)]
    pattern = random_heads(np.random.default_rng(13), (4, 5))
    scores = scores_of({0: pattern}, rows, n_blocks=1)
    of_rows = [
        head_measures.duplicate_token(attention, period=row.period, start=1)
        for attention, row in zip(pattern, rows, strict=True)
    ]
    of_periods = [(of_rows[0] + of_rows[3]) / 2, (of_rows[1] + of_rows[2]) / 2]
    np.testing.assert_allclose(scores["duplicate_token_min"][0], np.minimum(*of_periods), rtol=1e-5)
    uniform = {
        period: HEAD_SCORES["induction"].uniform([rows[i]]) for i, period in ((0, 20), (1, 11))
    }
    assert HEAD_SCORES["induction_min"].uniform(rows) == pytest.approx(min(uniform.values()))


@pytest.mark.parametrize("length", range(4, 65))
def test_uniform_heads_are_no_induction_heads_in_any_context(length):
    """Repeat as ``make_probe`` does: 4 copies, or 2 of 3 tokens where there is room for no more."""
    period = max(length // 4, min(3, length // 2))
    row = ProbeRow("repeated", length, period, 0)
    uniform = np.broadcast_to(uniform_attention(length), (1, 2, length, length))
    scores = scores_of({0: uniform}, [row], n_blocks=1)
    assert ("induction" in scores) == (length >= 6)
    for name in {"induction", "induction_min", "duplicate_token"} & set(scores):
        assert (scores[name] < 0.28).all(), name


@pytest.mark.parametrize("period", [1, 2])
def test_rows_of_a_period_too_short_to_tell_copies_apart_have_no_induction_score(period, caplog):
    head_scores._warn_that_periods_are_short.cache_clear()
    short = ProbeRow("repeated", 8, period, 0)
    uniform = np.broadcast_to(uniform_attention(8), (1, 2, 8, 8))
    for _ in range(2):
        scores = scores_of({0: uniform}, [short], n_blocks=1)
    assert not {"induction", "induction_min", "duplicate_token"} & set(scores)
    assert "sink_repeated" in scores
    assert "induction" not in head_scores.uniform_scores((short,))
    assert caplog.text.count("there are no induction") == 1
    assert "a period of at least 3" in caplog.text


def test_attention_that_is_not_finite_scores_nan_and_leaves_other_blocks_alone():
    rng = np.random.default_rng(8)
    patterns = {0: random_heads(rng, (2, 2)), 1: random_heads(rng, (2, 2))}
    patterns[0][:, 1] = np.nan
    with np.errstate(all="raise"):
        scores = scores_of(patterns, [REPEATED, TEXT], n_blocks=2)
    assert all(np.isnan(values[0, 1]) for values in scores.values())
    alone = scores.pop("divergence")
    assert np.isnan(alone[0]).all(), "nor is there another head to compare the first one with"
    assert all(np.isfinite(values[0, 0]) for values in scores.values())
    assert all(np.isfinite(values[1]).all() for values in scores.values())


def test_patterns_that_do_not_fit_the_probe_are_refused_with_both_shapes():
    pattern = random_heads(np.random.default_rng(9), (1, 2))
    with pytest.raises(
        ProbeError, match=r"\[probe 2, head, query 64, key 64\].*got \[1, 2, 64, 64\]"
    ):
        scores_of({0: pattern}, [REPEATED, TEXT], n_blocks=1)
    with pytest.raises(
        CaptureError,
        match=r"blocks\.2\.attn\.pattern is there, but the capture's model has 2 blocks",
    ):
        scores_of({2: pattern}, [TEXT], n_blocks=2)


def test_probe_rows_are_read_from_a_capture_and_checked():
    probe = {
        "length": 64,
        "rows": [
            {"kind": "repeated", "period": 20, "start": 1, "tokens": ["a"]},
            {"kind": "text", "tokens": ["b"]},
        ],
    }
    assert probe_rows(probe) == (REPEATED, TEXT)
    with pytest.raises(ProbeError, match=r"needs Capture\.probe"):
        probe_rows({})
    with pytest.raises(ProbeError, match=r"needs Capture\.probe"):
        probe_rows({"length": 64, "rows": [{"kind": "repeated"}]})
    with pytest.raises(ProbeError, match="beginning of a second copy"):
        probe_rows({"length": 20, "rows": [{"kind": "repeated", "period": 20, "start": 0}]})
    with pytest.raises(ProbeError, match="'repeated' or 'text'; got 'poem'"):
        probe_rows({"length": 20, "rows": [{"kind": "poem"}]})
