"""Run work in forks that may be killed. The process that forks has no threads: services of its
own live in processes of theirs."""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Ended:
    """How a fork ended.

    Attributes:
        killed: it was still at work when its time was over.
        took_s: seconds from its start to its end.
        peak_mb: the most memory that it had, in megabytes, with what it shares with its parent.
        failed: it raised; what it raised is in its log.
    """

    killed: bool
    took_s: float
    peak_mb: float
    failed: bool


def forked(
    work: Callable[[], object],
    log: Path,
    *,
    kill_after_s: float | None = None,
    since: Callable[[], bool] | None = None,
) -> Ended:
    """Run ``work`` in a fork, and kill it with SIGKILL after so long if it is still at work.

    Args:
        since: the time runs from when this is first true; None: from the start.
    """
    began = counted_from = time.monotonic()
    child = os.fork()
    if child == 0:
        _run(work, log)
    limit_s = 600.0 if kill_after_s is None else kill_after_s
    while True:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            break
        if since is not None and not since():
            counted_from = time.monotonic()
        else:
            since = None
        if time.monotonic() - counted_from > limit_s:
            os.kill(child, signal.SIGKILL)
            _, status, usage = os.wait4(child, 0)
            break
        time.sleep(0.001)
    code = os.waitstatus_to_exitcode(status)
    took_s = time.monotonic() - began
    if code == -signal.SIGKILL and kill_after_s is None:
        raise RuntimeError(f"a fork took longer than {limit_s:.0f} s; see {log}")
    return Ended(code == -signal.SIGKILL, took_s, usage.ru_maxrss / 1024, code > 0)


def _run(work: Callable[[], object], log: Path) -> None:
    """Become the fork: its words go into ``log``, and it ends here, whatever happens."""
    code = 1
    try:
        words = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(words, 1)
        os.dup2(words, 2)
        logging.basicConfig(level=logging.INFO, force=True)
        work()
        code = 0
    except BaseException:  # noqa: BLE001  the fork must not go on as the benchmark
        traceback.print_exc()
    finally:
        os._exit(code)


def peak_mb() -> float:
    """Return the most memory that this process had, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Host:
    """A service in a process of its own, which answers one call at a time.

    Args:
        make: called there; its methods are what ``call`` calls.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._ours, theirs = multiprocessing.Pipe()
        self._pid = os.fork()
        if self._pid == 0:
            self._ours.close()
            _serve(make, theirs)
        theirs.close()
        self.call("ready")

    def call(self, name: str, *arguments: Any) -> Any:
        self._ours.send((name, arguments))
        answer, error = self._ours.recv()
        if error:
            raise RuntimeError(error)
        return answer

    def end(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        self._ours.close()


def _serve(make: Callable[[], Any], pipe: Connection) -> None:
    try:
        service = make()
        while True:
            name, arguments = pipe.recv()
            try:
                answer = None if name == "ready" else getattr(service, name)(*arguments)
                pipe.send((answer, None))
            except Exception:  # noqa: BLE001  the caller is in another process
                pipe.send((None, traceback.format_exc()))
    except BaseException:  # noqa: BLE001  the benchmark has ended
        pass
    finally:
        os._exit(0)
