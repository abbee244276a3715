"""Hold what a model without some of its heads loses, as ``pipeline.verify`` measures it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tracker_viz.types import HeadId


@dataclass(frozen=True, slots=True)
class AblatedSet:
    """The loss of a model without some of its heads.

    Attributes:
        losses: kind of token -> loss in nats without them.
        changes: kind -> its rise against the whole model.
        residuals: kind -> what each row adds to that rise beyond its share, [row]; linear, so that
            those of two sets may be subtracted.
    """

    heads: tuple[HeadId, ...]
    losses: Mapping[str, float]
    changes: Mapping[str, float]
    residuals: Mapping[str, tuple[float, ...]]

    def error(self, kind: str) -> float:
        """Return the standard error of the rise."""
        return _standard_error(np.array(self.residuals[kind]))

    def rise_over(self, other: AblatedSet, kind: str) -> tuple[float, float]:
        """Return by how much the loss without these heads exceeds that without ``other``, and its
        standard error. Both are of the same rows, so that what a row itself costs cancels."""
        residuals = np.array(self.residuals[kind]) - np.array(other.residuals[kind])
        return self.changes[kind] - other.changes[kind], _standard_error(residuals)

    def description(self) -> dict[str, Any]:
        return {
            "heads": [list(head) for head in self.heads],
            "losses": dict(self.losses),
            "changes": dict(self.changes),
            "residuals": {kind: list(values) for kind, values in self.residuals.items()},
        }

    @classmethod
    def of(cls, description: Mapping[str, Any]) -> Self:
        """Read what ``description`` wrote.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        heads = tuple((int(block), int(head)) for block, head in description["heads"])
        losses = {str(kind): float(loss) for kind, loss in description["losses"].items()}
        changes = {str(kind): float(rise) for kind, rise in description["changes"].items()}
        residuals = {}
        for kind, values in description["residuals"].items():
            residuals[str(kind)] = tuple(map(float, values))
        return cls(heads, losses, changes, residuals)


def _standard_error(residuals: NDArray[np.float64]) -> float:
    return float(residuals.std(ddof=1) / np.sqrt(len(residuals)))
