"""The configuration of a job: from its typed settings to what Hydra composes, and from there back
to typed settings.

A job's keys, defaults and legal values are declared in its ``Settings`` and nowhere else. Hydra
gets them through its ConfigStore; the groups that a job chooses from (layouts, videos, ...) are
the folders of ``conf/``, or a YAML file of the user's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict
from yaml import YAMLError

from tracker_viz.errors import ConfigError
from tracker_viz.files import home_expanded
from tracker_viz.jobs.settings.explain import explain, no_value
from tracker_viz.options import Options

# Jobs leave nothing behind in the working directory.
_HYDRA = {
    "output_subdir": None,
    "run": {"dir": "."},
    "sweep": {"dir": "${oc.env:TMPDIR,/tmp}/tracker-viz", "subdir": "${hydra.job.num}"},
}
# They print messages as they are, to the current standard error.
_LOGGING = "tracker_viz_job"
_PLAIN_MESSAGES = {
    "version": 1,
    "formatters": {"plain": {"format": "%(message)s"}},
    "handlers": {
        "console": {
            "class": "logging.StreamHandler",
            "formatter": "plain",
            "stream": "ext://sys.stderr",
        }
    },
    "root": {"level": "INFO", "handlers": ["console"]},
    # matplotlib announces at its first start that it builds a font cache.
    "loggers": {"matplotlib": {"level": "WARNING"}},
    "disable_existing_loggers": False,
}
_COMMENTED = re.compile(r" +(?P<key>\w+): (?P<default>.*?)( *# (?P<meaning>.*))?")
_PACKAGE = re.compile(r"^#\s*@package\s+(\S+)\s*$", re.MULTILINE)

AnySettings = TypeVar("AnySettings", bound="Settings")


class Settings(Options):
    """Base class of a job's settings: one field per key of its command line. ``--help`` prints the
    class's docstring.

    Attributes:
        usage: the arguments after the command's name, a line for each way to call it.
        groups: the settings that are groups of options -> the option chosen by default.
    """

    # Hydra reads name=42 as a number
    model_config = ConfigDict(coerce_numbers_to_str=True)

    usage: ClassVar[tuple[str, ...]] = ("[key=value ...]",)
    groups: ClassVar[Mapping[str, str]] = {}


class TrackerSettings(Settings):
    """Settings of a job that reads runs: the addresses of their trackers."""

    tracking_uri: str | None = None
    """Address of MLflow; null: MLFLOW_TRACKING_URI, else mlflow.db in the working directory."""

    ui_url: str | None = None
    """Address of MLflow's UI, if it is not at tracking_uri; only links need it."""

    workspace: str | None = None
    """Workspace of an MLflow server that has several; null: MLFLOW_WORKSPACE."""

    base_url: str | None = None
    """Address of W&B; null: WANDB_BASE_URL, else the wandb client's own setting."""

    def tracker_addresses(self) -> dict[str, str]:
        """Return those of the options above that were set."""
        addresses = self.model_dump(include=set(TrackerSettings.model_fields))
        return {name: value for name, value in addresses.items() if value is not None}


def typed(settings: type[AnySettings], cfg: DictConfig) -> AnySettings:
    """Return the configuration that Hydra composed as checked settings.

    Raises:
        ConfigError: a key is unknown, has no value yet, or has an impossible one.
    """
    if missing := OmegaConf.missing_keys(cfg):
        raise ConfigError(no_value(min(missing)))
    try:
        values = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from error
    assert isinstance(values, dict)
    return settings.of(values)  # type: ignore[arg-type]  # keys that are no names are refused there


def store_config(name: str, settings: type[Settings]) -> None:
    """Make the primary config ``name`` of a job known to Hydra, before its application starts."""
    choices = [{group: option} for group, option in settings.groups.items()]
    content: dict[str, Any] = {
        "defaults": ["_self_", *choices, {"override hydra/job_logging": _LOGGING}],
        "hydra": _HYDRA,
    }
    for key, field in settings.model_fields.items():
        if key in settings.groups:
            continue
        default = field.get_default(call_default_factory=True)
        if isinstance(default, tuple):
            default = list(default)  # OmegaConf knows no tuples
        content[key] = "???" if field.is_required() else default

    store = ConfigStore.instance()
    store.store(name, OmegaConf.create(content))
    store.store(_LOGGING, OmegaConf.create(_PLAIN_MESSAGES), group="hydra/job_logging")


def group_type(settings: type[Settings], group: str) -> type[Options] | None:
    """Return the class that declares a group's options; None where they are a mapping."""
    if group not in settings.model_fields:
        return None  # such as experiment=, whose options are settings of other groups
    declared: Any = settings.model_fields[group].annotation
    if isinstance(declared, type) and issubclass(declared, Options):
        return declared
    return None


def group_options(group: str) -> dict[str, str]:
    """Return the options of a group of ``conf/`` with their descriptions, the first comments of
    their files."""
    folder = resources.files("tracker_viz.conf").joinpath(group)
    if not folder.is_dir():
        return {}
    options = {}
    for file in sorted(folder.iterdir(), key=lambda each: each.name):
        if file.name.endswith(".yaml"):
            options[file.name.removesuffix(".yaml")] = _first_comment(file.read_text())
    return options


def _first_comment(text: str) -> str:
    for line in text.splitlines():
        if line.startswith("#") and "@package" not in line:
            return line[1:].strip()
    return ""


def commented_options(group: str) -> list[tuple[str, str]]:
    """Return (key=default, meaning) of the options in a group's files, for a group that no class
    declares: trackers, because others may be plugged in."""
    rows = []
    for name in group_options(group):
        text = resources.files("tracker_viz.conf").joinpath(f"{group}/{name}.yaml").read_text()
        for line in text.splitlines():
            option = _COMMENTED.fullmatch(line)
            if option:
                key = f"{group}.{name}.{option['key']}"
                rows.append((f"{key}={option['default']}", option["meaning"] or ""))
    return rows


def with_files_as_options(words: Iterable[str], settings: type[Settings]) -> list[str]:
    """Return the command line with ``layout=<path>.yaml`` replaced by an option that Hydra knows:
    the file's content is stored as one.

    Raises:
        ConfigError: there is no such file, or it holds no options.
    """
    rewritten = []
    for word in words:
        group, _, value = word.partition("=")
        if group in settings.groups and not value.startswith(("[", "{")):
            # A comma may be part of a file's name.
            given = [value] if Path(value).is_file() else value.split(",")
            choices = [_as_option(settings, group, choice) for choice in given]
            word = f"{group}={','.join(choices)}"
        rewritten.append(word)
    return rewritten


def _as_option(settings: type[Settings], group: str, choice: str) -> str:
    text = choice.strip().strip("'\"")
    path = home_expanded(text)
    if path.suffix not in (".yaml", ".yml"):
        return choice
    options = group_options(group)
    if not path.is_file():
        if text.removesuffix(".yaml") in options:
            return choice
        names = ", ".join(options)
        raise ConfigError(f"{group}={text}: no such file; {group} is one of {names}, or a file")

    name = re.sub(r"[^A-Za-z0-9_.-]", "_", path.stem)
    if name in options:
        name = f"{name}_file"
    node, package = _read(group, path)
    declared = group_type(settings, group)
    if declared is not None and "defaults" not in node:
        # Hydra overrides only what is there.
        for key, field in declared.model_fields.items():
            if not field.is_required():
                node.setdefault(key, field.get_default(call_default_factory=True))
    ConfigStore.instance().store(name, node, group=group, package=package)
    return name


def _read(group: str, path: Path) -> tuple[DictConfig, str | None]:
    """Return the content of a group's file, and the package that its header asks for."""
    try:
        text = path.read_text(encoding="utf-8")
        node = OmegaConf.create(text)
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{group}={path} cannot be read: {reason}") from error
    if not isinstance(node, DictConfig):
        raise ConfigError(f"{group}={path} must be a mapping of options to values")
    if group == "layout":
        node.setdefault("name", path.stem)
    package = _PACKAGE.search(text)
    return node, package[1] if package else None
