"""Choose the held-out rows on which ``verify`` measures losses: the user's own, or rows like those
of the run's probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from tracker_viz.capture import HeldOutRows, context_length, repeated_rows, vocab_size
from tracker_viz.errors import ConfigError
from tracker_viz.pipeline.comparing.scored_runs import ScoredRun
from tracker_viz.pipeline.options import VerifyOptions
from tracker_viz.pipeline.recording.arguments import chosen_probe


def as_rows(rows: HeldOutRows | Mapping[str, Any]) -> HeldOutRows:
    """Return rows as a user passes them to ``verify``, checked.

    Raises:
        ConfigError: they have another form.
    """
    if isinstance(rows, HeldOutRows):
        return rows
    if not isinstance(rows, Mapping) or not {"repeated"} <= set(rows) <= {"repeated", "text"}:
        raise ConfigError(
            "rows must be HeldOutRows or {'repeated': ids, 'text': ids}, ids of [row, token]; got "
            f"{sorted(rows) if isinstance(rows, Mapping) else type(rows).__name__}"
        )
    tensors = {}
    for kind, ids in rows.items():
        if ids is not None:
            tensors[kind] = torch.as_tensor(ids, device="cpu").long()
    return HeldOutRows(**tensors)


def default_rows(
    model: nn.Module, scored: ScoredRun | None, options: VerifyOptions
) -> tuple[HeldOutRows, list[str]]:
    """Return repeated random tokens like those of the run's probe, but drawn again, and the probe's
    rows of text."""
    size = vocab_size(model)
    if size is None:
        raise ConfigError(
            "the model's vocabulary size was not found; pass your own "
            "rows={'repeated': ids, 'text': ids}"
        )
    probe_rows = scored.probe.get("rows", ()) if scored else ()
    like = [row for row in probe_rows if row.get("kind") == "repeated"]
    text = [row["ids"] for row in probe_rows if row.get("kind") == "text" and row.get("ids")]
    length = chosen_probe(model, None, None, score_rows=0).length
    bos_id, token_range, notes = _tokens_like(model, like)
    repeated = repeated_rows(
        size,
        length,
        n_rows=options.n_rows,
        periods=_periods_like(like, length),
        bos_id=bos_id,
        token_range=token_range,
        seed=options.seed,
    )
    if len(text) < 2:
        return HeldOutRows(repeated), notes
    notes.append(f"The {len(text)} rows of text are those of the run's probe.")
    return HeldOutRows(repeated, torch.tensor(text)), notes


def check_rows(model: nn.Module, rows: HeldOutRows) -> None:
    """Check that the model takes the rows.

    Raises:
        ConfigError: they are too long for it, or hold tokens that it does not have.
    """
    size, context = vocab_size(model), context_length(model)
    for kind, ids in (("repeated", rows.repeated), ("text", rows.text)):
        if ids is None:
            continue
        # The last token is only predicted.
        if context is not None and ids.shape[1] - 1 > context:
            raise ConfigError(
                f"the {kind} rows have {ids.shape[1]} tokens, and the model's context holds "
                f"{context}; cut them"
            )
        if size is not None and not 0 <= int(ids.min()) <= int(ids.max()) < size:
            raise ConfigError(
                f"token ids must lie in 0..{size - 1}, the model's vocabulary; the {kind} rows "
                f"hold {int(ids.min())} to {int(ids.max())}"
            )


def _periods_like(rows: Sequence[Mapping[str, Any]], length: int) -> tuple[int, int]:
    """Return the shortest and the longest period of rows of ``length`` like these repeated ones."""
    # A second copy must begin within the row.
    longest = (length - 1) // 2
    periods = sorted(min(int(row["period"]), longest) for row in rows) or [length // 4]
    if periods[0] < periods[-1]:
        return periods[0], periods[-1]
    # One period alone could be matched by distance: shorter ones are drawn as well.
    shortest = max(2, periods[0] // 2)
    return shortest, max(shortest, periods[0])


def _tokens_like(
    model: nn.Module, rows: Sequence[Mapping[str, Any]]
) -> tuple[int | None, tuple[int, int] | None, list[str]]:
    """Return the first token and the range of the other tokens of repeated rows, None each where
    there is none or it is unknown, and notes."""
    starts_with_bos = any(row.get("start") for row in rows)
    ids = [row["ids"] for row in rows if row.get("ids")]
    if ids:
        first_drawn = 1 if starts_with_bos else 0
        drawn = np.concatenate([row[first_drawn:] for row in ids])
        bos_id = int(ids[0][0]) if starts_with_bos else None
        return bos_id, (int(drawn.min()), int(drawn.max()) + 1), []
    if not starts_with_bos:
        return None, None, []
    bos_id = getattr(getattr(model, "config", None), "bos_token_id", None)
    if bos_id is not None:
        return bos_id, None, []
    note = (
        "The run's probe begins with a token that neither the run nor the model names; these rows "
        "begin without it (rows= takes your own)."
    )
    return None, None, [note]
