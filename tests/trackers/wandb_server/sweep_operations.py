"""Sweeps of W&B's own agent: a list of settings that agents ask for, one run after the other."""

from __future__ import annotations

import json
import time
from typing import Any

from wandb_server.operations import Operations, Variables


class SweepOperations(Operations):
    def on_SweepWithRuns(self, variables: Variables) -> Any:
        sweep = self._sweep(variables["entity"], variables["project"], variables["sweep"])
        json.loads(variables["specs"])
        runs = {"runs": {"edges": []}}
        return {"project": {"sweep": self._fields(sweep) | runs if sweep else None}}

    def on_GetSweep(self, variables: Variables) -> Any:
        sweep = self._sweep(variables["entity"], variables["project"], variables["name"])
        return {"project": {"sweep": self._fields(sweep) if sweep else None}}

    on_GetSweepLegacy = on_GetSweep

    def on_CreateAgent(self, variables: Variables) -> Any:
        name = (variables["entityName"], variables["projectName"], variables["sweep"])
        if self._sweep(*name) is None:
            raise LookupError(f"there is no sweep {name}")
        agent = {"id": "/".join(name), "host": variables["host"]}
        return {"createAgent": {"agent": {"id": agent["id"]}}}

    def on_Heartbeat(self, variables: Variables) -> Any:
        """Give the next settings once the agent's last run has ended, and send the agent home
        after the last."""
        sweep = self.state.sweeps[variables["id"]]
        json.loads(variables["metrics"])
        commands = []
        if not json.loads(variables["runState"]):
            commands = [sweep.next_command()]
        return {
            "agentHeartbeat": {"agent": {"id": variables["id"]}, "commands": json.dumps(commands)}
        }

    def _sweep(self, entity: str | None, project: str, name: str) -> Any:
        return self.state.sweeps.get(f"{entity or self.entity}/{project}/{name}")

    def _fields(self, sweep: Any) -> dict[str, Any]:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return {
            "__typename": "Sweep",
            "id": f"id-of-{sweep.name}",
            "name": sweep.name,
            "displayName": sweep.name,
            "method": "grid",
            "state": "RUNNING" if sweep.waiting else "FINISHED",
            "description": None,
            "bestLoss": None,
            "config": json.dumps(sweep.config),
            "createdAt": now,
            "updatedAt": now,
            "heartbeatAt": now,
            "earlyStopJobRunning": False,
            "controller": None,
            "scheduler": None,
            "runCount": sweep.n_given,
            "runCountExpected": sweep.n_given + len(sweep.waiting),
        }
