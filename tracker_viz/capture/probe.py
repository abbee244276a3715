"""The probe batch: the fixed tokens whose attention is captured, so that frames are comparable over
steps and runs.

Two kinds of rows, because they show different things: *repeated* random tokens, where only a head
that looks back for what followed last time can do better than chance (induction; Olsson et al.
2022), and *text*. Made once, before training, by ``make_probe`` or out of the user's own token ids
by ``probe_from_ids``. No global random state is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from tracker_viz.errors import ProbeError

DEFAULT_LENGTH = 128

Decode = Callable[[int], str]


@dataclass(frozen=True, slots=True)
class ProbeRow:
    """What one row of the probe is.

    Attributes:
        tokens: text of every token.
        period, start: in a repeated row, positions ``start``.. hold copies of the same ``period``
            tokens (the last may be cut short).
    """

    kind: Literal["repeated", "text"]
    tokens: tuple[str, ...]
    period: int | None = None
    start: int | None = None

    def description(self) -> dict[str, Any]:
        repeated = {"period": self.period, "start": self.start} if self.kind == "repeated" else {}
        return {"kind": self.kind, **repeated, "tokens": list(self.tokens)}


@dataclass(frozen=True, slots=True)
class Probe:
    """Tokens and what they are. ``input_ids``: int64 [probe, position], on the CPU."""

    input_ids: Tensor
    rows: tuple[ProbeRow, ...]

    @property
    def length(self) -> int:
        return int(self.input_ids.shape[1])

    @property
    def labels(self) -> tuple[str, ...]:
        """A short name of every row, each once: ``repeated``, ``text``, ``text 2``."""
        counts: dict[str, int] = {}
        names = []
        for row in self.rows:
            counts[row.kind] = counts.get(row.kind, 0) + 1
            names.append(row.kind if counts[row.kind] == 1 else f"{row.kind} {counts[row.kind]}")
        return tuple(names)

    def description(self) -> dict[str, Any]:
        """JSON-like, as ``Capture.probe`` holds it."""
        return {"length": self.length, "rows": [row.description() for row in self.rows]}


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
) -> Probe:
    """One row of repeated random tokens, and one of text where ``text_ids`` is given.

    Args:
        vocab_size: token ids are below this.
        context_length: most tokens that the model takes; None where the model has no limit of its
            own.
        text_ids: the beginning of a text the model should understand, at least ``length`` tokens.
        decode: token id -> text, or a tokenizer; the ids themselves are shown without it.
        bos_id: put before the repeated tokens, as training did; None: nothing is.
        token_range: draw the random tokens from ``first <= id < last``; the whole vocabulary by
            default.
        exclude: ids never drawn (special tokens); ``bos_id`` is never drawn either.
        length: tokens in a row; ``min(context_length, 128, len(text_ids))`` by default.
        period: distinct random tokens before they repeat. Keep it within what the model was trained
            on: with rotary positions, distances never seen hide induction heads. By default as many
            as give ``copies`` copies.
        seed: of a private generator; the same arguments give the same probe.

    Raises:
        ProbeError: the arguments do not fit each other or the model.
    """
    text = (
        None
        if text_ids is None
        else torch.as_tensor(text_ids, device="cpu").reshape(-1).to(torch.int64)
    )
    length = _choose_length(length, context_length, text)
    start = 0 if bos_id is None else 1
    if period is None:
        period = max((length - start) // copies, 1)
    if not 1 <= period <= (length - start) // 2:
        raise ProbeError(
            f"the repeated row needs two copies of period={period} tokens (and {start} BOS); it "
            f"has length={length}"
        )
    first, last = token_range or (0, vocab_size)
    if not 0 <= first < last <= vocab_size:
        raise ProbeError(f"token_range must lie within 0..{vocab_size}; got {first}..{last}")
    forbidden = set(exclude) | ({bos_id} if bos_id is not None else set())
    # On the CPU, whatever the default device is.
    allowed = torch.tensor(
        [token for token in range(first, last) if token not in forbidden],
        dtype=torch.int64,
        device="cpu",
    )
    if len(allowed) < period:
        raise ProbeError(
            f"a period of {period} different tokens needs as many to choose from; token_range "
            f"leaves {len(allowed)}"
        )
    generator = torch.Generator("cpu").manual_seed(seed)
    unit = allowed[torch.randperm(len(allowed), generator=generator, device="cpu")[:period]]
    repeated = unit.repeat(-(-length // period))[: length - start]
    if bos_id is not None:
        repeated = torch.cat([torch.tensor([bos_id], device="cpu"), repeated])
    rows = [repeated] if text is None else [repeated, text[:length]]
    input_ids = torch.stack(rows)
    _check_ids(input_ids, vocab_size)
    spell = speller(decode)
    described = [ProbeRow("repeated", _spelt(repeated, spell), period, start)]
    if text is not None:
        described.append(ProbeRow("text", _spelt(text[:length], spell)))
    return Probe(input_ids, tuple(described))


def probe_from_ids(input_ids: Any, *, decode: Decode | Any | None = None) -> Probe:
    """A probe of the user's own tokens: integers [probe, position] or [position]. Exact repetition
    in a row is found and labelled.

    What a tokenizer returns will do too: its ``input_ids`` are taken.

    Raises:
        ProbeError: not integers, or not of that shape.
    """
    given = (
        input_ids["input_ids"]
        if isinstance(input_ids, Mapping) and "input_ids" in input_ids
        else input_ids
    )
    if isinstance(given, str) or (
        isinstance(given, Sequence) and any(isinstance(row, str) for row in given)
    ):
        raise ProbeError(
            "a probe holds token ids [probe, position], and this is text; give what the model's "
            "tokenizer makes of it"
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
            "a probe of one token attends to nothing but itself; give at least 2 tokens a row, "
            "better 32 to 128"
        )
    ids = ids.detach().to(device="cpu", dtype=torch.int64, copy=True)
    if int(ids.min()) < 0:
        raise ProbeError(
            f"token ids are never negative; got {int(ids.min())} (-100 marks ignored labels, not "
            "inputs)"
        )
    spell = speller(decode)
    return Probe(ids, tuple(_recognised(row, spell) for row in ids))


def as_probe(probe: Probe | Any, *, decode: Decode | Any | None = None) -> Probe:
    return probe if isinstance(probe, Probe) else probe_from_ids(probe, decode=decode)


def check_probe(probe: Probe, *, vocab_size: int | None, context_length: int | None) -> None:
    """Compare a probe with what is known of a model (None: not known).

    Raises:
        ProbeError: an id outside the vocabulary, or more tokens than the context holds.
    """
    if context_length is not None and probe.length > context_length:
        raise ProbeError(
            f"the probe has {probe.length} tokens a row and the model's context holds "
            f"{context_length}; cut the probe"
        )
    if vocab_size is not None:
        _check_ids(probe.input_ids, vocab_size)


def find_repetition(ids: Sequence[int]) -> tuple[int, int] | None:
    """``(period, start)`` of a row that holds at least two copies of the same two or more tokens
    from position 0 or 1 on."""
    length = len(ids)
    for start in (0, 1):
        for period in range(2, (length - start) // 2 + 1):
            if (
                all(ids[i] == ids[i - period] for i in range(start + period, length))
                and len(set(ids[start : start + period])) > 1
            ):
                return period, start
    return None


def speller(decode: Decode | Any | None) -> Decode:
    """Turn a callable, or a tokenizer (anything with ``decode([id])``), into id -> text."""
    if decode is None:
        return str
    if hasattr(decode, "decode"):
        return lambda token: str(decode.decode([token]))
    if callable(decode):
        return lambda token: str(decode(token))
    raise ProbeError(
        f"decode must turn one token id into text, or be a tokenizer; got {type(decode).__name__}"
    )


def _choose_length(length: int | None, context_length: int | None, text: Tensor | None) -> int:
    most = DEFAULT_LENGTH if context_length is None else context_length
    if length is None:
        length = min(DEFAULT_LENGTH, most, *([] if text is None else [len(text)]))
    elif context_length is not None and length > context_length:
        raise ProbeError(
            f"the probe would have {length} tokens a row and the model's context holds "
            f"{context_length}; cut the probe"
        )
    elif text is not None and len(text) < length:
        raise ProbeError(
            f"text_ids has {len(text)} tokens for a probe of {length}; give more text, or "
            f"length={len(text)}"
        )
    if length < 4:
        raise ProbeError(
            f"a probe needs at least 4 tokens a row to hold a repetition; got {length}"
        )
    return length


def _check_ids(input_ids: Tensor, vocab_size: int) -> None:
    low, high = int(input_ids.min()), int(input_ids.max())
    if low < 0 or high >= vocab_size:
        wrong = low if low < 0 else high
        raise ProbeError(
            f"token ids must lie in 0..{vocab_size - 1}, the model's vocabulary; the probe holds "
            f"{wrong}"
        )


def _recognised(row: Tensor, spell: Decode) -> ProbeRow:
    found = find_repetition(row.tolist())
    tokens = _spelt(row, spell)
    return ProbeRow("text", tokens) if found is None else ProbeRow("repeated", tokens, *found)


def _spelt(row: Tensor, spell: Decode) -> tuple[str, ...]:
    return tuple(spell(token) for token in row.tolist())
