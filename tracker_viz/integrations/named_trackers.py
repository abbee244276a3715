"""Find the trackers, with their options, that somebody else's configuration logs to.

    tracker: wandb                                        a name
    tracker: [mlflow, wandb]                              several
    tracker: {mlflow: {experiment: ablation}}             names with options, as train.py has them
    tracker: {name: wandb, project: ablation}             options with a name among them
    logger: {mlflow: {_target_: lightning...MLFlowLogger, experiment_name: ablation}}

``integrations.hydra`` creates a sweep's parent run in these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig
from omegaconf.errors import OmegaConfBaseException

from tracker_viz import trackers

TrackerOptions = dict[str, dict[str, Any]]

_NAME_KEYS = ("name", "type", "kind", "backend", "tracker", "logger", "report_to")


def named_trackers(config: DictConfig) -> TrackerOptions:
    """Return scheme -> options of the trackers that ``config`` names: in its key ``tracker``, else
    as Lightning's loggers anywhere. Empty where nothing can be read."""
    chosen = plain(config, "tracker")
    return read_trackers(chosen) or _lightning_loggers(config)


def read_trackers(chosen: Any) -> TrackerOptions:
    """Return scheme -> options for one of the forms above, without trackers that are not
    installed."""
    if isinstance(chosen, str):
        return {chosen: {}} if chosen in trackers.schemes() else {}
    if isinstance(chosen, list | tuple):
        found: TrackerOptions = {}
        for each in chosen:
            found |= read_trackers(each)
        return found
    if not isinstance(chosen, Mapping):
        return {}

    if "_target_" in chosen:
        return _logger_options(chosen)
    for key in _NAME_KEYS:
        name = chosen.get(key)
        if isinstance(name, str) and name in trackers.schemes():
            return {name: _known_options(name, chosen)}
    found = {}
    for name, options in chosen.items():
        if isinstance(options, Mapping) and "_target_" in options:
            found |= _logger_options(options)
        elif name in trackers.schemes():
            found[name] = _known_options(name, options)
    return found


def plain(config: DictConfig | ListConfig, key: Any) -> Any:
    """Return one value as plain Python; None for one that is missing or cannot be resolved yet."""
    try:
        value = config[key]
    except (OmegaConfBaseException, KeyError):
        return None
    if isinstance(value, DictConfig):
        return {str(name): plain(value, name) for name in value}
    if isinstance(value, ListConfig):
        return [plain(value, index) for index in range(len(value))]
    return value


def _lightning_loggers(config: DictConfig) -> TrackerOptions:
    found: TrackerOptions = {}
    for node in _mappings(config):
        if "_target_" in node:
            found |= _logger_options(plain_mapping(node))
    return found


def _mappings(node: DictConfig | ListConfig) -> Iterator[DictConfig]:
    """Yield ``node`` and every mapping below it, without resolving any interpolation."""
    children: Any = []
    if isinstance(node._content, dict):
        assert isinstance(node, DictConfig)
        yield node
        children = node._content.values()
    elif isinstance(node._content, list):
        children = node._content
    for child in children:
        if isinstance(child, DictConfig | ListConfig):
            yield from _mappings(child)


def plain_mapping(config: DictConfig) -> dict[str, Any]:
    return {str(name): plain(config, name) for name in config}


def _logger_options(arguments: Mapping[str, Any]) -> TrackerOptions:
    class_name = str(arguments["_target_"]).rpartition(".")[2]
    for scheme in trackers.schemes():
        tracker = trackers.tracker_class(scheme)
        if class_name in tracker.lightning_loggers:
            options = tracker.options_of_logger(arguments)
            return {scheme: {name: value for name, value in options.items() if value is not None}}
    return {}


def _known_options(scheme: str, options: Any) -> dict[str, Any]:
    """Return the options that the tracker takes; others mean something to the application."""
    if not isinstance(options, Mapping):
        return {}
    known = set(trackers.tracker_class(scheme).option_names())
    return {name: value for name, value in options.items() if name in known}
