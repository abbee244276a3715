"""The probe batch."""

from __future__ import annotations

import pytest
import torch

from tracker_viz.capture.probe import check_probe, find_repetition, make_probe, probe_from_ids
from tracker_viz.errors import ProbeError


def test_a_made_probe_repeats_different_tokens_after_bos_and_shows_text_beside_them():
    probe = make_probe(257, 64, text_ids=list(range(100)), bos_id=256, period=16)
    repeated, text = probe.input_ids.tolist()
    assert repeated[0] == 256
    assert len(set(repeated[1:17])) == 16
    assert 256 not in repeated[1:]
    assert all(repeated[i] == repeated[i - 16] for i in range(17, 64))
    assert text == list(range(64))
    assert probe.labels == ("repeated", "text")
    first, second = probe.description()["rows"]
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


def test_a_users_rows_are_labelled_each_by_a_name_of_its_own():
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
        (["a text"], "this is text; give what the model's tokenizer makes of it"),
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
            "a period of 16 different tokens needs as many to choose from; token_range leaves 10",
        ),
        (
            lambda: make_probe(100, 64, length=65),
            "65 tokens a row and the model's context holds 64",
        ),
        (
            lambda: make_probe(100, 64, length=64, text_ids=range(5)),
            "text_ids has 5 tokens for a probe of 64",
        ),
        (lambda: make_probe(100, 64, period=40), "two copies of period=40 tokens"),
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
