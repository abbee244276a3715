"""The trackers' own tables and charts show scores: of a run in which a head specializes, and of one
in which none does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from wandb_server.fixtures import wandb_server, wandb_service  # noqa: F401

from tracker_viz.pipeline.recording.destinations import destinations_of
from tracker_viz.pipeline.recording.outbox import close_outbox, open_outbox
from tracker_viz.pipeline.scoring import HEAD_TABLE, Scores
from tracker_viz.types import Capture

T, PERIOD, START, ONSET = 32, 8, 1, 30
STEPS = range(0, 90, 10)


def capture_at(step, *, specializes):
    """One block of two heads that spread evenly; from step 30 on the second may be an induction
    head."""
    pattern = np.tile(np.tri(T) / np.arange(1, T + 1)[:, None], (1, 2, 1, 1)).astype(np.float16)
    if specializes and step >= ONSET:
        pattern[0, 1] = 0
        for query in range(T):
            pattern[0, 1, query, query - PERIOD + 1 if query >= START + PERIOD else query] = 1
    axes = {"blocks.0.attn.pattern": ("probe", "head", "query", "key")}
    probe = {
        "length": T,
        "rows": [{"kind": "repeated", "period": PERIOD, "start": START, "tokens": ["t"] * T}],
    }
    return Capture(
        step,
        {"blocks.0.attn.pattern": pattern},
        axes,
        model={"n_blocks": 1, "n_heads": 2},
        probe=probe,
    )


@pytest.fixture
def runs(tmp_path, monkeypatch, wandb_server, mlflow_store):
    """(MLflow's store, refs of the run with an induction head, refs of the one without), each in
    both trackers."""
    monkeypatch.chdir(tmp_path)
    uri = mlflow_store
    refs = []
    for specializes in (True, False):
        options = {"mlflow": {"tracking_uri": uri}, "wandb": {"project": "scores"}}
        captures = [capture_at(step, specializes=specializes) for step in STEPS]
        scores = Scores(max_mb=10)
        outbox = open_outbox(
            destinations_of(["mlflow", "wandb"], options),
            scores,
            first=captures[0],
            spool=f"spool-{specializes}",
            name="scored",
        )
        for capture in captures:
            outbox.submit(capture)
        report = close_outbox(outbox, "finished", scores, 60, progress=False)
        assert all(delivery.complete for delivery in report.deliveries)
        refs.append({ref.scheme: ref for ref in outbox.refs})
    return uri, wandb_server, *refs


EXPECTED = {
    "specialisation/induction_max": 1.0,
    "specialisation/induction_onset_step": ONSET,
    "specialisation/induction_heads": 1,
    "specialisation/heads_specialised": 1,
}


def test_both_trackers_say_what_heads_became_and_when(runs):
    """One test for all that is looked at, because making two runs in two trackers takes seconds."""
    uri, server, with_induction, without = runs
    client = MlflowClient(uri)
    check_tables_of_runs(client, server, with_induction, without)
    check_charts_and_table_of_heads(client, server, with_induction)


def check_tables_of_runs(client, server, with_induction, without):
    """By these names both sort a sweep; a run in which nothing happened is among them, without an
    onset."""
    for refs, expected in (
        (with_induction, EXPECTED),
        (without, {"specialisation/heads_specialised": 0, "specialisation/induction_heads": 0}),
    ):
        in_mlflow = client.get_run(refs["mlflow"].path).data.metrics
        in_wandb = server.run(refs["wandb"].path).summary
        for name, value in expected.items():
            assert in_mlflow[name] == pytest.approx(value)
            assert in_wandb[name] == pytest.approx(value)
    for stored in (
        client.get_run(without["mlflow"].path).data.metrics,
        server.run(without["wandb"].path).summary,
    ):
        assert not any(name.endswith("onset_step") for name in stored)
        assert stored["specialisation/induction_max"] < 0.1
    experiment = client.get_run(without["mlflow"].path).info.experiment_id
    for name in ("induction_max", "heads_specialised"):
        found = client.search_runs([experiment], order_by=[f"metrics.`specialisation/{name}` DESC"])
        assert [run.info.run_id for run in found] == [
            with_induction["mlflow"].path,
            without["mlflow"].path,
        ]
    for refs, roles in ((with_induction, "induction"), (without, "none")):
        assert client.get_run(refs["mlflow"].path).data.tags["specialisation/roles"] == roles
        assert server.run(refs["wandb"].path).summary["specialisation/roles"] == roles
    found = client.search_runs([experiment], "tags.`specialisation/roles` LIKE '%induction%'")
    assert [run.info.run_id for run in found] == [with_induction["mlflow"].path]
    early = client.search_runs(
        [experiment], f"metrics.`specialisation/induction_onset_step` <= {ONSET}"
    )
    assert [run.info.run_id for run in early] == [with_induction["mlflow"].path]


def check_charts_and_table_of_heads(client, server, refs):
    for name in ("attn/induction_max", "attn/induction/block_00"):
        history = {
            point.step: point.value
            for point in client.get_metric_history(refs["mlflow"].path, name)
        }
        assert sorted(history) == list(STEPS)
        rows = {
            row["tracker_viz/step"]: row[name]
            for row in server.run(refs["wandb"].path).history
            if name in row
        }
        assert rows == pytest.approx(history)
        assert [history[step] > 0.9 for step in STEPS] == [step >= ONSET for step in STEPS]
    table = json.loads(
        Path(
            client.download_artifacts(refs["mlflow"].path, f"tables/{HEAD_TABLE}.json")
        ).read_text()
    )
    heads = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [(head["head"], head["role"], head["onset_step"]) for head in heads] == [
        ("L00H00", None, None),
        ("L00H01", "induction", ONSET),
    ]
    assert f"tracker_viz/tables/{HEAD_TABLE}" in server.run(refs["wandb"].path).summary
