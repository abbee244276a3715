"""Where MLflow and W&B show what was verified: by their real clients, against a real store and the
stand-in for W&B's service."""

from __future__ import annotations

import json

import induction_model
import pytest
import torch
from mlflow import MlflowClient
from wandb_server import WandbServer
from wandb_server.fixtures import wandb_server, wandb_service  # noqa: F401

import tracker_viz as tv

QUICK = {"n_rows": 6, "draws": 4, "progress": False}


def record(run, directory, **options):
    """A finished run of the model that was built, and its checkpoint."""
    model = induction_model.build()
    spool = directory / "spool"
    with tv.watch(model, run=run, every=1, spool=spool, **options) as watcher:
        for step in range(6):
            watcher.step(step)
    checkpoint = directory / "ckpt_6.pt"
    torch.save(model.state_dict(), checkpoint)
    return watcher.ref, str(checkpoint)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRACKER_VIZ_CACHE", str(tmp_path / "cache"))


def test_wandb_shows_the_table_and_sorts_by_what_was_lost(
    wandb_server: WandbServer,  # noqa: F811
    tmp_path,
):
    ref, checkpoint = record("wandb", tmp_path)
    before = wandb_server.run(ref.path).state
    result = tv.verify(ref, checkpoints=checkpoint, model=induction_model.build(), **QUICK)
    run = wandb_server.run(ref.path)
    assert run.state == before == "finished"

    induction = next(row for row in result.rows if row["what"] == "induction")
    assert run.summary["verify/induction_loss_rise"] == pytest.approx(
        induction["later_copies_change"]
    )
    for table, n_rows in (("verified_heads", len(result.rows)), ("head_roles", 8)):
        shown = run.summary[f"tracker_viz/tables/{table}"]
        assert (shown["_type"], shown["nrows"]) == ("table-file", n_rows)
    assert {"verify.json", "verify.csv", "head_roles.csv"} <= run.files.keys()
    stored = json.loads(run.files["verify.json"])
    assert [row["what"] for row in stored["table"]] == [row["what"] for row in result.rows]
    assert b",holds," in run.files["head_roles.csv"]


def test_mlflow_shows_the_table_and_says_in_its_note_what_held(tmp_path, mlflow_store):
    options = {"mlflow": {"tracking_uri": mlflow_store}}
    ref, checkpoint = record("mlflow", tmp_path, tracker_options=options)
    client = MlflowClient(options["mlflow"]["tracking_uri"])
    ended = client.get_run(ref.path).info.end_time
    result = tv.verify(
        ref,
        checkpoints=checkpoint,
        model=induction_model.build(),
        tracker_options=options,
        **QUICK,
    )
    run = client.get_run(ref.path)
    assert (run.info.status, run.info.end_time) == ("FINISHED", ended)
    assert run.data.metrics["verify/previous_token_loss_rise"] > 1
    assert {"verify.json", "verify.csv"} <= {file.path for file in client.list_artifacts(ref.path)}
    tables = {file.path for file in client.list_artifacts(ref.path, "tables")}
    assert {"tables/verified_heads.json", "tables/head_roles.json"} <= tables
    note = run.data.tags["mlflow.note.content"]
    (said,) = result.sentences.values()
    for sentence in said:
        assert sentence in note
    assert "every head's scores" in note
