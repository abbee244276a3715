"""Tokens that are words and parts of words, so that pictures of what the model says can be read:
byte pair encoding (Sennrich et al. 2016, arXiv:1508.07909), learned from the text itself.

A text is cut into pieces first, a word with the blank before it, a run of signs, four blanks, and
tokens never cross from one piece into the next. The same text gives the same tokens.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise

import numpy as np
import torch
from torch import Tensor

_PIECE = re.compile(rb" {4}| ?[A-Za-z]+| ?[^\sA-Za-z0-9\x80-\xff]+|[\x00-\xff]")

# Rarer pieces teach nothing that is worth the time that they take.
_LEAST_COUNT = 8

Pair = tuple[bytes, bytes]


def learned_words(text: bytes, n_words: int) -> tuple[bytes, ...]:
    """Return what the ``n_words`` most frequent pairs of neighbors are joined to, in the order in
    which they are joined; fewer where the text is too short."""
    counted = Counter(_PIECE.findall(text))
    pieces = {piece: count for piece, count in counted.items() if count >= _LEAST_COUNT}
    parts = {piece: [bytes([byte]) for byte in piece] for piece in pieces}
    counts: Counter[Pair] = Counter()
    found_in: defaultdict[Pair, set[bytes]] = defaultdict(set)
    for piece, count in pieces.items():
        for pair in pairwise(parts[piece]):
            counts[pair] += count
            found_in[pair].add(piece)

    # Largest count first; of equal ones the first in the alphabet. Counts that have changed since
    # are passed over when their turn comes.
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    words: dict[bytes, None] = {}
    while heap and len(words) < n_words:
        count, pair = heapq.heappop(heap)
        if -count != counts[pair] or count > -2:
            continue
        words[pair[0] + pair[1]] = None
        changed = set()
        for piece in found_in.pop(pair):
            for before in pairwise(parts[piece]):
                counts[before] -= pieces[piece]
                changed.add(before)
            parts[piece] = _joined(parts[piece], pair)
            for after in pairwise(parts[piece]):
                counts[after] += pieces[piece]
                found_in[after].add(piece)
                changed.add(after)
        for each in changed:
            if counts[each] > 0:
                heapq.heappush(heap, (-counts[each], each))
    return tuple(words)


def in_words(text: bytes, words: Sequence[bytes], *, first_id: int) -> Tensor:
    """Return a text as token ids, int32 [token]: ``first_id`` and up for words, and their own
    number for bytes that are part of none."""
    ids = {bytes([byte]): byte for byte in range(256)}
    ids |= {word: first_id + index for index, word in enumerate(words)}
    pieces = _PIECE.findall(text)
    known = {piece: list(_tokens_of(piece, ids)) for piece in set(pieces)}
    tokens = chain.from_iterable(map(known.__getitem__, pieces))
    return torch.from_numpy(np.fromiter(tokens, np.int32))


def _joined(parts: Sequence[bytes], pair: Pair) -> list[bytes]:
    joined: list[bytes] = []
    for part in parts:
        # The one before may itself be a pair that was joined just now, and is no part of the next.
        if joined and (joined[-1], part) == pair:
            joined[-1] = joined[-1] + part
        else:
            joined.append(part)
    return joined


def _tokens_of(piece: bytes, ids: dict[bytes, int]) -> Iterator[int]:
    """Yield the tokens of a piece: what was learned first is joined first."""
    parts = [bytes([byte]) for byte in piece]
    while True:
        joinable = [pair for pair in pairwise(parts) if pair[0] + pair[1] in ids]
        if not joinable:
            break
        parts = _joined(parts, min(joinable, key=lambda pair: ids[pair[0] + pair[1]]))
    for part in parts:
        yield ids[part]
