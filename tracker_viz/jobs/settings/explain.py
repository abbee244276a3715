"""Turn errors of Hydra and OmegaConf into one line that says what to type instead."""

from __future__ import annotations

from importlib import resources

from hydra.errors import (
    ConfigCompositionException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from tracker_viz.commands import override
from tracker_viz.errors import TrackerVizError, unknown_name

# The packages that add options to Hydra's own groups
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


def explain(error: Exception) -> str:
    """Explain what is wrong with a command line or a configuration, and suggest the right form."""
    if isinstance(error, OverrideParseException):
        return _unreadable_override(error)
    if isinstance(error, InstantiationException) and isinstance(error.__cause__, TrackerVizError):
        return str(error.__cause__)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _unknown_choice(error, error.missing_cfg_file)
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) else error
    if isinstance(cause, MissingMandatoryValue):
        return no_value(str(cause.full_key))
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.parent_node is not None:
        return _unknown_key(cause)
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return f"{cause.full_key}: {_first_line(cause)}"
    return " ".join(str(error).split())


def no_value(key: str) -> str:
    return f"{key} has no value yet; give it one: {key}=..."


def _unreadable_override(error: OverrideParseException) -> str:
    key, equals, value = (error.override or "").partition("=")
    if not equals:
        hint = f"did you mean run={key}?" if ":" in key else "--help lists them"
        return f"cannot read {key!r}: options are key=value; {hint}"
    message = f"cannot read the override {error.override!r}: {_first_line(error.message)}"
    if not value or value.startswith(("[", "{")):
        return message
    return (
        f"{message}; a value with characters other than letters, digits and ./:-_ needs quotes: "
        f'"{override(key, value)}"'
    )


def _unknown_choice(error: MissingConfigException, file: str) -> str:
    group, _, option = file.rpartition("/")
    if package := _PLUGINS.get(group, {}).get(option):
        return (
            f"{group}={option} comes with a plugin of Hydra that is not installed: "
            f"pip install {package}"
        )
    known = error.options or _shipped_options(group)
    if known:
        return unknown_name(group or "config", option, known)
    return _first_line(error)


def _shipped_options(group: str) -> list[str]:
    # Hydra lists a group's options itself, but not when one of several chosen ones is missing.
    folder = resources.files("tracker_viz.conf").joinpath(group)
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    return [name.removesuffix(".yaml") for name in names if name.endswith(".yaml")]


def _unknown_key(error: ConfigAttributeError | ConfigKeyError) -> str:
    parent, _, key = str(error.full_key).rpartition(".")
    keys = error.parent_node or ()
    known = [str(name) for name in keys if parent or name != "hydra"]
    if not known:
        return (
            f"{parent} has no options yet; with a + in front an override adds one: "
            f"'+{error.full_key}=...'"
        )
    return unknown_name(f"option of {parent}" if parent else "option", key, known)


def _first_line(error: object) -> str:
    return (str(error).splitlines() or [""])[0]
