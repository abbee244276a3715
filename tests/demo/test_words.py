"""Tokens that are words: what is learned, and that nothing of the text is lost."""

from __future__ import annotations

import pytest
import torch

from tracker_viz.demo.data import BOS, VOCAB_SIZE, DataConfig, Mixture
from tracker_viz.demo.words import in_words, learned_words

TEXT = b"def attend(self, query):\n    return self.keys(query)\n\n" * 40 + "Größe\n".encode()
WORDS = learned_words(TEXT, 60)


def spelled(tokens):
    return b"".join(
        bytes([token]) if token < VOCAB_SIZE else WORDS[token - VOCAB_SIZE]
        for token in tokens.tolist()
    )


def test_frequent_words_become_one_token():
    assert {b"self", b" self", b"query", b"    "} & set(WORDS) >= {b"self", b"query", b"    "}
    tokens = in_words(b"(self, query)", WORDS, first_id=VOCAB_SIZE)
    assert len(tokens) < len(b"(self, query)") / 2


def test_nothing_of_the_text_is_lost():
    text = TEXT + bytes(range(256))
    assert spelled(in_words(text, WORDS, first_id=VOCAB_SIZE)) == text


def test_no_token_crosses_from_a_word_into_what_follows():
    assert not any(b"(" in word and any(map(str.isalpha, word.decode())) for word in WORDS)


def test_a_pair_of_equal_letters_is_joined_from_the_left():
    words = learned_words(b"aaa " * 20, 2)
    assert words[0] == b"aa"
    assert in_words(b"aaa", words[:1], first_id=300).tolist() == [300, ord("a")]


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.py"
    path.write_bytes(TEXT)
    config = DataConfig(path=str(path), words=60, max_period=12)
    return Mixture(config, 16, batch_size=4, seed=0)


def test_a_batch_of_words_stays_within_the_vocabulary(mixture):
    inputs, targets = mixture.batch()
    assert VOCAB_SIZE < mixture.vocab_size <= VOCAB_SIZE + 60
    largest = int(torch.maximum(inputs, targets).max())
    assert VOCAB_SIZE <= largest < mixture.vocab_size


def test_passages_of_the_probe_begin_with_a_line_that_is_not_indented(mixture):
    tokens = mixture.probe_text(2).tolist()
    assert tokens[0] == BOS
    texts = [mixture.token_text(token) for token in tokens[1:]]
    assert not texts[0].startswith(("␣", "↵"))
