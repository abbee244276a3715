"""Make a probe of repeated random tokens and of text."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from tracker_viz.capture.probe.checks import check_ids, check_score_rows, chosen_length
from tracker_viz.capture.probe.drawing import Draw, hidden_text
from tracker_viz.capture.probe.rows import Probe, ProbeRow, with_hidden_rows
from tracker_viz.capture.spelling import Decode, Speller
from tracker_viz.errors import ProbeError
from tracker_viz.metrics import MIN_PERIOD

DEFAULT_SCORE_ROWS = 4


def make_probe(
    vocab_size: int,
    context_length: int | None = None,
    *,
    text_ids: Sequence[int] | Tensor | None = None,
    decode: Decode | Any | None = None,
    bos_id: int | None = None,
    token_range: tuple[int, int] | None = None,
    exclude: Collection[int] = (),
    length: int | None = None,
    period: int | None = None,
    copies: int = 4,
    seed: int = 0,
    score_rows: int = DEFAULT_SCORE_ROWS,
) -> Probe:
    """Return a probe with one row of repeated random tokens, and one row of text if ``text_ids`` is
    given, followed by hidden rows of both kinds, which are only scored.

    Args:
        vocab_size: token ids are below this.
        context_length: most tokens that the model takes; None if the model has no limit.
        text_ids: a text that the model should understand, at least ``length`` tokens. Hidden rows
            of text come from the rest: pass ``(1 + score_rows) * length`` tokens for all of them.
        decode: token id -> text, a tokenizer, or a table; without it the ids are shown (see
            ``spelling.Speller``).
        bos_id: token before the repeated tokens, as in training; None: none.
        token_range: draw the random tokens from ``first <= id < last``; the whole vocabulary by
            default.
        exclude: ids never drawn (special tokens); ``bos_id`` is never drawn either.
        length: tokens per row; ``min(context_length, 128, len(text_ids))`` by default.
        period: distinct random tokens before they repeat. Keep it within the distances of training:
            with rotary positions, unseen distances hide induction heads. The default gives
            ``copies`` copies, but is at least 3 if the row has room for two copies of 3: with fewer
            tokens, attention to an earlier copy is attention to a nearby token. Hidden rows have
            periods a quarter shorter and longer than the default, or only shorter than a given
            ``period``.
        seed: of a private random generator; the same arguments give the same probe.
        score_rows: hidden rows of each kind; 0: none. Each costs about as much as a drawn row.

    Raises:
        ProbeError: the arguments do not fit each other or the model.
    """
    text = None
    if text_ids is not None:
        text = torch.as_tensor(text_ids, device="cpu").reshape(-1).to(torch.int64)
    length = chosen_length(length, context_length, text)
    start = 0 if bos_id is None else 1
    allowed = _allowed_tokens(vocab_size, token_range, {*exclude, bos_id})
    period_is_chosen = period is not None
    if period is None:
        longest = (length - start) // 2
        period = max((length - start) // copies, min(MIN_PERIOD, longest, len(allowed)))
    _check_period(period, length, start, n_allowed=len(allowed))
    check_score_rows(score_rows)

    spell = Speller(decode)
    generator = torch.Generator("cpu").manual_seed(seed)
    draw = Draw(allowed, length, bos_id, generator, spell.knows)
    repeated = draw.repeated(period)
    rows = [repeated]
    described = [ProbeRow("repeated", spell.spelled(repeated.tolist()), period, start)]
    if text is not None:
        check_ids(text[:length], vocab_size)
        rows.append(text[:length])
        described.append(ProbeRow("text", spell.spelled(text[:length].tolist())))
    drawn = Probe(torch.stack(rows), tuple(described), spell)

    hidden = draw.hidden(score_rows, period, only_shorter=period_is_chosen)
    if text is not None:
        hidden += hidden_text(text, length, bos_id, score_rows)
    probe = with_hidden_rows(drawn, hidden)
    check_ids(probe.input_ids, vocab_size)
    return probe


def _allowed_tokens(
    vocab_size: int, token_range: tuple[int, int] | None, forbidden: Collection[int | None]
) -> Tensor:
    """Return the ids to draw from: int64 [token].

    Raises:
        ProbeError: the range is not within the vocabulary.
    """
    first, last = token_range or (0, vocab_size)
    if not 0 <= first < last <= vocab_size:
        raise ProbeError(f"token_range must lie within 0..{vocab_size}; got {first}..{last}")
    allowed = [token for token in range(first, last) if token not in forbidden]
    # On the CPU, whatever the default device is.
    return torch.tensor(allowed, dtype=torch.int64, device="cpu")


def _check_period(period: int, length: int, start: int, *, n_allowed: int) -> None:
    """Check that a row has room for two copies, and that there are enough tokens for one.

    Raises:
        ProbeError: it has not, or there are too few.
    """
    longest = (length - start) // 2
    if not 1 <= period <= longest:
        raise ProbeError(
            f"the repeated row needs two copies of period={period} tokens (and {start} BOS); it "
            f"has length={length}: give a period of at most {longest}, or a length of at least "
            f"{start + 2 * period}"
        )
    if n_allowed < period:
        raise ProbeError(
            f"a period of {period} distinct tokens needs at least as many allowed "
            f"tokens; token_range leaves {n_allowed}"
        )
