"""The GraphQL operations that the client is known to send, by name. Any other is refused, and so is
a variable that nothing here reads.

Taken from the client's own source (``wandb/apis/public``, ``wandb/sdk/artifacts/_gqlutils.py``, the
documents in ``wandb-core``): names of operations and variables, which fields of an answer it reads,
that equal digests are one version (it asks whether a version is committed already), that a sampled
page is asked for with as many samples as it has steps, ``group`` and ``jobType`` among what runs
are filtered by.

Only assumed of the service: that a config and a summary which are sent whole replace the old ones;
that one use of an artifact is one however often it is noted, and moves nothing else of the run;
that rows and files show at once; that a run is crashed after five silent minutes; that ids of runs
may be chosen. ``test_wandb_live.py`` asks the real one.
"""

from __future__ import annotations

from typing import Any

from wandb_server.artifact_operations import ArtifactOperations
from wandb_server.operations import Variables
from wandb_server.run_operations import RunOperations
from wandb_server.sweep_operations import SweepOperations

FEATURES = (
    "CLIENT_IDS",
    "MARK_RUN_FILES_UPLOADED",
    "TOTAL_COUNT_IN_FILE_CONNECTION",
    "ARTIFACT_COLLECTION_MEMBERSHIP_FILES",
    "USE_ARTIFACT_WITH_ENTITY_AND_PROJECT_INFORMATION",
)
# What the client says besides, and nothing here depends on: the artifact's id tells the rest, runs
# stand in order of their making, ...
UNUSED = {
    "CreateArtifactManifest": {
        "baseArtifactID",
        "digest",
        "entityName",
        "manifestType",
        "name",
        "projectName",
        "runName",
    },
    "OrganizationCoreWeaveOrganizationID": {"entityName"},
    "RunParquetHistory": {"liveKeys"},
    "UseArtifact": {"usedAs"},
}


class GraphQL(RunOperations, ArtifactOperations, SweepOperations):
    """``answer`` gives the ``data`` of one operation."""

    def answer(self, operation: str, variables: Variables) -> Any:
        """Raises LookupError for an operation that this stand-in does not know."""
        method = getattr(self, f"on_{operation}", None)
        if method is None:
            raise LookupError(f"the stand-in does not know the operation {operation!r}")
        asked = Asked(variables)
        with self.state.lock:
            answer = method(asked)
        said = {name for name, value in variables.items() if value is not None and value != []}
        if unknown := said - asked.read - UNUSED.get(operation, set()):
            raise LookupError(f"the stand-in does not know {sorted(unknown)} of {operation!r}")
        return answer

    # -- who and what ------------------------------------------------------------------------------

    def on_Viewer(self, _: Variables) -> Any:
        teams = {"edges": [{"node": {"name": self.entity}}]}
        viewer = {
            "id": "user-1",
            "entity": self.entity,
            "username": self.entity,
            "email": "",
            "flags": "{}",
            "teams": teams,
        }
        return {"viewer": viewer}

    on_GetDefaultEntity = on_Viewer

    def on_ServerFeaturesQuery(self, _: Variables) -> Any:
        return {
            "serverInfo": {"features": [{"name": name, "isEnabled": True} for name in FEATURES]}
        }

    def on_OrganizationCoreWeaveOrganizationID(self, _: Variables) -> Any:
        return {"entity": {"organization": None}}


class Asked(dict[str, Any]):
    """Variables of an operation, and which of them were looked at."""

    def __init__(self, variables: Variables) -> None:
        super().__init__(variables)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)
