"""Runs: made, resumed, changed, listed; their files and their history."""

from __future__ import annotations

import base64
import json
import mimetypes
import time
from collections.abc import Mapping
from typing import Any

from wandb_server.operations import Operations, Variables, one_page
from wandb_server.state import Run


class RunOperations(Operations):
    def on_NotifyScriptableRunAlert(self, variables: Variables) -> Any:
        """The service passes an alert on, and says that it did; within ``waitDuration`` (in
        nanoseconds) the same title is passed on once."""
        names = [variables[name] for name in ("entityName", "projectName", "runName")]
        run = self.state.runs["/".join(names)]
        assert len(variables["title"]) <= 64
        assert variables["waitDuration"] > 0
        run.alerts.append((variables["severity"], variables["title"], variables["text"]))
        return {"notifyScriptableRunAlert": {"success": True}}

    def on_UpsertBucket(self, variables: Variables) -> Any:
        """Training's client names the run; the public API, which changes a run from outside, gives
        its id."""
        names = [variables.get(name) for name in ("entity", "project", "name")]
        if run_id := variables.get("id"):
            run = next(run for run in self.state.runs.values() if self._run_id(run) == run_id)
            inserted = False
        else:
            path = f"{names[0] or self.entity}/{names[1] or 'uncategorized'}/{names[2]}"
            inserted = path not in self.state.runs
            run = self.state.runs.setdefault(path, Run(*path.split("/")))
            run.heartbeat_at, run.last_state = time.time(), "running"
        if variables.get("config"):
            config = json.loads(variables["config"])
            # Assumed: of several writers each knows its own part, and what it does not name stays.
            run.config = run.config | config if run.places else config
        if variables.get("summaryMetrics"):
            run.summary = json.loads(variables["summaryMetrics"])
        # The client calls it displayName, its public API display_name.
        run.display_name = (
            variables.get("displayName")
            or variables.get("display_name")
            or run.display_name
            or run.name
        )
        plain = (
            "groupName",
            "jobType",
            "tags",
            "notes",
            "description",
            "host",
            "program",
            "repo",
            "commit",
            "sweep",
        )
        run.attributes |= {key: variables[key] for key in plain if variables.get(key) is not None}
        project = {
            "id": "project-1",
            "name": run.project,
            "entity": {"id": "entity-1", "name": run.entity},
        }
        bucket = {
            "id": self._run_id(run),
            "name": run.name,
            "displayName": run.display_name,
            "description": None,
            "config": json.dumps(run.config),
            "sweepName": run.attributes.get("sweep"),
            "project": project,
            "historyLineCount": len(run.history),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def on_RunResumeStatus(self, variables: Variables) -> Any:
        entity, project = (
            variables.get("entity") or self.entity,
            variables.get("project") or "uncategorized",
        )
        run = self.state.runs.get(f"{entity}/{project}/{variables['name']}")
        model = {
            "id": "project-1",
            "name": project,
            "entity": {"id": "entity-1", "name": entity},
            "bucket": None,
        }
        if run:
            tail = [line for _, line in sorted(run.lines["wandb-history.jsonl"].items())][-1:]
            events = [line for _, line in sorted(run.lines["wandb-events.jsonl"].items())][-1:]
            model["bucket"] = {
                "id": self._run_id(run),
                "name": run.name,
                "summaryMetrics": json.dumps(run.summary),
                "displayName": run.display_name,
                "logLineCount": len(run.lines["output.log"]),
                "historyLineCount": len(run.lines["wandb-history.jsonl"]),
                "eventsLineCount": len(run.lines["wandb-events.jsonl"]),
                "historyTail": json.dumps(tail),
                "eventsTail": json.dumps(events),
                "config": json.dumps(run.config),
                "tags": run.attributes.get("tags") or [],
                "notes": run.attributes.get("notes"),
                "wandbConfig": json.dumps(
                    {"t": ((run.config.get("_wandb") or {}).get("value") or {}).get("t", {})}
                ),
            }
        return {"model": model}

    def on_Run(self, variables: Variables) -> Any:
        run = self._run(variables, "name")
        return {"project": {"run": self._run_fields(run) if run else None}}

    def on_Runs(self, variables: Variables) -> Any:
        wanted = _flatten(json.loads(variables.get("filters") or "{}"))
        if variables.get("order") not in (None, "+created_at"):
            raise LookupError(f"the stand-in does not know the order {variables['order']!r}")
        runs = [
            run
            for run in self.state.runs.values()
            if (run.entity, run.project) == (variables["entity"], variables["project"])
            and all(_fits(run, key, value) for key, value in wanted.items())
        ]
        page, page_info = one_page(runs, variables.get("cursor"), variables.get("perPage"))
        edges = [{"node": self._run_fields(run), "cursor": str(index)} for index, run in page]
        found = {"edges": edges, "pageInfo": page_info}
        return {
            "project": {"internalId": "1", "runCount": len(runs), "readOnly": False, "runs": found}
        }

    def on_RunState(self, variables: Variables) -> Any:
        run = self._run(variables, "name" if "name" in variables else "run")
        return {"project": {"run": {"id": self._run_id(run), "state": run.state}}}

    def on_CreateRunFiles(self, variables: Variables) -> Any:
        run = self._run(variables, "run")
        files = [
            {"name": name, "uploadUrl": self._url("run-file", run.path, name)}
            for name in variables["files"]
        ]
        return {"createRunFiles": {"runID": self._run_id(run), "uploadHeaders": [], "files": files}}

    def on_MarkRunFilesUploaded(self, variables: Variables) -> Any:
        missing = set(variables["files"]) - set(self._run(variables, "run").files)
        return {"markRunFilesUploaded": {"success": not missing}}

    def on_RunFiles(self, variables: Variables) -> Any:
        run = self._run(variables, "name")
        wanted = variables.get("fileNames")
        if variables.get("pattern") or variables.get("upload"):
            raise LookupError(
                "the stand-in does not know patterns of names, nor addresses for uploads"
            )
        names = [name for name in sorted(run.files) if not wanted or name in wanted]
        page, page_info = one_page(names, variables.get("fileCursor"), variables.get("fileLimit"))
        edges = []
        for index, name in page:
            url = self._url("run-file", run.path, name)
            node = {
                "id": name,
                "name": name,
                "url": url,
                "directUrl": url,
                "sizeBytes": str(len(run.files[name])),
            }
            node |= {"mimetype": mimetypes.guess_type(name)[0], "updatedAt": None, "md5": None}
            edges.append({"node": node, "cursor": str(index)})
        files = {"edges": edges, "pageInfo": page_info}
        return {"project": {"internalId": "1", "run": {"fileCount": len(names), "files": files}}}

    def on_RunHistoryKeys(self, variables: Variables) -> Any:
        return {
            "project": {"run": {"historyKeys": self._history_keys(self._run(variables, "name"))}}
        }

    def on_RunParquetHistory(self, variables: Variables) -> Any:
        run = self._run(variables, "runName")
        return {
            "project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": run.history}}}
        }

    def on_HistoryPage(self, variables: Variables) -> Any:
        rows = [
            row
            for row in self._run(variables, "run").history
            if variables["minStep"] <= row["_step"] < variables["maxStep"]
        ]
        return {
            "project": {
                "run": {"history": [json.dumps(row) for row in rows[: variables["pageSize"]]]}
            }
        }

    def on_SampledHistoryPage(self, variables: Variables) -> Any:
        """Rows that have all of the keys. The client asks for as many samples as there are steps,
        so that none is left out."""
        spec = json.loads(variables["spec"])
        if (
            spec.keys() - {"keys", "minStep", "maxStep", "samples"}
            or spec["samples"] <= spec["maxStep"] - spec["minStep"]
        ):
            raise LookupError(f"the stand-in does not know how to sample {spec}")
        rows = [
            row
            for row in self._run(variables, "run").history
            if spec["minStep"] <= row["_step"] <= spec["maxStep"]
        ]
        if self.server.pages_behind:
            self.server.pages_behind -= 1
            rows = []
        found = [
            {key: row[key] for key in spec["keys"]}
            for row in rows
            if all(key in row for key in spec["keys"])
        ]
        return {"project": {"run": {"sampledHistory": [found]}}}

    def _run_id(self, run: Run) -> str:
        return base64.b64encode(f"Run:v1:{run.path}".encode()).decode()

    def _run_fields(self, run: Run) -> dict[str, Any]:
        stamp = lambda seconds: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))  # noqa: E731
        return {
            "projectId": "1",
            "id": self._run_id(run),
            "tags": run.attributes.get("tags") or [],
            "name": run.name,
            "displayName": run.display_name,
            "sweepName": run.attributes.get("sweep"),
            "state": run.state,
            "config": json.dumps(run.config),
            "group": run.attributes.get("groupName"),
            "jobType": run.attributes.get("jobType"),
            "commit": run.attributes.get("commit"),
            "readOnly": False,
            "createdAt": stamp(run.created_at),
            "heartbeatAt": stamp(run.heartbeat_at),
            "description": None,
            "notes": run.attributes.get("notes"),
            "systemMetrics": "{}",
            "summaryMetrics": json.dumps(run.summary),
            "historyLineCount": len(run.history),
            "user": {"name": self.entity, "username": self.entity},
            "historyKeys": self._history_keys(run),
        }

    def _history_keys(self, run: Run) -> dict[str, Any]:
        rows = run.history
        counts: dict[str, int] = {}
        for row in rows:
            for key in row:
                counts[key] = counts.get(key, 0) + 1
        keys = {
            key: {"typeCounts": [{"type": "number", "count": count}], "monotonic": False}
            for key, count in counts.items()
        }
        # In shared mode each writer counts its own rows, and the last row need not be the furthest.
        last = max((row["_step"] for row in rows), default=-1)
        return {"sets": [], "keys": keys, "lastStep": last}


def _flatten(filters: Mapping[str, Any]) -> dict[str, Any]:
    """``{"$and": [{"group": "a"}]}`` -> ``{"group": "a"}``; other operators are not known here."""
    plain: dict[str, Any] = {}
    for key, value in filters.items():
        if key == "$and":
            for item in value:
                plain |= _flatten(item)
        elif key.startswith("$") or (isinstance(value, dict) and value.keys() != {"$in"}):
            raise LookupError(f"the stand-in does not know the filter {key!r}: {value!r}")
        else:
            plain[key] = value
    return plain


def _fits(run: Run, key: str, wanted: Any) -> bool:
    """As in MongoDB: a list fits what is in it, and ``$in`` any of its values."""
    known = {
        "group": "groupName",
        "groupName": "groupName",
        "jobType": "jobType",
        "job_type": "jobType",
        "sweep": "sweep",
        "tags": "tags",
    }
    if key not in known:
        raise LookupError(f"the stand-in does not know the filter key {key!r}")
    value = run.attributes.get(known[key])
    values = value if isinstance(value, list) else [value]
    choices = wanted["$in"] if isinstance(wanted, dict) else [wanted]
    return any(choice in values for choice in choices)
