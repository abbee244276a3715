"""The probe batch."""

from __future__ import annotations

import pytest
import torch

from tracker_viz.capture.probe import check_probe, find_repetition, make_probe, probe_from_ids
from tracker_viz.errors import ProbeError


def test_a_made_probe_repeats_different_tokens_after_bos_and_shows_text_beside_them():
    probe = make_probe(257, 64, text_ids=list(range(100)), bos_id=256, period=16)
    repeated, text, *hidden = probe.input_ids.tolist()
    assert len(hidden) == 4, "no more text is there"
    assert repeated[0] == 256
    assert len(set(repeated[1:17])) == 16
    assert 256 not in repeated[1:]
    assert all(repeated[i] == repeated[i - 16] for i in range(17, 64))
    assert text == list(range(64))
    assert probe.labels[:2] == ("repeated", "text")
    first, second, *_ = probe.description()["rows"]
    assert (first["ids"], second["ids"]) == (repeated, text)
    assert (first["kind"], first["period"], first["start"], len(first["tokens"])) == (
        "repeated",
        16,
        1,
        64,
    )
    assert second["kind"] == "text"
    assert probe.description()["length"] == 64


def test_the_same_arguments_make_the_same_probe_and_leave_the_global_generator_alone():
    state = torch.get_rng_state()
    assert torch.equal(
        make_probe(1000, 128, seed=3).input_ids, make_probe(1000, 128, seed=3).input_ids
    )
    assert not torch.equal(
        make_probe(1000, 128, seed=3).input_ids, make_probe(1000, 128, seed=4).input_ids
    )
    assert torch.equal(state, torch.get_rng_state())


def test_random_tokens_come_from_the_range_and_leave_out_what_is_excluded():
    probe = make_probe(1000, 64, token_range=(10, 40), exclude={11, 12}, bos_id=13, period=20)
    assert set(probe.input_ids[0, 1:].tolist()) <= set(range(10, 40)) - {11, 12, 13}


def rows_of(probe, kind):
    return [
        (row, ids)
        for row, ids in zip(probe.rows, probe.input_ids.tolist(), strict=True)
        if row.hidden and row.kind == kind
    ]


@pytest.mark.parametrize("bos_id", [None, 0])
def test_hidden_rows_repeat_with_other_periods_and_go_on_in_the_text(bos_id):
    text = [0, *range(1, 1000)]
    probe = make_probe(1000, 64, text_ids=text, bos_id=bos_id, score_rows=6)
    plain = make_probe(1000, 64, text_ids=text, bos_id=bos_id, score_rows=0)
    assert (probe.n_drawn, probe.n_hidden) == (2, 12)
    assert torch.equal(probe.input_ids[:2], plain.input_ids), "what is drawn is as without"
    assert probe.rows[:2] == plain.rows

    start = 0 if bos_id is None else 1
    repeated = rows_of(probe, "repeated")
    period = probe.rows[0].period
    assert [row.period for row, _ in repeated] == [period - 4, period + 4, period] * 2
    assert len({tuple(ids) for _, ids in repeated}) == 6
    for row, ids in repeated:
        assert row.start == start
        assert ids[:start] == [0][:start]
        assert all(ids[i] == ids[i - row.period] for i in range(start + row.period, 64))
        assert len(set(ids[start:])) == row.period

    n_new = 64 - start
    for index, (_, ids) in enumerate(rows_of(probe, "text")):
        begin = 64 + index * n_new
        assert ids == [*text[:start], *range(begin, begin + n_new)]


def test_a_period_that_is_given_is_never_exceeded_by_hidden_rows():
    probe = make_probe(100, 64, period=16, score_rows=3)
    assert [row.period for row, _ in rows_of(probe, "repeated")] == [12, 8, 16]


@pytest.mark.parametrize("length", range(4, 25))
def test_rows_of_any_length_repeat_as_well_as_they_can(length):
    probe = make_probe(50, length)
    periods = [row.period for row in probe.rows]
    assert periods[0] == max(length // 4, min(3, length // 2))
    assert len(periods) == (5 if length >= 6 else 1), "two copies of 3 tokens need 6"
    assert all(3 <= period <= length // 2 for period in periods[1:])
    assert len(set(periods)) == min(3, max(1, length // 2 - 2))


def test_a_vocabulary_of_two_tokens_still_has_a_repetition():
    probe = make_probe(2, 8)
    assert [row.period for row in probe.rows] == [2]


def test_hidden_rows_are_left_out_by_kind_in_turn():
    probe = make_probe(100, 32, text_ids=range(96), score_rows=2)
    kinds = ["repeated", "text", "repeated", "repeated", "text", "text"]
    assert [row.kind for row in probe.rows] == kinds
    assert [row.kind for row in probe.with_score_rows(1).rows] == ["repeated", "text"] * 2
    assert probe.with_score_rows(0).rows == probe.rows[:2]
    assert [row.kind for row in probe.with_hidden(3).rows] == [*kinds[:4], "text"]
    assert torch.equal(probe.with_hidden(1).input_ids, probe.input_ids[:3])
    assert probe.with_hidden(9) is probe


def test_hidden_rows_are_described_and_have_no_text():
    described = make_probe(100, 32, decode=str, score_rows=1).description()["rows"]
    assert "hidden" not in described[0]
    assert described[1]["hidden"] is True
    assert (described[1]["tokens"], len(described[1]["ids"])) == ([], 32)


def test_a_users_rows_get_hidden_ones_where_the_vocabulary_is_known():
    ids = torch.tensor([[7, *range(20, 51)], [7, *range(50, 81)]])
    assert probe_from_ids(ids, score_rows=3).n_hidden == 0, "tokens of an unknown vocabulary"
    probe = probe_from_ids(ids, vocab_size=100, score_rows=3)
    assert torch.equal(probe.input_ids[:2], ids)
    hidden = rows_of(probe, "repeated")
    assert [row.period for row, _ in hidden] == [5, 9, 7]
    assert all(ids[0] == 7 and 7 not in ids[1:] for _, ids in hidden), "a shared first token"
    repeating = probe_from_ids([*range(12), *range(12)], vocab_size=100, score_rows=3)
    assert [row.period for row in repeating.rows] == [12, 9, 6, 12], "as it was trained"
    alone = probe_from_ids(ids[:1], vocab_size=100, score_rows=1)
    assert alone.rows[1].start == 0
    assert probe_from_ids([[1, 0, 1]], vocab_size=2, score_rows=4).n_hidden == 0, "too short"


def test_score_rows_that_are_no_number_of_rows_are_refused():
    for wrong in (-1, 1.5, True):
        with pytest.raises(ProbeError, match="number of hidden rows of each kind, 0 for none; got"):
            make_probe(100, 32, score_rows=wrong)


def test_the_length_follows_the_context_and_the_text():
    assert make_probe(100, None).length == 128
    assert make_probe(100, 32).length == 32
    assert make_probe(100, 512, text_ids=range(50)).length == 50


def test_tokens_are_spelt_by_a_callable_or_a_tokenizer():
    class Tokenizer:
        def decode(self, ids):
            return "".join(map(chr, ids))

    assert probe_from_ids([[65, 66]], decode=Tokenizer()).rows[0].tokens == ("A", "B")
    assert probe_from_ids([[65, 66]], decode=chr).rows[0].tokens == ("A", "B")
    assert probe_from_ids([[65, 66]]).rows[0].tokens == ("65", "66")
    with pytest.raises(ProbeError, match="must turn one token id into text"):
        probe_from_ids([[65, 66]], decode=7)


@pytest.mark.parametrize(
    ("ids", "found"),
    [
        ([5, 6, 7, 5, 6, 7, 5], (3, 0)),
        ([0, 5, 6, 7, 5, 6, 7], (3, 1)),
        ([5, 6, 7, 5, 6, 8], None),
        ([4, 4, 4, 4], None),
        ([1, 2], None),
    ],
)
def test_exact_repetition_in_a_users_row_is_found(ids, found):
    assert find_repetition(ids) == found


def test_a_users_rows_are_labeled_each_by_a_name_of_its_own():
    probe = probe_from_ids(torch.tensor([[1, 2, 1, 2], [1, 2, 3, 4], [5, 6, 7, 8]]))
    assert probe.labels == ("repeated", "text", "text 2")
    assert probe.rows[0].period == 2


def test_what_a_tokenizer_returns_is_a_probe():
    assert probe_from_ids(
        {"input_ids": [[1, 2, 3]], "attention_mask": [[1, 1, 1]]}
    ).input_ids.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.zeros(2, 4), "whole numbers .* got torch.float32"),
        (torch.zeros(2, 3, 4, dtype=torch.int64), r"got shape \(2, 3, 4\)"),
        (torch.zeros(0, 4, dtype=torch.int64), r"got shape \(0, 4\)"),
        ([[1]], "a probe of one token"),
        ([[1, 2], [1]], r"rows of equal length; got list \(expected sequence of length 2"),
        (["a text"], "this is text; tokenize it with the model's tokenizer first"),
        ([], r"got shape \(1, 0\)"),
        (
            torch.zeros(1, 4, dtype=torch.int64, device="meta"),
            "on the meta device, so its token ids have no values",
        ),
        ([[1, -100]], "never negative; got -100"),
    ],
)
def test_what_is_no_batch_of_token_ids_is_refused(ids, message):
    with pytest.raises(ProbeError, match=message):
        probe_from_ids(ids)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: make_probe(10, 64),
            "16 distinct tokens needs at least as many allowed tokens; token_range leaves 10",
        ),
        (
            lambda: make_probe(100, 64, length=65),
            "65 tokens a row and the model's context holds 64",
        ),
        (
            lambda: make_probe(100, 64, length=64, text_ids=range(5)),
            "text_ids has 5 tokens for a probe of 64",
        ),
        (
            lambda: make_probe(100, 64, period=40),
            "two copies of period=40 tokens .* at most 32, or a length of at least 80",
        ),
        (lambda: make_probe(100, 64, token_range=(50, 101)), "within 0..100; got 50..101"),
        (
            lambda: make_probe(100, 64, text_ids=[99] * 63 + [100]),
            "0..99, the model's vocabulary; the probe holds 100",
        ),
        (lambda: make_probe(100, 2), "at least 4 tokens"),
        (
            lambda: check_probe(probe_from_ids([[1, 2, 3]]), vocab_size=3, context_length=None),
            "0..2, the model's vocabulary; .* holds 3",
        ),
        (
            lambda: check_probe(probe_from_ids([[1, 2, 3]]), vocab_size=None, context_length=2),
            "3 tokens a row .* context holds 2",
        ),
    ],
)
def test_a_probe_that_does_not_fit_says_why(make, message):
    with pytest.raises(ProbeError, match=message):
        make()


def test_a_probe_lies_on_the_cpu_whatever_the_default_device_is():
    with torch.device("meta"):
        made = make_probe(50, 16, bos_id=0, text_ids=list(range(20)))
        given = probe_from_ids([[1, 2, 3]])
    assert (made.input_ids.device.type, given.input_ids.device.type) == ("cpu", "cpu")
    assert torch.equal(
        made.input_ids, make_probe(50, 16, bos_id=0, text_ids=list(range(20))).input_ids
    )
