"""Progress bars of the pipeline's long work, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(
    verb: str, unit: str, *, shown: bool, delay_s: float = 0.0
) -> Iterator[Callable[[int, int], None]]:
    """A progress bar that is told (done, in all)."""
    from tqdm import tqdm

    with tqdm(
        desc=verb,
        unit=f" {unit}",
        disable=not shown,
        delay=delay_s,
        file=sys.stderr,
        leave=False,
        dynamic_ncols=True,
    ) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield advance
