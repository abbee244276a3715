"""Make a probe of the user's own token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tracker_viz.capture.probe.checks import check_score_rows
from tracker_viz.capture.probe.drawing import Draw
from tracker_viz.capture.probe.rows import Probe, ProbeRow, with_hidden_rows
from tracker_viz.capture.spelling import Decode, Speller
from tracker_viz.errors import ProbeError
from tracker_viz.metrics import MIN_PERIOD


def as_probe(
    probe: Probe | Any,
    *,
    decode: Decode | Any | None = None,
    vocab_size: int | None = None,
    score_rows: int | None = None,
) -> Probe:
    """Return a probe as it is, but for hidden rows beyond ``score_rows`` of each kind; or the probe
    of a user's token ids, see ``probe_from_ids``."""
    if isinstance(probe, Probe):
        return probe if score_rows is None else probe.with_score_rows(score_rows)
    return probe_from_ids(probe, decode=decode, vocab_size=vocab_size, score_rows=score_rows or 0)


def probe_from_ids(
    input_ids: Any,
    *,
    decode: Decode | Any | None = None,
    vocab_size: int | None = None,
    score_rows: int = 0,
) -> Probe:
    """Return a probe of the user's own tokens: integers [probe, position] or [position]. Exact
    repetition in a row is found and labeled.

    A tokenizer's result works, too: its ``input_ids`` are taken.

    Args:
        vocab_size, score_rows: add this many hidden rows of repeated random tokens of a vocabulary
            of that size; where it is None, or has too few tokens for a repetition, there are none.
            A first token that all rows share is taken for the beginning of a sequence, and begins
            them, too. Their periods are those of ``make_probe``, given that of the first row that
            repeats.

    Raises:
        ProbeError: not integers, or not of that shape.
    """
    ids = _checked_ids(input_ids)
    spell = Speller(decode)
    drawn = Probe(ids, tuple(_recognized(row, spell) for row in ids), spell)
    check_score_rows(score_rows)
    if vocab_size is None or not score_rows:
        return drawn

    bos_id = _shared_first_token(drawn)
    allowed = torch.arange(vocab_size, device="cpu")
    if bos_id is not None:
        allowed = allowed[allowed != bos_id]
    generator = torch.Generator("cpu").manual_seed(0)
    draw = Draw(allowed, drawn.length, bos_id, generator, spell.knows)
    given = next((row.period for row in drawn.rows if row.period), None)
    period = given or max(draw.room // 4, min(MIN_PERIOD, draw.room // 2))
    return with_hidden_rows(drawn, draw.hidden(score_rows, period, only_shorter=given is not None))


def find_repetition(ids: Sequence[int]) -> tuple[int, int] | None:
    """Return ``(period, start)`` of a row that holds at least two copies of the same two or more
    tokens from position 0 or 1 on, or None."""
    length = len(ids)
    for start in (0, 1):
        for period in range(2, (length - start) // 2 + 1):
            if (
                all(ids[i] == ids[i - period] for i in range(start + period, length))
                and len(set(ids[start : start + period])) > 1
            ):
                return period, start
    return None


def _checked_ids(given: Any) -> Tensor:
    """Return token ids as int64 [probe, position], a copy on the CPU.

    Raises:
        ProbeError: not integers, or not of that shape.
    """
    if isinstance(given, Mapping) and "input_ids" in given:
        given = given["input_ids"]  # what a tokenizer returns
    is_rows = isinstance(given, Sequence)
    if isinstance(given, str) or (is_rows and any(isinstance(row, str) for row in given)):
        raise ProbeError(
            "a probe holds token ids [probe, position], and this is text; "
            "tokenize it with the model's tokenizer first"
        )
    try:
        ids = given if isinstance(given, Tensor) else torch.as_tensor(given, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ProbeError(
            "a probe holds token ids [probe, position], rows of equal length; got "
            f"{type(given).__name__} ({error})"
        ) from error
    if ids.is_meta:
        raise ProbeError(
            "the probe is on the meta device, so its token ids have no values; make it on the CPU"
        )
    if ids.numel() and (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool):
        raise ProbeError(
            f"a probe holds token ids, whole numbers [probe, position]; got {ids.dtype}"
        )
    if ids.ndim == 1:
        ids = ids[None]
    if ids.ndim != 2 or ids.numel() == 0:
        raise ProbeError(f"a probe holds token ids [probe, position]; got shape {tuple(ids.shape)}")
    if ids.shape[1] < 2:
        raise ProbeError(
            "a probe of one token only attends to itself; use at least 2 tokens "
            "per row, better 32 to 128"
        )
    ids = ids.detach().to(device="cpu", dtype=torch.int64, copy=True)
    if int(ids.min()) < 0:
        raise ProbeError(
            f"token ids are never negative; got {int(ids.min())} (-100 marks ignored labels, not "
            "inputs)"
        )
    return ids


def _shared_first_token(probe: Probe) -> int | None:
    """Return the token that seems to begin every sequence; None where there is none."""
    first = set(probe.input_ids[:, 0].tolist())
    is_before_a_repetition = any(row.start == 1 for row in probe.rows)
    if len(first) == 1 and (len(probe.rows) > 1 or is_before_a_repetition):
        return int(first.pop())
    return None


def _recognized(row: Tensor, spell: Speller) -> ProbeRow:
    found = find_repetition(row.tolist())
    tokens = spell.spelled(row.tolist())
    return ProbeRow("text", tokens) if found is None else ProbeRow("repeated", tokens, *found)
