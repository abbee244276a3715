"""Token ids as text, by whatever people pass as ``decode``, also where the tokenizer lacks ids."""

from __future__ import annotations

import pytest
import tokenizers
import torch
import transformers

from tracker_viz.capture import make_probe
from tracker_viz.capture.spelling import Speller
from tracker_viz.errors import ProbeError

N_WORDS, PADDED = 64, 96
WORDS = {f"w{index}": index for index in range(N_WORDS)}
ITOS = {index: word for word, index in WORDS.items()}


class Strict:
    """tiktoken, and slow tokenizers: an unknown id is an error; only lists are taken."""

    def decode(self, ids):
        return "".join(ITOS[token] for token in ids)


class Panic(BaseException):
    """A Rust tokenizer's panic is no Exception."""


def panicking(token):
    if token >= N_WORDS:
        raise Panic(token)
    return ITOS[token]


RAW = tokenizers.Tokenizer(tokenizers.models.WordLevel(WORDS, unk_token="w0"))
FAST = transformers.PreTrainedTokenizerFast(tokenizer_object=RAW)
DECODERS = {
    "a tokenizer that is strict": Strict(),
    "its decode": Strict().decode,
    "tokenizers": RAW,
    "a fast tokenizer": FAST,
    "convert_ids_to_tokens": FAST.convert_ids_to_tokens,
    "a function of an id": lambda token: ITOS[token],
    "a function of a list": lambda tokens: "".join(ITOS[token] for token in tokens),
    "a function that gives bytes": lambda token: ITOS[token].encode(),
    "a table": ITOS,
    "a vocabulary": WORDS,
    "a list": list(WORDS),
    "a tokenizer that panics": panicking,
}


@pytest.mark.parametrize("name", DECODERS)
def test_ids_are_spelled_as_people_write_it_and_unknown_ones_are_numbers(name):
    spell = Speller(DECODERS[name])
    assert [spell(token) for token in (0, 7, 63, 64, 95)] == ["w0", "w7", "w63", "64", "95"]


@pytest.mark.parametrize("name", DECODERS)
def test_a_probe_is_drawn_from_the_tokens_that_the_tokenizer_has(name):
    probe = make_probe(PADDED, 64, decode=DECODERS[name])
    assert int(probe.input_ids.max()) < N_WORDS
    assert all(token in WORDS for token in probe.rows[0].tokens)


def test_a_tokenizer_with_too_few_tokens_does_not_stop_the_probe():
    probe = make_probe(PADDED, 64, decode={0: "a", 1: "b"}, period=30)
    assert probe.rows[0].period == 30


def test_without_a_tokenizer_all_ids_are_drawn():
    assert int(make_probe(PADDED, 128).input_ids.max()) >= N_WORDS


def test_a_decode_that_never_gives_text_is_named_once_and_its_error_with_it(caplog):
    probe = make_probe(PADDED, 16, text_ids=range(16), decode=lambda: "x")
    assert probe.rows[1].tokens == tuple(map(str, range(16)))
    assert "decode returned no text for any token" in caplog.text
    assert "TypeError" in caplog.text


def test_ctrl_c_inside_a_decode_is_not_held_back():
    def interrupted(token):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Speller(interrupted)(1)


@pytest.mark.parametrize("wrong", [7, "text", b"bytes"])
def test_what_is_no_decode_is_refused(wrong):
    with pytest.raises(ProbeError, match="must turn one token id into text"):
        Speller(wrong)


def test_a_text_of_ids_beyond_the_tokenizer_is_shown_as_it_is():
    text = torch.arange(56, 72)
    tokens = make_probe(PADDED, 16, text_ids=text, decode=Strict()).rows[1].tokens
    assert tokens[7:9] == ("w63", "64")
