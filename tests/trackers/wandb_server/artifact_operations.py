"""Artifacts: versions written, committed, used and read."""

from __future__ import annotations

import base64
import re
from typing import Any

from wandb_server.operations import Operations, Variables, one_page
from wandb_server.state import Artifact

LEGAL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")


class ArtifactOperations(Operations):
    # -- writing -----------------------------------------------------------------------------------

    def on_ArtifactType(self, variables: Variables) -> Any:
        versions = self.state.collection(
            variables["entity"], variables["project"], variables["name"].split(":")[0]
        )
        return {
            "project": {
                "artifact": {"artifactType": {"name": versions[0].type}} if versions else None
            }
        }

    def on_CreateArtifact(self, variables: Variables) -> Any:
        """The same digest in the same collection is the same version."""
        asked = variables["input"]
        if not LEGAL_NAME.fullmatch(asked["artifactCollectionName"]):
            raise LookupError(
                f"the service takes no artifact called {asked['artifactCollectionName']!r}"
            )
        entity, project, collection = (
            asked["entityName"],
            asked["projectName"],
            asked["artifactCollectionName"],
        )
        versions = self.state.collection(entity, project, collection)
        artifact = next(
            (version for version in versions if version.digest == asked["digest"]), None
        )
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
        created = {
            "id": artifact.id,
            "state": artifact.state,
            "artifactSequence": {"latestArtifact": latest},
        }
        return {"createArtifact": {"artifact": created}}

    def on_CreateArtifactManifest(self, variables: Variables) -> Any:
        artifact = self.state.artifacts[variables["artifactID"]]
        artifact.manifest_id = artifact.manifest_id or self.state.new_id("manifest")
        file: dict[str, Any] = {"id": f"{artifact.manifest_id}-file"}
        if variables["includeUpload"]:
            file |= {"uploadUrl": self._url("manifest", artifact.id), "uploadHeaders": []}
        return {
            "createArtifactManifest": {
                "artifactManifest": {"id": artifact.manifest_id, "file": file}
            }
        }

    def on_CreateArtifactFiles(self, variables: Variables) -> Any:
        edges = []
        for spec in variables["input"]["artifactFiles"]:
            artifact_id, digest = spec["artifactID"], spec["md5"]
            path = f"{artifact_id}/{base64.b64decode(digest).hex()}"
            known = digest in self.state.artifacts[artifact_id].contents
            node = {
                "storagePath": path,
                "uploadUrl": None if known else self._url("artifact-file", artifact_id, digest),
            }
            node |= {
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": artifact_id},
            }
            edges.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def on_CommitArtifact(self, variables: Variables) -> Any:
        artifact = self.state.artifacts[variables["artifactID"]]
        self.state.commit(artifact)
        return {"commitArtifact": {"artifact": {"id": artifact.id, "digest": artifact.digest}}}

    def on_DeleteArtifact(self, variables: Variables) -> Any:
        """The version stays among what its run put out, and its number is not given again."""
        asked = variables["input"]
        artifact = self.state.artifacts[asked["artifactID"]]
        if artifact.aliases and not asked["deleteAliases"]:
            raise ValueError(f"{artifact.collection} has the aliases {artifact.aliases}")
        artifact.state = "DELETED"
        return {"result": {"artifact": {"id": artifact.id}}}

    def on_UseArtifact(self, variables: Variables) -> Any:
        """``wandb-core`` gives one ``input``, the public API (``record_artifact_use``) a variable
        for each of its fields."""
        asked = variables.get("input") or variables
        artifact = self.state.artifacts[asked["artifactID"]]
        whose = (asked.get("artifactEntityName"), asked.get("artifactProjectName"))
        if artifact.state != "COMMITTED" or whose not in (
            (artifact.entity, artifact.project),
            (None, None),
        ):
            raise ValueError(
                f"{artifact.collection}, {artifact.state}, of "
                f"{artifact.entity}/{artifact.project}, is used as one of {whose}"
            )
        used_in = self.state.runs[
            f"{asked['entityName']}/{asked['projectName']}/{asked['runName']}"
        ]
        if artifact.id not in used_in.input_artifacts:
            used_in.input_artifacts.append(artifact.id)
        plain = ("id", "digest", "description", "state", "createdAt", "metadata")
        return {
            "useArtifact": {
                "artifact": {key: self._artifact_fields(artifact)[key] for key in plain}
            }
        }

    # -- reading -----------------------------------------------------------------------------------

    def on_ArtifactByID(self, variables: Variables) -> Any:
        artifact = self.state.artifacts.get(variables["id"])
        return {"artifact": self._artifact_fields(artifact) if artifact else None}

    def on_RunOutputArtifacts(self, variables: Variables) -> Any:
        return self._run_artifacts(self._run(variables, "run").output_artifacts, variables)

    def on_RunInputArtifacts(self, variables: Variables) -> Any:
        return self._run_artifacts(self._run(variables, "run").input_artifacts, variables)

    def _run_artifacts(self, artifact_ids: list[str], variables: Variables) -> Any:
        artifacts = [self.state.artifacts[artifact_id] for artifact_id in artifact_ids]
        page, page_info = one_page(artifacts, variables.get("cursor"), variables.get("perPage"))
        edges = [{"node": self._artifact_fields(artifact)} for _, artifact in page]
        return {
            "project": {
                "run": {
                    "artifacts": {
                        "totalCount": len(artifacts),
                        "pageInfo": page_info,
                        "edges": edges,
                    }
                }
            }
        }

    def on_ArtifactMembershipFiles(self, variables: Variables) -> Any:
        artifact = self._version(
            variables["entity"], variables["project"], variables["collection"], variables["alias"]
        )
        wanted = variables.get("fileNames")
        paths = [path for path in sorted(artifact.entries) if not wanted or path in wanted]
        page, page_info = one_page(paths, variables.get("cursor"), variables.get("perPage"))
        files = {
            "totalCount": len(paths),
            "pageInfo": page_info,
            "edges": [{"node": self._file_fields(artifact, path)} for _, path in page],
        }
        membership = {"artifactMembership": {"files": files}}
        return {"project": {"artifactCollection": {"__typename": "ArtifactSequence", **membership}}}

    def _version(self, entity: str, project: str, collection: str, alias: str) -> Artifact:
        return next(
            artifact
            for artifact in self.state.collection(entity, project, collection)
            if alias == f"v{artifact.version}" or alias in artifact.aliases
        )

    def _artifact_fields(self, artifact: Artifact) -> dict[str, Any]:
        project = {
            "id": "project-1",
            "internalId": "1",
            "name": artifact.project,
            "entity": {"name": artifact.entity},
        }
        aliases = [
            {"__typename": "ArtifactAlias", "id": f"{artifact.id}-{alias}", "alias": alias}
            | {
                "artifactCollection": {
                    "__typename": "ArtifactSequence",
                    "name": artifact.collection,
                    "project": project,
                }
            }
            for alias in artifact.aliases
        ]
        return {
            "__typename": "Artifact",
            "id": artifact.id,
            "artifactSequence": {
                "__typename": "ArtifactSequence",
                "name": artifact.collection,
                "project": project,
            },
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
        node = {
            "__typename": "File",
            "id": f"{artifact.id}/{path}",
            "name": path,
            "url": url,
            "directUrl": url,
            "sizeBytes": entry["size"],
        }
        return node | {
            "storagePath": path,
            "mimetype": None,
            "updatedAt": None,
            "digest": entry["digest"],
            "md5": entry["digest"],
        }
