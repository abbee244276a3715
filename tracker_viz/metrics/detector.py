"""TransformerLens's head detector, so that its numbers can be had beside ours.

The formulas are those of ``transformer_lens.head_detector`` (Nanda & Bloom 2022): a *detection pattern* says where a head of some
kind should look, and one of two error measures compares it with where it looks.

How its scores differ from ``heads``:

* ``mul`` is a share of *all* attention, also that of queries which cannot do what is looked for. On ``[BOS r r]`` a perfect induction
  head gets about 0.5 there and 1 from ``heads.induction``, which asks only the queries of the second and later copies. On
  repeated rows ``mul * n_queries == induction * n_queries_in_later_copies`` exactly.
* ``abs`` is ``1 - mean|A - pattern| * T``: it also punishes every query that does something else where the pattern is empty, and is
  below 0 for most heads; TransformerLens rounds it to three digits, we do not.
* ``previous_token`` there begins at query 1, where the previous token is also the first; ours begins at query 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tracker_viz.errors import ConfigError, unknown_name

Floats = NDArray[np.float32]
DetectedHead = Literal["previous_token", "duplicate_token", "induction"]


def detection_pattern(tokens: Sequence[Any], head: DetectedHead) -> Floats:
    """Where a head of this kind should look: float32 [query, key] of zeros and ones. ``tokens``: ids or texts of one row."""
    patterns = {"previous_token": _previous_token, "duplicate_token": _duplicate_token, "induction": _induction}
    if head not in patterns:
        raise ConfigError(unknown_name("head to detect", head, patterns))
    _, ids = np.unique(np.asarray(tokens), return_inverse=True)
    return patterns[head](ids)


def detection_score(
    attention: Floats,
    pattern: Floats,
    *,
    measure: Literal["mul", "abs"] = "mul",
    exclude_bos: bool = False,
    exclude_current_token: bool = False,
) -> Floats:
    """How well attention [..., query, key] matches a detection pattern [query, key]: [...].

    ``mul``: share of all attention that lies on the pattern, 0..1. ``abs``: 1 less the mean absolute difference per query, -1..1.
    """
    if measure not in ("mul", "abs"):
        raise ConfigError(unknown_name("error measure", measure, ("mul", "abs")))
    compared = attention if measure == "mul" else np.abs(attention - pattern)
    kept = np.ones_like(pattern)
    if exclude_bos:
        kept[:, 0] = 0
    if exclude_current_token:
        np.fill_diagonal(kept, 0)
    compared = compared * kept
    if measure == "mul":
        return (compared * pattern).sum((-2, -1)) / compared.sum((-2, -1))
    return 1 - compared.mean((-2, -1)) * len(pattern)


def _previous_token(ids: NDArray[np.intp]) -> Floats:
    return np.eye(len(ids), k=-1, dtype=np.float32)


def _duplicate_token(ids: NDArray[np.intp]) -> Floats:
    return np.tril(ids[:, None] == ids[None, :], -1).astype(np.float32)


def _induction(ids: NDArray[np.intp]) -> Floats:
    after = np.zeros((len(ids), len(ids)), np.float32)
    after[:, 1:] = _duplicate_token(ids)[:, :-1]
    return after
