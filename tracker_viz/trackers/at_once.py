"""Calls that wait for a service, several at once. Used where many captures, or many runs, are asked
for."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

Result = TypeVar("Result")


@contextmanager
def at_once(
    calls: Sequence[Callable[[], Result]], n_threads: int
) -> Iterator[list[Future[Result]]]:
    """The calls' futures, in their order; calls that have not begun when the block ends never do.

    Unlike those of a ``ThreadPoolExecutor``, the threads are waited for neither then nor when the
    program ends: a server that hangs would hold up whoever presses Ctrl-C for minutes.
    """
    futures: list[Future[Result]] = [Future() for _ in calls]
    waiting = deque(zip(calls, futures, strict=True))
    for _ in range(min(n_threads, len(calls))):
        threading.Thread(target=_work, args=(waiting,), name="tracker_viz-ask", daemon=True).start()
    try:
        yield futures
    finally:
        for future in futures:
            future.cancel()


def _work(waiting: deque[tuple[Callable[[], Result], Future[Result]]]) -> None:
    while waiting:
        try:
            call, future = waiting.popleft()
        except IndexError:
            return  # another thread was faster
        if future.set_running_or_notify_cancel():
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001  the caller gets it
                future.set_exception(error)
            else:
                future.set_result(result)
