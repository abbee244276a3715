"""Turn token ids into text by whatever people pass as ``decode``: a function, a tokenizer, a table.

Pictures are no reason to end a training: an id that cannot be spelled is shown as its number. That
is usual: many models have more ids than their tokenizer (vocabularies padded to a round number).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tracker_viz.errors import ProbeError

log = logging.getLogger("tracker_viz.capture")

Decode = Callable[[int], str]

# A tokenizer in Rust may panic, which is no Exception.
_NEVER_HELD_BACK = (KeyboardInterrupt, SystemExit, GeneratorExit)


class Speller:
    """Spell token ids.

    Args:
        decode: a function of one id, or of a list of ids; anything with such a ``decode``; a table
            from ids to text (a mapping, a list), or from text to ids; None: ids are shown.

    Raises:
        ProbeError: ``decode`` is none of these.
    """

    def __init__(self, decode: Decode | Any | None) -> None:
        self._look_up = _look_up(decode)
        self._takes_lists = getattr(self._look_up, "__name__", "") == "decode"
        self._known: dict[int, str | None] = {}
        self._first_error = ""

    def __call__(self, token: int) -> str:
        text = self._text(token)
        return str(token) if text is None else text

    def knows(self, token: int) -> bool:
        """Return whether the token has a text; all have where ids themselves are shown."""
        return self._text(token) is not None

    def spelled(self, tokens: Sequence[int]) -> tuple[str, ...]:
        """Return the text of every token; where none has one, log it."""
        texts = tuple(map(self, tokens))
        if tokens and not any(map(self.knows, tokens)):
            log.warning(
                "decode returned no text for any token of a probe row (%s), so "
                "ids are shown; it is called with one id, then with a list of "
                "one id",
                self._first_error or "empty text",
            )
        return texts

    def _text(self, token: int) -> str | None:
        if token not in self._known:
            self._known[token] = self._tried(token)
        return self._known[token]

    def _tried(self, token: int) -> str | None:
        # A tokenizer's decode takes a list, and may take a number for something else.
        arguments: list[Any] = [token, [token]]
        if self._takes_lists:
            arguments.reverse()
        for argument in arguments:
            try:
                text = _as_text(self._look_up(argument))
            except BaseException as error:
                if isinstance(error, _NEVER_HELD_BACK):
                    raise
                self._first_error = self._first_error or f"{type(error).__name__}: {error}"
                continue
            if text:
                return text
        return None


def _look_up(decode: Any) -> Callable[[Any], Any]:
    if decode is None:
        return str
    if isinstance(decode, Mapping):
        return _by_id(decode).__getitem__
    of_tokenizer = getattr(decode, "decode", None)
    if callable(of_tokenizer) and not isinstance(decode, str | bytes):
        return of_tokenizer
    if callable(decode):
        return decode
    if isinstance(decode, Sequence) and not isinstance(decode, str | bytes):
        return lambda token: decode[_not_negative(token)]
    raise ProbeError(
        "decode must turn one token id into text, or be a tokenizer, or a table of texts by id; "
        f"got {type(decode).__name__}"
    )


def _by_id(table: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Return a table from ids to text; a tokenizer's vocabulary is one from text to ids."""
    if table and all(isinstance(value, int) for value in table.values()):
        return {token: text for text, token in table.items()}
    return table


def _not_negative(token: Any) -> int:
    if token < 0:
        raise IndexError(f"{token} is no token id")
    return token


def _as_text(decoded: Any) -> str | None:
    """Return what a decoder gave as text; None where it is none."""
    if isinstance(decoded, list | tuple) and len(decoded) == 1:
        decoded = decoded[0]
    if isinstance(decoded, bytes):
        return decoded.decode("utf-8", errors="replace")
    return decoded if isinstance(decoded, str) else None
