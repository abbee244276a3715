"""Turn the probe's loss of every token into a few scalars of a capture.

``probe.loss`` comes in, as ``capture.signals.probe_loss`` measured it on some rows of the probe;
the metrics ``probe/<name>`` go out. Called by ``scorer``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker_viz.metrics.probe_rows import ProbeRow

PROBE_LOSS = "probe.loss"
PROBE_LOSS_AXES = ("probe", "token")
# Shorter rows have no place that is early, and not among the first tokens.
LEAST_IN_CONTEXT = 20


def probe_loss_metrics(losses: NDArray[Any], rows: Sequence[ProbeRow]) -> dict[str, float]:
    """Return the scalars of one capture, in nats; without those that the probe has no rows for.

    * ``probe/loss_first_copy``: mean loss of the tokens of repeated rows that nothing in their row
      predicts;
    * ``probe/loss_later_copies``: of those that followed the same token before, which induction
      predicts;
    * ``probe/loss_text``: mean loss of all tokens of text rows;
    * ``probe/in_context``: mean loss of the last tenth of a text row minus that of the second tenth
      (Olsson et al. 2022: of the 500th token minus that of the 50th), mean over rows: below 0 where
      the model makes use of what it has read.

    Args:
        losses: float32 [probe, token], NaN at a row's first token, and in rows that were not
            measured or whose logits are not finite.
        rows: what each row is.
    """
    found: dict[str, list[NDArray[Any]]] = {}
    for loss, row in zip(losses, rows, strict=True):
        if np.isnan(loss).all():
            continue
        for name, values in _parts(loss, row).items():
            found.setdefault(f"probe/{name}", []).append(values)
    return {name: float(np.concatenate(parts).mean()) for name, parts in found.items()}


def _parts(loss: NDArray[Any], row: ProbeRow) -> Mapping[str, NDArray[Any]]:
    """Return name -> the values of one row, whose mean over all rows is the metric."""
    if row.kind == "repeated":
        copied_from = row.start + row.period + 1
        return {"loss_first_copy": loss[1:copied_from], "loss_later_copies": loss[copied_from:]}
    parts = {"loss_text": loss[1:]}
    if len(loss) >= LEAST_IN_CONTEXT:
        tenth = len(loss) // 10
        early, late = loss[tenth : 2 * tenth], loss[-tenth:]
        parts["in_context"] = np.array([late.mean() - early.mean()])
    return parts
