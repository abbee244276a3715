"""Make the probe batch: the fixed tokens whose attention is captured, so that frames are comparable
over steps and runs.

Two kinds of rows, because they show different things: *repeated* random tokens, where only a head
that looks back for what followed last time can do better than chance (induction; Olsson et al.
2022), and *text*. Behind the rows that are drawn come *hidden* ones of both kinds. Heads are scored
on them, too, so that a score is no accident of one draw, and no fixed distance passes for
induction: they repeat with other periods. Made once, before training, by ``make_probe`` or out of
the user's own token ids by ``probe_from_ids``. No global random state is touched.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from tracker_viz.capture.spelling import Decode, Speller
from tracker_viz.errors import ProbeError
from tracker_viz.metrics import MIN_PERIOD

DEFAULT_LENGTH = 128
DEFAULT_SCORE_ROWS = 4


@dataclass(frozen=True, slots=True)
class ProbeRow:
    """Describes one row of the probe.

    Attributes:
        tokens: text of every token; empty in a hidden row.
        period, start: in a repeated row, positions ``start``.. hold copies of the same ``period``
            tokens (the last may be cut short).
        hidden: scored, and never drawn.
    """

    kind: Literal["repeated", "text"]
    tokens: tuple[str, ...]
    period: int | None = None
    start: int | None = None
    hidden: bool = False

    def __repr__(self) -> str:
        words = f"{self.kind}, {len(self.tokens)} tokens"
        if self.hidden:
            words = f"{self.kind}, hidden"
        return f"ProbeRow({words})"

    def description(self) -> dict[str, Any]:
        """Return the row as ``Capture.probe`` holds it, JSON-like, without its ids."""
        described: dict[str, Any] = {"kind": self.kind}
        if self.kind == "repeated":
            described |= {"period": self.period, "start": self.start}
        if self.hidden:
            described["hidden"] = True
        return {**described, "tokens": list(self.tokens)}


@dataclass(frozen=True, slots=True)
class Probe:
    """The tokens of the probe, and a description of each row. The rows that are drawn come first.

    Attributes:
        input_ids: int64 [probe, position], on the CPU.
        spell: token id -> its text, also of tokens that the probe does not hold.
    """

    input_ids: Tensor
    rows: tuple[ProbeRow, ...]
    spell: Speller = field(default_factory=lambda: Speller(None), compare=False, repr=False)

    def __repr__(self) -> str:
        names = ", ".join(self.labels[: self.n_drawn])
        return f"Probe({names}: {self.length} tokens; {self.n_hidden} hidden rows)"

    @property
    def length(self) -> int:
        return int(self.input_ids.shape[1])

    @property
    def n_drawn(self) -> int:
        """Number of rows that are not hidden."""
        return sum(not row.hidden for row in self.rows)

    @property
    def n_hidden(self) -> int:
        return len(self.rows) - self.n_drawn

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
        """Return the probe as ``Capture.probe`` holds it, JSON-like."""
        rows = []
        for row, ids in zip(self.rows, self.input_ids.tolist(), strict=True):
            rows.append({**row.description(), "ids": ids})
        return {"length": self.length, "rows": rows}

    def with_score_rows(self, most: int) -> Probe:
        """Return the probe with at most ``most`` hidden rows of each kind."""
        hidden = [index for turn, index in self._hidden_by_turn() if turn < most]
        return self._with_only(hidden)

    def with_hidden(self, most: int) -> Probe:
        """Return the probe with at most ``most`` hidden rows, of each kind in turn."""
        return self._with_only(self._hidden_in_turn(most))

    def rows_with_hidden(self, most: int) -> list[int]:
        """Return numbers of the rows that are drawn, and of at most ``most`` hidden ones, of each
        kind in turn; in order."""
        return [*range(self.n_drawn), *sorted(self._hidden_in_turn(most))]

    def _hidden_in_turn(self, most: int) -> list[int]:
        return [index for _, index in sorted(self._hidden_by_turn())[:most]]

    def _hidden_by_turn(self) -> list[tuple[int, int]]:
        """Return (how many hidden rows of its kind come before it, its index) of hidden rows."""
        counts: dict[str, int] = {}
        found = []
        for index, row in enumerate(self.rows):
            if row.hidden:
                found.append((counts.get(row.kind, 0), index))
                counts[row.kind] = counts.get(row.kind, 0) + 1
        return found

    def _with_only(self, hidden: Collection[int]) -> Probe:
        if len(hidden) == self.n_hidden:
            return self
        kept = [*range(self.n_drawn), *sorted(hidden)]
        rows = tuple(self.rows[index] for index in kept)
        return replace(self, input_ids=self.input_ids[kept], rows=rows)


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
            tokens, attention to an earlier copy cannot be told apart. Hidden rows have periods a
            quarter shorter and longer than the default, or only shorter than a given ``period``.
        seed: of a private random generator; the same arguments give the same probe.
        score_rows: hidden rows of each kind; 0: none. Each costs about as much as a drawn row.

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
    period_is_chosen = period is not None
    longest = (length - start) // 2
    if period is None:
        period = max((length - start) // copies, min(MIN_PERIOD, longest, len(allowed)))
    if not 1 <= period <= longest:
        raise ProbeError(
            f"the repeated row needs two copies of period={period} tokens (and {start} BOS); it "
            f"has length={length}: give a period of at most {longest}, or a length of at least "
            f"{start + 2 * period}"
        )
    if len(allowed) < period:
        raise ProbeError(
            f"a period of {period} different tokens needs as many to choose from; token_range "
            f"leaves {len(allowed)}"
        )
    spell = Speller(decode)
    generator = torch.Generator("cpu").manual_seed(seed)
    draw = _Draw(allowed, length, bos_id, generator, spell.knows)
    repeated = draw.repeated(period)
    rows = [repeated] if text is None else [repeated, text[:length]]
    input_ids = torch.stack(rows)
    _check_ids(input_ids, vocab_size)
    described = [ProbeRow("repeated", spell.spelled(repeated.tolist()), period, start)]
    if text is not None:
        described.append(ProbeRow("text", spell.spelled(text[:length].tolist())))
    drawn = Probe(input_ids, tuple(described), spell)

    _check_score_rows(score_rows)
    hidden = draw.hidden(score_rows, period, only_shorter=period_is_chosen)
    if text is not None:
        hidden += _hidden_text(text, length, bos_id, score_rows)
    probe = _with_hidden(drawn, hidden)
    _check_ids(probe.input_ids, vocab_size)
    return probe


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
    drawn = Probe(ids, tuple(_recognised(row, spell) for row in ids), spell)
    _check_score_rows(score_rows)
    if vocab_size is None or not score_rows:
        return drawn

    bos_id = _shared_first_token(drawn)
    allowed = torch.arange(vocab_size, device="cpu")
    if bos_id is not None:
        allowed = allowed[allowed != bos_id]
    generator = torch.Generator("cpu").manual_seed(0)
    draw = _Draw(allowed, drawn.length, bos_id, generator, spell.knows)
    given = next((row.period for row in drawn.rows if row.period), None)
    period = given or max(draw.room // 4, min(MIN_PERIOD, draw.room // 2))
    return _with_hidden(drawn, draw.hidden(score_rows, period, only_shorter=given is not None))


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
    return ids


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


@dataclass(frozen=True, slots=True)
class _Draw:
    """Draws rows of repeated random tokens.

    Attributes:
        allowed: int64 [token], to draw from.
        length: of a row.
        bos_id: put before the repetition; None: nothing is.
        is_known: whether the tokenizer has a token: those that it lacks were never trained, and are
            drawn only where there are too few others.
    """

    allowed: Tensor
    length: int
    bos_id: int | None
    generator: torch.Generator
    is_known: Callable[[int], bool]

    @property
    def start(self) -> int:
        return 0 if self.bos_id is None else 1

    @property
    def room(self) -> int:
        """Positions for the repetition."""
        return self.length - self.start

    def repeated(self, period: int) -> Tensor:
        """Draw one row, int64 [length], of ``period`` different tokens over and over."""
        order = torch.randperm(len(self.allowed), generator=self.generator, device="cpu")
        unit = self._known_first(self.allowed[order], period)
        row = unit.repeat(-(-self.length // period))[: self.room]
        if self.bos_id is None:
            return row
        return torch.cat([torch.tensor([self.bos_id], device="cpu"), row])

    def _known_first(self, tokens: Tensor, count: int) -> Tensor:
        known = list(itertools.islice(filter(self.is_known, tokens.tolist()), count))
        if len(known) < count:
            return tokens[:count]
        return torch.tensor(known, dtype=torch.int64, device="cpu")

    def hidden(
        self, count: int, period: int, *, only_shorter: bool
    ) -> list[tuple[Tensor, ProbeRow]]:
        """Return ``count`` rows that take turns among three periods: two others, then ``period``
        itself. Several rows share a period, because a score that is the lowest over many periods
        of one row each would be the lowest of many accidents."""
        longest = min(self.room // 2, len(self.allowed))
        others = _other_periods(period, longest, only_shorter=only_shorter)
        turns = [each for each in (*others, period) if MIN_PERIOD <= each <= longest]
        rows = []
        for index in range(count if turns else 0):
            each = turns[index % len(turns)]
            rows.append(
                (self.repeated(each), ProbeRow("repeated", (), each, self.start, hidden=True))
            )
        return rows


def _other_periods(period: int, longest: int, *, only_shorter: bool) -> list[int]:
    """Return up to two periods that differ from ``period`` by about a quarter of it."""
    quarter = max(1, round(period / 4))
    wanted = [period - quarter, period - 2 * quarter if only_shorter else period + quarter]
    most = min(longest, period) if only_shorter else longest
    possible = [each for each in range(MIN_PERIOD, most + 1) if each != period]
    chosen = [each for each in wanted if each in possible]
    nearest = sorted(possible, key=lambda each: abs(each - period))
    return list(dict.fromkeys([*chosen, *nearest]))[:2]


def _hidden_text(
    text: Tensor, length: int, bos_id: int | None, count: int
) -> list[tuple[Tensor, ProbeRow]]:
    """Return as many further slices of the text as it has, each behind the BOS where the text
    begins with it."""
    first = text[:1] if bos_id is not None and int(text[0]) == bos_id else text[:0]
    n_new = length - len(first)
    n_slices = min(count, (len(text) - length) // n_new)
    slices = text[length : length + n_slices * n_new].reshape(n_slices, n_new)
    return [(torch.cat([first, each]), ProbeRow("text", (), hidden=True)) for each in slices]


def _with_hidden(drawn: Probe, hidden: Sequence[tuple[Tensor, ProbeRow]]) -> Probe:
    if not hidden:
        return drawn
    ids = torch.stack([ids for ids, _ in hidden])
    rows = tuple(row for _, row in hidden)
    together = torch.cat([drawn.input_ids, ids])
    return replace(drawn, input_ids=together, rows=drawn.rows + rows)


def _shared_first_token(probe: Probe) -> int | None:
    """Return the token that seems to begin every sequence; None where there is none."""
    first = set(probe.input_ids[:, 0].tolist())
    is_before_a_repetition = any(row.start == 1 for row in probe.rows)
    if len(first) == 1 and (len(probe.rows) > 1 or is_before_a_repetition):
        return int(first.pop())
    return None


def _check_score_rows(score_rows: Any) -> None:
    if isinstance(score_rows, bool) or not isinstance(score_rows, int) or score_rows < 0:
        raise ProbeError(
            f"score_rows is the number of hidden rows of each kind, 0 for none; got {score_rows!r}"
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


def _recognised(row: Tensor, spell: Speller) -> ProbeRow:
    found = find_repetition(row.tolist())
    tokens = spell.spelled(row.tolist())
    return ProbeRow("text", tokens) if found is None else ProbeRow("repeated", tokens, *found)
