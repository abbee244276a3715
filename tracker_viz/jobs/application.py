"""Makes a Hydra application of a function, as every command and ``train.py`` are, with errors that
say what to type instead.

    @application(config_name="render")
    def main(cfg: DictConfig) -> None:
        settings = typed(RenderSettings, cfg)

Exit codes: 0 done, 1 it failed, 2 the command line or the configuration is wrong, 130 interrupted.
"""

from __future__ import annotations

import functools
import io
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Any, NoReturn, TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)
from yaml import YAMLError

from tracker_viz.commands import override
from tracker_viz.errors import ConfigError, TrackerVizError, unknown_name
from tracker_viz.options import Options

OUR_CONF = "pkg://tracker_viz.conf"
_FULL_ERROR = "HYDRA_FULL_ERROR"
_MENDABLE = (HydraException, OmegaConfBaseException, TrackerVizError)
# What brings options of Hydra's own groups that it does not have by itself
_PLUGINS = {
    "hydra/launcher": {
        "joblib": "hydra-joblib-launcher",
        "submitit_local": "hydra-submitit-launcher",
        "submitit_slurm": "hydra-submitit-launcher",
        "ray": "hydra-ray-launcher",
    },
    "hydra/sweeper": {
        "optuna": "hydra-optuna-sweeper",
        "ax": "hydra-ax-sweeper",
        "nevergrad": "hydra-nevergrad-sweeper",
    },
}

Task = Callable[[DictConfig], Any]
Settings = TypeVar("Settings")


def application(
    *, config_name: str, config_path: str | None = OUR_CONF
) -> Callable[[Task], Callable[[], None]]:
    """Like ``hydra.main``, whose ``config_name`` and ``config_path`` these are.

    Errors that a user can mend are printed as one message, without a traceback unless
    ``HYDRA_FULL_ERROR=1`` asks for it.
    """

    def decorate(task: Task) -> Callable[[], None]:
        failed: list[Exception] = []

        @functools.wraps(task)
        def job(cfg: DictConfig) -> Any:
            try:
                return task(cfg)
            except _MENDABLE as error:
                hydra_config = HydraConfig.get()
                if hydra_config.mode is not RunMode.RUN or hydra_config.callbacks:
                    raise
                # Hydra would put all overrides before it. Of several jobs they say which one
                # failed; of one they bury the message.
                failed.append(error)

        entry = hydra.main(config_path=config_path, config_name=config_name, version_base="1.3")(
            job
        )

        @functools.wraps(
            task
        )  # Hydra finds config_path relative to the file of the function at the bottom
        def run() -> None:
            with errors_explained(), _errors_passed_on(), _sigterm_as_ctrl_c():
                entry()
                if failed:
                    raise failed.pop()

        return run

    return decorate


@contextmanager
def errors_explained() -> Iterator[None]:
    """Leaves the program with one message and the error's exit code; with a traceback where it is a
    bug, or where one was asked for."""
    wants_traceback = os.environ.get(_FULL_ERROR, "0") not in ("", "0")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="replace"
        )  # a terminal without ✓ and ─ shows ? in their place
    try:
        yield
    except KeyboardInterrupt:
        _leave("interrupted", code=130)
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        sys.exit(1)
    except (HydraException, OmegaConfBaseException, YAMLError, ConfigError) as error:
        if wants_traceback:
            raise
        _leave(explain(error), code=2)
    except TrackerVizError as error:
        if wants_traceback:
            raise
        _leave(str(error), code=1)


def typed(settings: type[Settings], cfg: DictConfig) -> Settings:
    """Return ``cfg`` as ``settings``, a class of ``Options`` or a dataclass: every name and type
    checked, nested ones too.

    Raises:
        ConfigError: a name that ``settings`` does not have, a value that is missing, of another
            type, or refused by a dataclass.
    """
    if missing := OmegaConf.missing_keys(cfg):
        # Merging would quietly take the dataclass's default
        raise ConfigError(_no_value(min(missing)))
    if issubclass(settings, Options):
        plain: Any = OmegaConf.to_container(cfg, resolve=True)
        return settings.of(plain)
    try:
        checked: Any = OmegaConf.to_object(
            OmegaConf.merge(_writable(OmegaConf.structured(settings)), cfg)
        )
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from error
    assert isinstance(checked, settings)
    return checked


def _writable(node: DictConfig) -> DictConfig:
    """Frozen dataclasses make read-only nodes, which take no values even while merging."""
    OmegaConf.set_readonly(node, False)
    for name in node:
        if not OmegaConf.is_missing(node, name) and isinstance(node[name], DictConfig):
            _writable(node[name])
    return node


def explain(error: Exception) -> str:
    """What is wrong with a command line or a configuration, and what was probably meant."""
    if isinstance(error, OverrideParseException):
        key, _, value = (error.override or "").partition("=")
        message = (
            f"cannot read the override {error.override!r}: {str(error.message).splitlines()[0]}"
        )
        if not value or value.startswith(("[", "{")):
            return message
        return f'{message}; with other signs than plain letters, digits and ./:-_ a value stands in quotes: "{override(key, value)}"'
    if isinstance(error, InstantiationException) and isinstance(error.__cause__, TrackerVizError):
        return str(error.__cause__)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        if package := _PLUGINS.get(group, {}).get(option):
            return f"{group}={option} comes with a plugin of Hydra that is not installed: pip install {package}"
        if known := error.options or _own_options(group):
            return unknown_name(group or "config", option, known)
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) else error
    if isinstance(cause, MissingMandatoryValue):
        return _no_value(str(cause.full_key))
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.parent_node is not None:
        parent, _, key = str(cause.full_key).rpartition(".")
        known = [name for name in cause.parent_node if parent or name != "hydra"]
        if not known:
            return f"{parent} has no options yet; with a + in front an override adds one: '+{cause.full_key}=...'"
        return unknown_name(f"option of {parent}" if parent else "option", key, known)
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return f"{cause.full_key}: {str(cause).splitlines()[0]}"
    return str(error)


def _no_value(key: str) -> str:
    return f"{key} has no value yet; give it one: {key}=..."


def _own_options(group: str) -> list[str]:
    """Options of one of our groups. Hydra lists them itself, but not when one of several chosen
    options is missing."""
    folder = resources.files("tracker_viz.conf").joinpath(group)
    return (
        [
            file.name.removesuffix(".yaml")
            for file in folder.iterdir()
            if file.name.endswith(".yaml")
        ]
        if folder.is_dir()
        else []
    )


def _reader_is_gone() -> bool:
    """Whether standard output leads nowhere any more, as after ``| head``; what is still buffered
    is dropped then."""
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
    """What a scheduler sends before it kills lets the program end as Ctrl-C does: captures in
    memory go to the disk, runs are ended.

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
    """Hydra prints errors and exits by itself, unless it is told to let them pass."""
    before = os.environ.get(_FULL_ERROR)
    os.environ[_FULL_ERROR] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FULL_ERROR]
        else:
            os.environ[_FULL_ERROR] = before
