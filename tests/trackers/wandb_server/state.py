"""The data of the service: runs with their files and history, artifacts with their versions.
Survives an outage of the server."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

HEARTBEAT_S = 300.0


@dataclass
class Run:
    """One run as the service sees it. ``state`` is what a client is told."""

    entity: str
    project: str
    name: str
    created_at: float = field(default_factory=time.time)
    heartbeat_at: float = field(default_factory=time.time)
    display_name: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, Any] = field(
        default_factory=dict
    )  # groupName, jobType, tags, notes, host, program, ...
    alerts: list[tuple[str, str, str]] = field(default_factory=list)  # severity, title, text
    last_state: str = "running"
    exit_code: int | None = None
    lines: dict[str, dict[int, str]] = field(
        default_factory=lambda: defaultdict(dict)
    )  # stream -> line number -> line
    files: dict[str, bytes] = field(default_factory=dict)
    # (writer, stream, the writer's number of a line) -> number of the line, in shared mode
    places: dict[tuple[str, str, int], int] = field(default_factory=dict)
    output_artifacts: list[str] = field(default_factory=list)
    input_artifacts: list[str] = field(
        default_factory=list
    )  # each once, in order of their first use

    @property
    def path(self) -> str:
        return f"{self.entity}/{self.project}/{self.name}"

    @property
    def state(self) -> str:
        """A run whose process stopped to give signs of life has crashed; nobody has to say so."""
        silent = time.time() - self.heartbeat_at > HEARTBEAT_S
        return "crashed" if self.last_state == "running" and silent else self.last_state

    def crash(self) -> None:
        """As if its process had been silent for long enough."""
        self.heartbeat_at = 0.0

    @property
    def history(self) -> list[dict[str, Any]]:
        return [json.loads(line) for _, line in sorted(self.lines["wandb-history.jsonl"].items())]

    @property
    def logs(self) -> list[str]:
        return [line for _, line in sorted(self.lines["output.log"].items())]

    def values(self, key: str) -> list[Any]:
        """Return the values that were logged under ``key``, in order."""
        return [row[key] for row in self.history if key in row]


@dataclass
class Artifact:
    """One version of one collection."""

    id: str
    entity: str
    project: str
    collection: str
    type: str
    digest: str
    run: str
    metadata: str | None
    state: str = "PENDING"
    version: int = -1
    aliases: list[str] = field(default_factory=list)
    manifest: bytes = b""
    contents: dict[str, bytes] = field(default_factory=dict)  # md5 digest -> bytes
    manifest_id: str = ""

    @property
    def entries(self) -> dict[str, dict[str, Any]]:
        return json.loads(self.manifest)["contents"] if self.manifest else {}

    @property
    def files(self) -> dict[str, bytes]:
        """Path -> bytes, of those whose bytes have arrived."""
        return {
            path: self.contents[entry["digest"]]
            for path, entry in self.entries.items()
            if entry["digest"] in self.contents
        }

    @property
    def size(self) -> int:
        return sum(entry["size"] for entry in self.entries.values())


@dataclass
class Sweep:
    """A sweep that W&B's own agents run.

    Attributes:
        config: as ``wandb sweep`` takes it: the program, its command.
        waiting: settings that no agent has had yet.
    """

    name: str
    config: dict[str, Any]
    waiting: list[dict[str, Any]]
    n_given: int = 0

    def next_command(self) -> dict[str, Any]:
        if not self.waiting:
            return {"type": "exit"}
        self.n_given += 1
        settings = {name: {"value": value} for name, value in self.waiting.pop(0).items()}
        run_id = f"{self.name}-run{self.n_given}"
        return {
            "type": "run",
            "run_id": run_id,
            "program": self.config["program"],
            "args": settings,
        }


class State:
    """Everything; guarded by one lock, which is re-entrant."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.runs: dict[str, Run] = {}
        self.artifacts: dict[str, Artifact] = {}
        self.sweeps: dict[str, Sweep] = {}
        self._ids = itertools.count(1)

    def new_id(self, kind: str) -> str:
        return f"{kind}-{next(self._ids)}"

    def collection(self, entity: str, project: str, name: str) -> list[Artifact]:
        """Committed versions, oldest first."""
        versions = [
            artifact
            for artifact in self.artifacts.values()
            if (artifact.entity, artifact.project, artifact.collection) == (entity, project, name)
            and artifact.state == "COMMITTED"
        ]
        return sorted(versions, key=lambda artifact: artifact.version)

    def commit(self, artifact: Artifact) -> None:
        """The next version of its collection."""
        if artifact.state == "COMMITTED":
            return
        missing = set(artifact.entries) - set(artifact.files)
        if missing:
            raise ValueError(
                f"artifact {artifact.collection} is committed without the bytes of "
                f"{sorted(missing)}"
            )
        versions = self.collection(artifact.entity, artifact.project, artifact.collection)
        for older in versions:
            older.aliases = [
                alias for alias in older.aliases if alias not in {*artifact.aliases, "latest"}
            ]
        deleted = [
            other
            for other in self.artifacts.values()
            if other.state == "DELETED" and other.collection == artifact.collection
        ]
        artifact.version = len(versions) + len(deleted)
        artifact.state = "COMMITTED"
        artifact.aliases = (
            [*artifact.aliases, "latest"] if "latest" not in artifact.aliases else artifact.aliases
        )
        self.runs[artifact.run].output_artifacts.append(artifact.id)

    def file_stream(self, run: Run, posted: dict[str, Any], writer: str | None = None) -> None:
        """Lines go where their offset says, so that a repeated post changes nothing.

        Args:
            writer: id of one of several writers (shared mode): each counts its own lines from 0,
                and they come behind what is there. The client's headers say so; that values of the
                summary are merged then is assumed.
        """
        run.heartbeat_at = time.time()
        run.last_state = "running"
        for stream, chunk in (posted.get("files") or {}).items():
            if stream == "wandb-summary.json":
                summary = json.loads(chunk["content"][0])
                run.summary = run.summary | summary if writer else summary
                continue
            for index, line in enumerate(chunk["content"]):
                place = chunk["offset"] + index
                if writer:
                    behind = max(run.lines[stream], default=-1) + 1
                    place = run.places.setdefault((writer, stream, place), behind)
                run.lines[stream][place] = line
        if posted.get("complete"):
            run.exit_code = posted["exitcode"]
            run.last_state = {0: "finished", 255: "killed"}.get(run.exit_code, "failed")
