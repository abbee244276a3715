"""Log into MLflow's database: parameters with the configuration behind them, points of charts, and
the summary. Each function makes the calls; ``run.py`` translates their errors."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import mlflow
from mlflow.entities import Metric, Param, RunTag

from tracker_viz.errors import TrackerError, TransientTrackerError
from tracker_viz.files import parsed_object
from tracker_viz.trackers.mlflow.artifacts import ArtifactStore
from tracker_viz.trackers.mlflow.limits import (
    MAX_METRICS_A_CALL,
    MAX_PARAMS_A_CALL,
    MAX_TAG_CHARACTERS,
    as_params,
    batches,
    legal_name,
)
from tracker_viz.trackers.values import MetricPoint, flatten

log = logging.getLogger(__name__)

# The UI shows no tag whose name begins with "mlflow.": so it hides what only we read.
_CONFIG_TAG = "mlflow.tracker_viz.config"
_CONFIG = "config.json"
MAX_CONFIG_BYTES = 64 << 20
# Charts without a prefix come last on MLflow's page, so the loss gets one that sorts first.
_FIRST_CHART = "_training/loss"


def put_config(
    client: mlflow.MlflowClient, files: ArtifactStore, run_id: str, config: Mapping[str, Any]
) -> None:
    """Show as parameters what was chosen, and store the whole configuration as a file. Parameters
    that the run has are left alone."""
    at_default: Collection[str] = getattr(config, "at_default", frozenset())
    chosen = {}
    for name, value in flatten(config).items():
        if name not in at_default and value not in (None, "", [], {}):
            chosen[name] = value
    there = client.get_run(run_id).data.params
    new = [Param(name, value) for name, value in as_params(chosen).items() if name not in there]
    for batch in batches(new, MAX_PARAMS_A_CALL):
        client.log_batch(run_id, params=batch, synchronous=True)
    if config:
        files.put_bytes(json.dumps(dict(config), indent=2).encode(), _CONFIG)
        client.set_tag(run_id, _CONFIG_TAG, _CONFIG, synchronous=True)


def stored_config(files: ArtifactStore, run: mlflow.entities.Run) -> dict[str, str]:
    """Return the whole configuration as parameters would have it; empty for a run that has none."""
    if run.data.tags.get(_CONFIG_TAG) != _CONFIG:
        return {}
    try:
        contents = files.read(_CONFIG, max_bytes=MAX_CONFIG_BYTES)
        return as_params(flatten(parsed_object(contents, _CONFIG)))
    except TransientTrackerError:
        raise
    except (TrackerError, RecursionError) as error:
        log.warning("%s of mlflow:%s is left out: %s", _CONFIG, run.info.run_id, error)
        return {}


def put_points(client: mlflow.MlflowClient, run_id: str, points: Sequence[MetricPoint]) -> None:
    """Chart points; one that is sent again with the same time is the same row to MLflow."""
    metrics: list[Metric] = []
    for point in points:
        time_ms = round((time.time() if point.time is None else point.time) * 1000)
        values = dict(point.values)
        if "loss" in values:
            values[_FIRST_CHART] = values["loss"]
        for name, value in values.items():
            metrics.append(Metric(legal_name(name), float(value), time_ms, point.step))
    for batch in batches(metrics, MAX_METRICS_A_CALL):
        client.log_batch(run_id, metrics=batch, synchronous=True)


def put_summary(
    client: mlflow.MlflowClient, run_id: str, values: Mapping[str, float | int | str]
) -> None:
    """Store numbers as metrics, by which MLflow's table of runs sorts, and text as tags."""
    there = client.get_run(run_id).data
    now_ms = round(time.time() * 1000)
    numbers: dict[str, float] = {}
    texts: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, str):
            texts[legal_name(name)] = value[:MAX_TAG_CHARACTERS]
        else:
            numbers[legal_name(name)] = float(value)
    changed = [
        Metric(name, number, now_ms, 0)
        for name, number in numbers.items()
        if there.metrics.get(name) != number
    ]
    tags = [RunTag(name, text) for name, text in texts.items() if there.tags.get(name) != text]
    for metrics in batches(_later_than_now(changed, there), MAX_METRICS_A_CALL):
        client.log_batch(run_id, metrics=metrics, synchronous=True)
    for batch in batches(tags, MAX_PARAMS_A_CALL):
        client.log_batch(run_id, tags=batch, synchronous=True)


def _later_than_now(changed: list[Metric], there: mlflow.entities.RunData) -> list[Metric]:
    """Return the metrics later than those that the run shows: of two values of a step MLflow shows
    the later one, and a clock that jumped back would leave the old one in sight."""
    shown_ms = {metric.key: metric.timestamp for metric in there.to_proto().metrics}
    later = []
    for metric in changed:
        time_ms = max(metric.timestamp, shown_ms.get(metric.key, -1) + 1)
        later.append(Metric(metric.key, metric.value, time_ms, metric.step))
    return later
