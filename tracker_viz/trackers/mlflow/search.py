"""Find the runs of a sweep in every experiment of an MLflow server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import mlflow

EXPERIMENTS_A_PAGE = 200
RUNS_A_PAGE = 1000


def child_runs(client: mlflow.MlflowClient, run_id: str, tags: Sequence[str]) -> list[str]:
    """Return the ids of the runs of which one of ``tags`` names ``run_id``, the oldest first."""
    started: dict[str, int] = {}
    for experiment_ids in _experiments(client):
        for tag in tags:
            started |= _tagged(client, experiment_ids, f"tags.`{tag}` = '{run_id}'")
    return sorted(started, key=lambda child: started[child])


def _experiments(client: mlflow.MlflowClient) -> Iterator[list[str]]:
    """Yield the ids of all experiments in pages: jobs may record into any of them."""
    token = None
    while True:
        page = client.search_experiments(max_results=EXPERIMENTS_A_PAGE, page_token=token)
        yield [experiment.experiment_id for experiment in page]
        token = page.token
        if not token:
            return


def _tagged(
    client: mlflow.MlflowClient, experiment_ids: list[str], condition: str
) -> dict[str, int]:
    """Return run id -> start time, of the runs that meet a search condition."""
    found: dict[str, int] = {}
    token = None
    while True:
        page = client.search_runs(
            experiment_ids, condition, max_results=RUNS_A_PAGE, page_token=token
        )
        found |= {run.info.run_id: run.info.start_time for run in page}
        token = page.token
        if not token:
            return found
