"""Show the progress of long work: a bar in a terminal, one line that changes in a notebook, and a
line now and then in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from tracker_viz import notebook

LINE_EVERY_S = 15.0
_NOTEBOOK_EVERY_S = 0.25


class Advance(Protocol):
    """Reports (units done, units in all), and a few words on the state: ``loss 3.210``."""

    def __call__(self, done: int, total: int, state: str = "", /) -> None: ...


@contextmanager
def progress_bar(
    verb: str, unit: str, *, shown: bool, delay_s: float = 0.0, done: int = 0
) -> Iterator[Advance]:
    """Yield the function that reports progress; call it from one thread at a time.

    Args:
        verb, unit: for example ``drawing``, ``frames``.
        shown: False shows nothing.
        delay_s: work that ends sooner shows no bar.
        done: units that were done before.
    """
    if not shown:
        yield lambda done, total, state="": None
    elif notebook.in_notebook():
        line = NotebookLine(verb, unit, delay_s)
        try:
            yield line.advance
        finally:
            line.clear()
    elif sys.stderr.isatty():
        with _bar(verb, unit, delay_s, done) as advance:
            yield advance
    else:
        yield PlainLines(verb, unit).advance


@contextmanager
def _bar(verb: str, unit: str, delay_s: float, done_before: int) -> Iterator[Advance]:
    from tqdm import tqdm

    options: dict[str, Any] = {"delay": delay_s, "leave": False, "dynamic_ncols": True}
    with tqdm(desc=verb, unit=f" {unit}", initial=done_before, file=sys.stderr, **options) as bar:

        def advance(done: int, total: int, state: str = "", /) -> None:
            bar.total = total
            if state:
                bar.set_postfix_str(state, refresh=False)
            bar.update(done - bar.n)

        yield advance


class NotebookLine:
    """Progress in a notebook: one output that changes, and is empty in the end."""

    def __init__(self, verb: str, unit: str, delay_s: float) -> None:
        self._verb, self._unit = verb, unit
        self._output = notebook.CellOutput()
        self._next_s = time.monotonic() + delay_s

    def advance(self, done: int, total: int, state: str = "", /) -> None:
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        self._next_s = now_s + _NOTEBOOK_EVERY_S
        words = f"{self._verb}: {done} of {total} {self._unit}"
        if state:
            words += f", {state}"
        bar = f'<progress value="{done}" max="{max(total, 1)}"></progress>'
        self._output.show(f"<div>{bar} {notebook.text(words)}</div>", words)

    def clear(self) -> None:
        self._output.clear()


class PlainLines:
    """Progress for a log file: a line every ``LINE_EVERY_S`` seconds, and no carriage returns."""

    def __init__(
        self, verb: str, unit: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._verb, self._unit = verb, unit
        self._clock = clock
        self._last_line_s = clock()

    def advance(self, done: int, total: int, state: str = "", /) -> None:
        now_s = self._clock()
        if now_s - self._last_line_s < LINE_EVERY_S:
            return
        self._last_line_s = now_s
        line = f"{self._verb}: {done} of {total} {self._unit}"
        print(f"{line}, {state}" if state else line, file=sys.stderr, flush=True)
