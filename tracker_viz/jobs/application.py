"""Turn a function into a Hydra application, for all jobs and ``train.py``: with checked settings,
help that explains them, and errors that say what to type instead.

    @application(RenderSettings, name="render")
    def main(settings: RenderSettings) -> None: ...

Exit codes: 0 done, 1 it failed, 2 the command line or the configuration is wrong, 130 interrupted.
"""

from __future__ import annotations

import functools
import io
import os
import re
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TextIO

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from tracker_viz.errors import ConfigError, TrackerVizError
from tracker_viz.jobs.settings.config import AnySettings, store_config, typed, with_files_as_options
from tracker_viz.jobs.settings.explain import explain
from tracker_viz.jobs.settings.help import help_text
from tracker_viz.notice import results_printed

OUR_CONF = "pkg://tracker_viz.conf"
# A job without groups may use their names as keys, as backfill uses model=.
_NO_GROUPS = "pkg://tracker_viz.jobs"
_FULL_ERROR = "HYDRA_FULL_ERROR"
_WRONG_CONFIG = (HydraException, OmegaConfBaseException, YAMLError, ConfigError)
# Hydra writes this to standard error before it raises a job's error.
_HYDRAS_LINE = "Error executing job with overrides:"

_HYDRAS_OPTIONS = frozenset(
    f"--{name}"
    for name in (
        "cfg",
        "config-dir",
        "config-name",
        "config-path",
        "experimental-rerun",
        "info",
        "package",
    )
)

_HOME = re.compile(r"(?<![^:,\['\"])~(?=/|$)")


def application(
    settings: type[AnySettings], *, name: str, config_path: str | None = None
) -> Callable[[Callable[[AnySettings], Any]], Callable[[], None]]:
    """Turn a function that takes ``settings`` into a command.

    Args:
        name: of the job and of its primary config.
        config_path: folder of that config and its groups, as ``hydra.main`` takes it. By default
            the config comes from ``settings``, and the groups are ours.
    """

    def decorate(task: Callable[[AnySettings], Any]) -> Callable[[], None]:
        @functools.wraps(task)
        def job(cfg: DictConfig) -> Any:
            try:
                with results_printed():
                    return task(typed(settings, cfg))
            except (*_WRONG_CONFIG, TrackerVizError) as error:
                if HydraConfig.get().mode is RunMode.MULTIRUN:
                    raise _of_one_job(error) from error
                raise

        path = config_path or (OUR_CONF if settings.groups else _NO_GROUPS)
        entry = hydra.main(config_path=path, config_name=name, version_base="1.3")(job)

        # Hydra finds config_path relative to the file of the function at the bottom.
        @functools.wraps(task)
        def run() -> None:
            with errors_explained(), _errors_passed_on(), _sigterm_as_ctrl_c():
                if {"--help", "-h"} & set(sys.argv[1:]):
                    print(help_text(_command(), settings), flush=True)
                    return
                if config_path is None:
                    store_config(name, settings)
                words = [with_home(without_dashes(word)) for word in sys.argv[1:]]
                sys.argv[1:] = with_files_as_options(words, settings)
                entry()

        return run

    return decorate


@contextmanager
def errors_explained() -> Iterator[None]:
    """Leave the program with one message and the error's exit code; with a traceback for a bug, or
    where ``HYDRA_FULL_ERROR=1`` asks for one."""
    wants_traceback = os.environ.get(_FULL_ERROR, "0") not in ("", "0")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal without ✓ and ─ shows ? in their place.
        sys.stdout.reconfigure(errors="replace")
    try:
        yield
    except KeyboardInterrupt:
        _leave("interrupted", code=130)
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        sys.exit(1)
    except _WRONG_CONFIG as error:
        if wants_traceback:
            raise
        _leave(explain(error), code=2)
    except TrackerVizError as error:
        if wants_traceback:
            raise
        _leave(_one_line(error), code=1)


def without_dashes(word: str) -> str:
    """Return ``--key=value`` as the override ``key=value``; Hydra's own options stay as they are.

    This is how ``wandb agent`` passes settings, unless its sweep's command says otherwise.
    """
    key = word.partition("=")[0]
    is_setting = key.startswith("--") and "=" in word and key not in _HYDRAS_OPTIONS
    return word.removeprefix("--") if is_setting else word


def with_home(word: str) -> str:
    """Return ``spool=~/runs`` and ``run=local:~/runs`` with the home directory in place of ``~``,
    which Hydra's grammar refuses and most shells leave as it is."""
    home = os.path.expanduser("~")
    key, _, value = word.partition("=")
    return word if not value or "'" in home else f"{key}={_HOME.sub(lambda _: home, value)}"


def _of_one_job(error: Exception) -> TrackerVizError:
    """Return the error of one of several jobs, with the overrides that tell which one it was."""
    job = " ".join(HydraConfig.get().overrides.task) or f"job {HydraConfig.get().job.num}"
    if isinstance(error, _WRONG_CONFIG):
        return ConfigError(f"{job}: {explain(error)}")
    return TrackerVizError(f"{job}: {_one_line(error)}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _command() -> str:
    """Return the command as the user typed it: ``tracker-viz render``, ``python train.py``."""
    program = sys.argv[0]
    return f"python {Path(program).name}" if program.endswith(".py") else program


def _reader_is_gone() -> bool:
    """Return whether the reader of standard output has gone, as after ``| head``; then drop what is
    still buffered."""
    pipe = select.poll()
    pipe.register(sys.stdout.fileno(), 0)
    if not any(event & select.POLLERR for _, event in pipe.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _leave(message: str, *, code: int) -> NoReturn:
    sys.stderr.write(f"{message.rstrip()}\n")
    sys.exit(code)


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Handle SIGTERM, which schedulers send before they kill, like Ctrl-C: captures in memory are
    written to the disk, runs are ended.

    Outside the main thread, where Python delivers no signals, this changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _errors_passed_on() -> Iterator[None]:
    """Let errors through Hydra, which by default prints them and exits; even when it raises them it
    prints a line of its own, which is dropped."""
    before = os.environ.get(_FULL_ERROR)
    os.environ[_FULL_ERROR] = "1"
    stderr = sys.stderr
    sys.stderr = _WithoutHydrasLine(stderr)
    try:
        yield
    finally:
        sys.stderr = stderr
        if before is None:
            del os.environ[_FULL_ERROR]
        else:
            os.environ[_FULL_ERROR] = before


class _WithoutHydrasLine:
    """Standard error without the line that Hydra writes before it raises a job's error."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if text.startswith(_HYDRAS_LINE):
            return len(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
