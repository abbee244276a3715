"""Choose the heads of each block whose attention captures keep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tracker_viz.metrics import head_numbers
from tracker_viz.types import Capture

HEAD_AXIS = ".head"  # ends the name of the axis of a block's heads, ``blocks.3.head``

# A head that reaches this on one of these scores is kept. Sinks are not among them: in a large
# model most heads are sinks.
ROLE_SCORE = 0.3
ROLE_SCORES = (
    "induction_min",
    "duplicate_token_min",
    "previous_token_repeated",
    "previous_token_text",
    "current_token_repeated",
    "current_token_text",
)

_SPECIALISATION = "scores.head.specialisation"


class HeadChoice:
    """The heads that the captures of one run keep.

    Chosen by their scores at the first capture, and kept for the whole run. A head that takes a
    role later (``ROLE_SCORES``) comes in for the one that has shown least, until the heads of a
    block all hold roles; what has a role never leaves.
    """

    def __init__(self) -> None:
        # Axis of a block's heads -> label of a kept head -> the most that it has shown so far.
        self._kept: dict[str, dict[str, float]] = {}

    def resume(self, labels: Mapping[str, Sequence[str]], scored: Iterable[Capture]) -> None:
        """Go on with a run.

        Args:
            labels: of its last capture.
            scored: its captures so far, of which only the scores are used.
        """
        axes = [axis for axis in labels if axis.endswith(HEAD_AXIS)]
        self._kept = {axis: dict.fromkeys(labels[axis], 0.0) for axis in axes}
        for capture in scored:
            for axis, kept in self._kept.items():
                shown = _shown_by_heads(axis, list(kept), capture)
                for label, value in zip(list(kept), shown, strict=True):
                    kept[label] = max(kept[label], value)

    def indices(self, axis: str, there: Sequence[str], most: int, capture: Capture) -> list[int]:
        """Return the indices of the heads to keep, at most ``most``, in their order.

        Args:
            axis: of the block's heads.
            there: labels of the heads that the capture holds.
        """
        if len(there) <= most:
            return list(range(len(there)))

        shown = _shown_by_heads(axis, there, capture)
        by_label = dict(zip(there, shown, strict=True))
        kept = self._kept.get(axis, {})
        if len(kept) != most or not kept.keys() <= set(there):
            strongest = sorted(range(len(there)), key=lambda index: (-shown[index], index))[:most]
            kept = {there[index]: 0.0 for index in strongest}
        kept = {label: max(most_shown, by_label[label]) for label, most_shown in kept.items()}
        self._kept[axis] = _with_role_holders(kept, by_label)
        return [index for index, label in enumerate(there) if label in self._kept[axis]]


def _shown_by_heads(axis: str, labels: Sequence[str], capture: Capture) -> list[float]:
    """Return how much each head shows of a role, 0..1; without any score of one, how far its
    attention is from even."""
    block = int(axis.split(".")[1])
    of_roles = [f"scores.head.{name}" for name in ROLE_SCORES]
    names = [name for name in of_roles if name in capture.arrays]
    names = names or [name for name in (_SPECIALISATION,) if name in capture.arrays]
    if not names:
        return [0.0] * len(labels)
    scores = np.stack([capture.arrays[name][block, head_numbers(labels)] for name in names])
    return [float(shown) for shown in np.nan_to_num(scores, nan=0.0).max(0)]


def _with_role_holders(kept: Mapping[str, float], shown: Mapping[str, float]) -> dict[str, float]:
    """Return the kept heads, those that have shown least replaced by heads that have come to hold a
    role; each with the most that it has shown."""
    kept = dict(kept)
    waiting = [label for label in shown if label not in kept and shown[label] >= ROLE_SCORE]
    for label in sorted(waiting, key=lambda label: -shown[label]):
        least = min(kept, key=lambda label: kept[label])
        if kept[least] >= ROLE_SCORE:
            break
        del kept[least]
        kept[label] = shown[label]
    return kept
