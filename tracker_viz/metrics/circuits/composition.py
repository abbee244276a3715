"""Measure how much each head reads of what the heads of earlier blocks write: composition, from
weight matrices alone.

Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits", the section on
two-layer models. With ``W_QK = W_Q^T W_K`` of the later head and ``W_OV = W_O W_V`` of the earlier
one, each ``[d_model, d_model]``:

    Q: |W_QK^T W_OV| / (|W_QK| |W_OV|)
    K: |W_QK W_OV|   / (|W_QK| |W_OV|)
    V: |W_OV' W_OV|  / (|W_OV'| |W_OV|), W_OV' of the later head

in Frobenius norms. Rotary positions, the gains of norms and what feed-forward layers do in between
are left out: this is what the matrices allow, not what a token does.

Arrays are numpy's or torch's: the same code runs beside training, and on the model's device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Kind = Literal["q", "k", "v"]
KINDS: tuple[Kind, ...] = get_args(Kind)
PREFIX = "scores.composition."
# Multiplications of one capture, up to which all pairs of blocks are measured: half a second of a
# core. In models with more, blocks are left out.
MOST_OPERATIONS = 20e9
# Heads of a model up to which pairs are kept: 1.6 MB a capture.
MOST_HEADS = 512


@dataclass(frozen=True, slots=True)
class HeadMatrices:
    """The four matrices of all heads of one block: [head, channel, d_model] each, ``output`` turned
    so that its rows are a head's channels, too. Heads that share keys and values repeat them."""

    query: Any
    key: Any
    value: Any
    output: Any

    @property
    def n_heads(self) -> int:
        return int(self.query.shape[0])

    @property
    def d_model(self) -> int:
        return int(self.query.shape[2])


def split_heads(
    w_q: Any, w_k: Any, w_v: Any, w_o: Any, *, n_heads: int, n_kv_heads: int
) -> HeadMatrices:
    """Return a block's matrices by head.

    Args:
        w_q, w_k, w_v: [out, d_model], heads one below the other.
        w_o: [d_model, in], heads side by side.

    Raises:
        ValueError: the matrices do not divide into so many heads.
    """
    shared = n_heads // max(n_kv_heads, 1)
    if shared * n_kv_heads != n_heads:
        raise ValueError(f"{n_heads} heads cannot share {n_kv_heads} keys and values evenly")
    return HeadMatrices(
        query=_by_head(w_q, n_heads),
        key=_repeated(_by_head(w_k, n_kv_heads), shared),
        value=_repeated(_by_head(w_v, n_kv_heads), shared),
        output=_by_head(w_o.T, n_heads),
    )


def composition(later: HeadMatrices, earlier: HeadMatrices, kind: Kind) -> Any:
    """Return how much each head of a later block reads of each head of an earlier one: [later head,
    earlier head], 0..1; NaN where a head's matrices are zero or not finite.

    Each product is taken through matrices of a head's own size (``|A^T M B|^2 = sum of (A A^T) M (B
    B^T) * M``), never through [d_model, d_model].
    """
    # The two factors of the later head's matrix: what faces the earlier head, and what is behind.
    facing, behind = {
        "q": (later.query, later.key),
        "k": (later.key, later.query),
        "v": (later.value, later.output),
    }[kind]
    n_later, n_channels, d_model = facing.shape
    n_earlier = earlier.n_heads
    read = facing.reshape(-1, d_model) @ earlier.output.reshape(-1, d_model).T
    middle = read.reshape(n_later, n_channels, n_earlier, -1).swapaxes(1, 2)
    left = (_gram(behind)[:, None] @ middle) * (middle @ _gram(earlier.value)[None])
    squares = left.sum(-1).sum(-1)
    written = _product_squares(earlier.output, earlier.value)
    sizes = _product_squares(facing, behind)[:, None] * written[None]
    return (squares.clip(0) / sizes) ** 0.5


def random_composition(d_model: int) -> float:
    """Return the composition of matrices that have nothing to do with each other: ``1 /
    sqrt(d_model)``, the root of the mean square over random directions, whatever the heads' sizes
    and singular values."""
    return 1.0 / math.sqrt(d_model)


def compositions(blocks: Mapping[int, HeadMatrices], n_blocks: int) -> dict[str, NDArray[Any]]:
    """Return ``scores.composition.<kind>`` float32 [block, head, earlier block, earlier head] of
    numpy matrices: NaN where the second block is not an earlier one, or a head is not there."""
    pairs: dict[tuple[int, int], Mapping[str, NDArray[Any]]] = {}
    for later, earlier in pairs_of(sorted(blocks)):
        with np.errstate(all="ignore"):
            pairs[later, earlier] = composition_of(blocks[later], blocks[earlier])
    return as_arrays(pairs, n_blocks)


def composition_of(later: HeadMatrices, earlier: HeadMatrices) -> dict[str, Any]:
    """Return every kind of composition of two blocks, see ``composition``."""
    return {kind: composition(later, earlier, kind) for kind in KINDS}


def thinned(
    blocks: Sequence[int], d_model: int, most_operations: float = MOST_OPERATIONS
) -> list[int]:
    """Return as many of the blocks as may be measured at this price, evenly spaced, the first and
    the last among them; at least two."""
    count = len(blocks)
    while count > 2 and len(KINDS) * 2 * d_model**3 * count * (count - 1) / 2 > most_operations:
        count -= 1
    places = np.linspace(0, len(blocks) - 1, count).round().astype(int)
    return [blocks[place] for place in places.tolist()]


def pairs_of(blocks: Sequence[int]) -> list[tuple[int, int]]:
    """Return every (later, earlier) of rising block numbers."""
    pairs = []
    for place, later in enumerate(blocks):
        pairs += [(later, earlier) for earlier in blocks[:place]]
    return pairs


def as_arrays(
    pairs: Mapping[tuple[int, int], Mapping[str, NDArray[Any]]], n_blocks: int
) -> dict[str, NDArray[np.float32]]:
    """Put what was measured of pairs of blocks (later, earlier) into one array a kind, as
    ``compositions`` returns them; none without pairs."""
    n_heads = 0
    for measured in pairs.values():
        for values in measured.values():
            n_heads = max(n_heads, *values.shape)
    if not n_heads:
        return {}

    arrays = {}
    for kind in KINDS:
        laid = np.full((n_blocks, n_heads, n_blocks, n_heads), np.nan, np.float32)
        for (later, earlier), measured in pairs.items():
            rows, columns = measured[kind].shape
            laid[later, :rows, earlier, :columns] = measured[kind]
        arrays[f"{PREFIX}{kind}"] = laid
    return arrays


def _by_head(matrix: Any, n_heads: int) -> Any:
    rows, d_model = matrix.shape
    if n_heads < 1 or rows % n_heads:
        raise ValueError(f"{rows} rows do not divide into {n_heads} heads")
    return matrix.reshape(n_heads, rows // n_heads, d_model)


def _repeated(heads: Any, times: int) -> Any:
    """Return [head, ...] of [kv head, ...]: neighboring heads share keys and values (Ainslie et
    al. 2023)."""
    if times == 1:
        return heads
    index = [head for head in range(heads.shape[0]) for _ in range(times)]
    return heads[index]


def _gram(heads: Any) -> Any:
    """Return [head, channel, channel] of [head, channel, d_model]."""
    return heads @ heads.swapaxes(-1, -2)


def _product_squares(one: Any, other: Any) -> Any:
    """Return ``|one^T other|^2`` of every head: [head]."""
    return (_gram(one) * _gram(other)).sum(-1).sum(-1)
