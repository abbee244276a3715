"""Score the experts and the routers of a mixture, block by block.

In: what a raw capture holds of its routers (``blocks.<i>.mlp.router``, ``.chosen``, ``.weight``),
and its probe. Out: one array for each score, [block, expert] or [block, 1]. Called by ``scorer``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.errors import CaptureError
from tracker_viz.metrics.mixtures import expert_measures as measures
from tracker_viz.metrics.mixtures.expert_measures import Doubles, Floats, Integers, Truths
from tracker_viz.metrics.series import EXPERT_PREFIX, ROUTER_PREFIX
from tracker_viz.types import Capture

ROUTER_NAME = re.compile(r"blocks\.(\d+)\.mlp\.router")


@dataclass(frozen=True, slots=True)
class RoutedProbe:
    """The decisions of one block's router over the probe.

    Attributes:
        probabilities: [row, token, expert].
        chosen: int [row, token, choice]; ``first``: int [row, token], the expert with the greatest
            weight.
        is_text: bool [row]. ids: int [row, token]; None where the probe does not tell.
        first_before: ``first`` at the capture before; None without one.
    """

    probabilities: Floats
    chosen: Integers
    first: Integers
    is_text: Truths
    ids: Integers | None
    first_before: Integers | None = None

    @property
    def n_experts(self) -> int:
        return self.probabilities.shape[-1]


# Score of every expert -> its measure, [expert]; None where this probe does not allow it.
EXPERT_SCORES: Mapping[str, Callable[[RoutedProbe], Doubles | None]] = {
    "load": lambda of: measures.load(of.chosen, of.n_experts),
    "text_share": lambda of: measures.text_share(of.chosen, of.n_experts, of.is_text),
    "vocabulary": lambda of: _with_ids(of),
}

# Score of every router -> its measure; NaN where there is nothing to compare with.
ROUTER_SCORES: Mapping[str, Callable[[RoutedProbe], float]] = {
    "entropy": lambda of: measures.entropy(of.probabilities),
    "dead_share": lambda of: measures.dead_share(of.chosen, of.n_experts),
    "imbalance": lambda of: measures.imbalance(of.chosen, of.n_experts),
    "changed": lambda of: _since_before(of),
}


def expert_scores(routed: Mapping[int, RoutedProbe], *, n_blocks: int) -> dict[str, Floats]:
    """Return every score of experts, ``scores.expert.<name>`` float32 [block, expert], and of
    routers, ``scores.router.<name>`` float32 [block, 1].

    NaN where a block has no router, or fewer experts than another. Empty without routers.
    """
    if not routed:
        return {}
    n_experts = max(of.n_experts for of in routed.values())
    scores: dict[str, Floats] = {}
    for name, of_experts in EXPERT_SCORES.items():
        values = np.full((n_blocks, n_experts), np.nan, np.float32)
        for block, probed in routed.items():
            measured = of_experts(probed)
            if measured is not None:
                values[block, : probed.n_experts] = measured
        scores[f"{EXPERT_PREFIX}{name}"] = values
    for name, of_router in ROUTER_SCORES.items():
        values = np.full((n_blocks, 1), np.nan, np.float32)
        for block, probed in routed.items():
            values[block, 0] = of_router(probed)
        scores[f"{ROUTER_PREFIX}{name}"] = values
    return scores


def routed_probe(
    capture: Capture, before: Mapping[int, Integers] | None = None
) -> dict[int, RoutedProbe]:
    """Return block -> its router's decisions, of a raw capture.

    Args:
        before: block -> first experts at the capture before.

    Raises:
        CaptureError: a router's arrays have not the axes that they must have.
    """
    rows = capture.probe.get("rows", ())
    is_text = np.array([row.get("kind") == "text" for row in rows], bool)
    ids = _ids(rows)
    routed = {}
    for name, probabilities in capture.arrays.items():
        match = ROUTER_NAME.fullmatch(name)
        if match is None:
            continue
        block = int(match[1])
        chosen = _whole(capture, f"{name}.chosen", probabilities)
        first = measures.first_experts(chosen, _of(capture, f"{name}.weight", probabilities))
        earlier = (before or {}).get(block)
        if earlier is not None and earlier.shape != first.shape:
            earlier = None  # another probe
        routed[block] = RoutedProbe(
            probabilities=probabilities,
            chosen=chosen,
            first=first,
            is_text=is_text if len(is_text) == len(chosen) else np.zeros(len(chosen), bool),
            ids=ids if ids is not None and ids.shape == first.shape else None,
            first_before=earlier,
        )
    return dict(sorted(routed.items()))


def _with_ids(of: RoutedProbe) -> Doubles | None:
    if of.ids is None:
        return None
    return measures.vocabulary(of.chosen, of.n_experts, of.ids)


def _since_before(of: RoutedProbe) -> float:
    if of.first_before is None:
        return float("nan")
    return measures.changed(of.first, of.first_before)


def _ids(rows: Sequence[Mapping[str, Any]]) -> Integers | None:
    """Return the token ids of the probe, int [row, token], or None where a row lacks them."""
    ids = [row.get("ids") for row in rows]
    if not ids or any(each is None or len(each) != len(ids[0] or ()) for each in ids):
        return None
    return np.array(ids, np.int64)


def _of(capture: Capture, name: str, probabilities: NDArray[Any]) -> NDArray[Any]:
    values = capture.arrays.get(name)
    if values is None or values.ndim != 3 or values.shape[:2] != probabilities.shape[:2]:
        found = "nothing" if values is None else f"shape {values.shape}"
        raise CaptureError(
            f"{name} must be [probe, token, choice] to be scored, beside probabilities of shape "
            f"{probabilities.shape}; the capture holds {found}"
        )
    return values


def _whole(capture: Capture, name: str, probabilities: NDArray[Any]) -> Integers:
    return _of(capture, name, probabilities).astype(np.int64)
