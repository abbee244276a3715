"""Progress of long work on standard error: a bar in a terminal, and a plain line now and then where
it is a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int, int], None]

LINE_EVERY_S = 15.0


@contextmanager
def progress_bar(verb: str, unit: str, *, shown: bool, delay_s: float = 0.0) -> Iterator[Advance]:
    """Yield ``advance(done, total)``, to be called from one thread at a time.

    Args:
        verb, unit: what is done and with what: ``drawing``, ``frames``.
        shown: False shows nothing.
        delay_s: work that is done sooner shows no bar.
    """
    if not shown:
        yield lambda done, total: None
    elif sys.stderr.isatty():
        with _bar(verb, unit, delay_s) as advance:
            yield advance
    else:
        yield PlainLines(verb, unit).advance


@contextmanager
def _bar(verb: str, unit: str, delay_s: float) -> Iterator[Advance]:
    from tqdm import tqdm

    options = {"delay": delay_s, "leave": False, "dynamic_ncols": True}
    with tqdm(desc=verb, unit=f" {unit}", file=sys.stderr, **options) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield advance


class PlainLines:
    """Progress for a log file: a line every ``LINE_EVERY_S`` seconds, and no carriage returns."""

    def __init__(
        self, verb: str, unit: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._verb, self._unit = verb, unit
        self._clock = clock
        self._last_line_s = clock()

    def advance(self, done: int, total: int) -> None:
        now_s = self._clock()
        if now_s - self._last_line_s < LINE_EVERY_S:
            return
        self._last_line_s = now_s
        print(f"{self._verb}: {done} of {total} {self._unit}", file=sys.stderr, flush=True)
