"""The GraphQL operations that the client is known to send, by name. Any other is refused."""

from __future__ import annotations

import base64
import json
import mimetypes
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote

from wandb_server.state import Artifact, Run, State

Variables = Mapping[str, Any]
FEATURES = ("CLIENT_IDS", "MARK_RUN_FILES_UPLOADED", "TOTAL_COUNT_IN_FILE_CONNECTION", "ARTIFACT_COLLECTION_MEMBERSHIP_FILES")


class GraphQL:
    """``answer`` gives the ``data`` of one operation."""

    def __init__(self, state: State, entity: str, base_url: Callable[[], str]) -> None:
        self.state, self.entity, self.base_url = state, entity, base_url

    def answer(self, operation: str, variables: Variables) -> Any:
        """Raises LookupError for an operation that this stand-in does not know."""
        method = getattr(self, f"on_{operation}", None)
        if method is None:
            raise LookupError(f"the stand-in does not know the operation {operation!r}")
        with self.state.lock:
            return method(variables)

    # -- who and what ---------------------------------------------------------------------------------------

    def on_Viewer(self, _: Variables) -> Any:
        teams = {"edges": [{"node": {"name": self.entity}}]}
        viewer = {"id": "user-1", "entity": self.entity, "username": self.entity, "email": "", "flags": "{}", "teams": teams}
        return {"viewer": viewer}

    on_GetDefaultEntity = on_Viewer

    def on_ServerFeaturesQuery(self, _: Variables) -> Any:
        return {"serverInfo": {"features": [{"name": name, "isEnabled": True} for name in FEATURES]}}

    def on_OrganizationCoreWeaveOrganizationID(self, _: Variables) -> Any:
        return {"entity": {"organization": None}}

    # -- runs -----------------------------------------------------------------------------------------------

    def on_UpsertBucket(self, variables: Variables) -> Any:
        """Training's client names the run; the public API, which changes a run from outside, gives its id."""
        if run_id := variables.get("id"):
            run = next(run for run in self.state.runs.values() if self._run_id(run) == run_id)
            inserted = False
        else:
            path = f"{variables.get('entity') or self.entity}/{variables.get('project') or 'uncategorized'}/{variables['name']}"
            inserted = path not in self.state.runs
            run = self.state.runs.setdefault(path, Run(*path.split("/")))
            run.heartbeat_at, run.last_state = time.time(), "running"
        if variables.get("config"):
            run.config = json.loads(variables["config"])
        if variables.get("summaryMetrics"):
            run.summary = json.loads(variables["summaryMetrics"])
        run.display_name = variables.get("displayName") or run.display_name or run.name
        plain = ("groupName", "jobType", "tags", "notes", "description", "host", "program", "repo", "commit", "sweep")
        run.attributes |= {key: variables[key] for key in plain if variables.get(key) is not None}
        project = {"id": "project-1", "name": run.project, "entity": {"id": "entity-1", "name": run.entity}}
        bucket = {
            "id": self._run_id(run),
            "name": run.name,
            "displayName": run.display_name,
            "description": None,
            "config": json.dumps(run.config),
            "sweepName": None,
            "project": project,
            "historyLineCount": len(run.history),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def on_RunResumeStatus(self, variables: Variables) -> Any:
        entity, project = variables.get("entity") or self.entity, variables.get("project") or "uncategorized"
        run = self.state.runs.get(f"{entity}/{project}/{variables['name']}")
        model = {"id": "project-1", "name": project, "entity": {"id": "entity-1", "name": entity}, "bucket": None}
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
                "wandbConfig": json.dumps({"t": ((run.config.get("_wandb") or {}).get("value") or {}).get("t", {})}),
            }
        return {"model": model}

    def on_Run(self, variables: Variables) -> Any:
        run = self._run(variables, "name")
        return {"project": {"run": self._run_fields(run) if run else None}}

    def on_Runs(self, variables: Variables) -> Any:
        wanted = _flatten(json.loads(variables.get("filters") or "{}"))
        runs = [
            run
            for run in self.state.runs.values()
            if (run.entity, run.project) == (variables["entity"], variables["project"])
            and all(_attribute(run, key) == value for key, value in wanted.items())
        ]
        page, page_info = _page(runs, variables.get("cursor"), variables.get("perPage"))
        edges = [{"node": self._run_fields(run), "cursor": str(index)} for index, run in page]
        found = {"edges": edges, "pageInfo": page_info}
        return {"project": {"internalId": "1", "runCount": len(runs), "readOnly": False, "runs": found}}

    def on_RunState(self, variables: Variables) -> Any:
        run = self._run(variables, "name" if "name" in variables else "run")
        return {"project": {"run": {"id": self._run_id(run), "state": run.state}}}

    def on_CreateRunFiles(self, variables: Variables) -> Any:
        run = self._run(variables, "run")
        files = [{"name": name, "uploadUrl": self._url("run-file", run.path, name)} for name in variables["files"]]
        return {"createRunFiles": {"runID": self._run_id(run), "uploadHeaders": [], "files": files}}

    def on_MarkRunFilesUploaded(self, variables: Variables) -> Any:
        missing = set(variables["files"]) - set(self._run(variables, "run").files)
        return {"markRunFilesUploaded": {"success": not missing}}

    def on_RunFiles(self, variables: Variables) -> Any:
        run = self._run(variables, "name")
        names = [name for name in sorted(run.files) if not variables.get("fileNames") or name in variables["fileNames"]]
        page, page_info = _page(names, variables.get("fileCursor"), variables.get("fileLimit"))
        edges = []
        for index, name in page:
            url = self._url("run-file", run.path, name)
            node = {"id": name, "name": name, "url": url, "directUrl": url, "sizeBytes": str(len(run.files[name]))}
            node |= {"mimetype": mimetypes.guess_type(name)[0], "updatedAt": None, "md5": None}
            edges.append({"node": node, "cursor": str(index)})
        files = {"edges": edges, "pageInfo": page_info}
        return {"project": {"internalId": "1", "run": {"fileCount": len(names), "files": files}}}

    def on_RunHistoryKeys(self, variables: Variables) -> Any:
        return {"project": {"run": {"historyKeys": self._history_keys(self._run(variables, "name"))}}}

    def on_RunParquetHistory(self, variables: Variables) -> Any:
        run = self._run(variables, "runName")
        return {"project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": run.history}}}}

    def on_HistoryPage(self, variables: Variables) -> Any:
        rows = [row for row in self._run(variables, "run").history if variables["minStep"] <= row["_step"] < variables["maxStep"]]
        return {"project": {"run": {"history": [json.dumps(row) for row in rows[: variables["pageSize"]]]}}}

    def on_SampledHistoryPage(self, variables: Variables) -> Any:
        """Rows that have all of the keys. The client asks for as many samples as there are steps, so that none is left out."""
        spec = json.loads(variables["spec"])
        if spec.keys() - {"keys", "minStep", "maxStep", "samples"} or spec["samples"] <= spec["maxStep"] - spec["minStep"]:
            raise LookupError(f"the stand-in does not know how to sample {spec}")
        rows = [row for row in self._run(variables, "run").history if spec["minStep"] <= row["_step"] <= spec["maxStep"]]
        found = [{key: row[key] for key in spec["keys"]} for row in rows if all(key in row for key in spec["keys"])]
        return {"project": {"run": {"sampledHistory": [found]}}}

    # -- artifacts: writing -----------------------------------------------------------------------------------

    def on_ArtifactType(self, variables: Variables) -> Any:
        versions = self.state.collection(variables["entity"], variables["project"], variables["name"].split(":")[0])
        return {"project": {"artifact": {"artifactType": {"name": versions[0].type}} if versions else None}}

    def on_CreateArtifact(self, variables: Variables) -> Any:
        """The same digest in the same collection is the same version."""
        asked = variables["input"]
        entity, project, collection = asked["entityName"], asked["projectName"], asked["artifactCollectionName"]
        versions = self.state.collection(entity, project, collection)
        artifact = next((version for version in versions if version.digest == asked["digest"]), None)
        if artifact is None:
            artifact = Artifact(
                id=self.state.new_id("artifact"),
                entity=entity,
                project=project,
                collection=collection,
                type=asked["artifactTypeName"],
                digest=asked["digest"],
                run=f"{entity}/{project}/{asked['runName']}",
                metadata=asked.get("metadata"),
                aliases=[alias["alias"] for alias in asked.get("aliases") or []],
            )
            self.state.artifacts[artifact.id] = artifact
        latest = {"id": versions[-1].id} if versions else None
        created = {"id": artifact.id, "state": artifact.state, "artifactSequence": {"latestArtifact": latest}}
        return {"createArtifact": {"artifact": created}}

    def on_CreateArtifactManifest(self, variables: Variables) -> Any:
        artifact = self.state.artifacts[variables["artifactID"]]
        artifact.manifest_id = artifact.manifest_id or self.state.new_id("manifest")
        file: dict[str, Any] = {"id": f"{artifact.manifest_id}-file"}
        if variables["includeUpload"]:
            file |= {"uploadUrl": self._url("manifest", artifact.id), "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": artifact.manifest_id, "file": file}}}

    def on_CreateArtifactFiles(self, variables: Variables) -> Any:
        edges = []
        for spec in variables["input"]["artifactFiles"]:
            artifact_id, digest = spec["artifactID"], spec["md5"]
            path = f"{artifact_id}/{base64.b64decode(digest).hex()}"
            known = digest in self.state.artifacts[artifact_id].contents
            node = {"storagePath": path, "uploadUrl": None if known else self._url("artifact-file", artifact_id, digest)}
            node |= {"uploadHeaders": [], "uploadMultipartUrls": None, "artifact": {"id": artifact_id}}
            edges.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def on_CommitArtifact(self, variables: Variables) -> Any:
        artifact = self.state.artifacts[variables["artifactID"]]
        self.state.commit(artifact)
        return {"commitArtifact": {"artifact": {"id": artifact.id, "digest": artifact.digest}}}

    def on_UseArtifact(self, variables: Variables) -> Any:
        """``wandb-core`` gives one ``input``, the public API (``record_artifact_use``) a variable for each of its fields."""
        asked = variables.get("input") or variables
        artifact = self.state.artifacts[asked["artifactID"]]
        if artifact.state != "COMMITTED":
            raise ValueError(f"an artifact that is {artifact.state} is used")
        used_in = self.state.runs[f"{asked['entityName']}/{asked['projectName']}/{asked['runName']}"]
        if artifact.id not in used_in.input_artifacts:
            used_in.input_artifacts.append(artifact.id)
        plain = ("id", "digest", "description", "state", "createdAt", "metadata")
        return {"useArtifact": {"artifact": {key: self._artifact_fields(artifact)[key] for key in plain}}}

    # -- artifacts: reading -----------------------------------------------------------------------------------

    def on_ArtifactByID(self, variables: Variables) -> Any:
        artifact = self.state.artifacts.get(variables["id"])
        return {"artifact": self._artifact_fields(artifact) if artifact else None}

    def on_RunOutputArtifacts(self, variables: Variables) -> Any:
        return self._run_artifacts(self._run(variables, "run").output_artifacts, variables)

    def on_RunInputArtifacts(self, variables: Variables) -> Any:
        return self._run_artifacts(self._run(variables, "run").input_artifacts, variables)

    def _run_artifacts(self, artifact_ids: list[str], variables: Variables) -> Any:
        artifacts = [self.state.artifacts[artifact_id] for artifact_id in artifact_ids]
        page, page_info = _page(artifacts, variables.get("cursor"), variables.get("perPage"))
        edges = [{"node": self._artifact_fields(artifact)} for _, artifact in page]
        return {"project": {"run": {"artifacts": {"totalCount": len(artifacts), "pageInfo": page_info, "edges": edges}}}}

    def on_ArtifactMembershipFiles(self, variables: Variables) -> Any:
        artifact = self._version(variables["entity"], variables["project"], variables["collection"], variables["alias"])
        wanted = variables.get("fileNames")
        paths = [path for path in sorted(artifact.entries) if not wanted or path in wanted]
        page, page_info = _page(paths, variables.get("cursor"), variables.get("perPage"))
        files = {
            "totalCount": len(paths),
            "pageInfo": page_info,
            "edges": [{"node": self._file_fields(artifact, path)} for _, path in page],
        }
        membership = {"artifactMembership": {"files": files}}
        return {"project": {"artifactCollection": {"__typename": "ArtifactSequence", **membership}}}

    # -- fields -------------------------------------------------------------------------------------------------

    def _run(self, variables: Variables, name_key: str) -> Run | None:
        return self.state.runs.get(f"{variables['entity']}/{variables['project']}/{variables[name_key]}")

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
            "sweepName": None,
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
        keys = {key: {"typeCounts": [{"type": "number", "count": count}], "monotonic": False} for key, count in counts.items()}
        return {"sets": [], "keys": keys, "lastStep": rows[-1]["_step"] if rows else -1}

    def _version(self, entity: str, project: str, collection: str, alias: str) -> Artifact:
        return next(
            artifact
            for artifact in self.state.collection(entity, project, collection)
            if alias == f"v{artifact.version}" or alias in artifact.aliases
        )

    def _artifact_fields(self, artifact: Artifact) -> dict[str, Any]:
        project = {"id": "project-1", "internalId": "1", "name": artifact.project, "entity": {"name": artifact.entity}}
        aliases = [
            {"__typename": "ArtifactAlias", "id": f"{artifact.id}-{alias}", "alias": alias}
            | {"artifactCollection": {"__typename": "ArtifactSequence", "name": artifact.collection, "project": project}}
            for alias in artifact.aliases
        ]
        return {
            "__typename": "Artifact",
            "id": artifact.id,
            "artifactSequence": {"__typename": "ArtifactSequence", "name": artifact.collection, "project": project},
            "versionIndex": artifact.version,
            "artifactType": {"name": artifact.type},
            "description": None,
            "metadata": artifact.metadata,
            "ttlDurationSeconds": -1,
            "ttlIsInherited": True,
            "tags": [],
            "historyStep": None,
            "state": artifact.state,
            "size": artifact.size,
            "digest": artifact.digest,
            "commitHash": f"hash-{artifact.id}",
            "fileCount": len(artifact.entries),
            "createdAt": "2026-01-01T00:00:00Z",
            "updatedAt": None,
            "aliases": aliases,
        }

    def _file_fields(self, artifact: Artifact, path: str) -> dict[str, Any]:
        entry = artifact.entries[path]
        url = self._url("artifact-file", artifact.id, entry["digest"])
        node = {"__typename": "File", "id": f"{artifact.id}/{path}", "name": path, "url": url, "directUrl": url, "sizeBytes": entry["size"]}
        return node | {"storagePath": path, "mimetype": None, "updatedAt": None, "digest": entry["digest"], "md5": entry["digest"]}

    def _url(self, *parts: str) -> str:
        return "/".join([self.base_url(), "storage", *(quote(part, safe="") for part in parts)])


def _page(items: Iterable[Any], cursor: str | None, limit: int | None) -> tuple[list[tuple[int, Any]], dict[str, Any]]:
    """One page after ``cursor``, each item with its own cursor, and the pageInfo."""
    numbered = list(enumerate(items, start=1))
    start = int(cursor or 0)
    page = numbered[start : start + (limit or 50)]
    end = page[-1][0] if page else start
    return page, {"__typename": "PageInfo", "endCursor": str(end), "hasNextPage": end < len(numbered)}


def _flatten(filters: Mapping[str, Any]) -> dict[str, Any]:
    """``{"$and": [{"group": "a"}]}`` -> ``{"group": "a"}``; other operators are not known here."""
    plain: dict[str, Any] = {}
    for key, value in filters.items():
        if key == "$and":
            for item in value:
                plain |= _flatten(item)
        elif key.startswith("$") or isinstance(value, dict):
            raise LookupError(f"the stand-in does not know the filter {key!r}: {value!r}")
        else:
            plain[key] = value
    return plain


def _attribute(run: Run, key: str) -> Any:
    known = {"group": "groupName", "groupName": "groupName", "jobType": "jobType", "job_type": "jobType"}
    if key not in known:
        raise LookupError(f"the stand-in does not know the filter key {key!r}")
    return run.attributes.get(known[key])
