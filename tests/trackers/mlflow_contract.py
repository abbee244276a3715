"""The contract suite for MLflow's stores; a subclass names the service, and reads its files from
behind."""

from __future__ import annotations

import json

from mlflow import MlflowClient

from tracker_viz.trackers.testing import TrackerContract
from tracker_viz.types import RunRef


class MlflowContract(TrackerContract):
    client: MlflowClient

    def files(self, ref, folder):
        """Name -> bytes of the files in one folder of a run, past the adapter."""
        raise NotImplementedError

    def overwrite(self, ref, artifact, contents):
        """Put other bytes in the place of a file of a run, past the adapter."""
        raise NotImplementedError

    def stored_metrics(self, ref):
        run = self.client.get_run(ref.path)
        return {
            name: {
                point.step: point.value for point in self.client.get_metric_history(ref.path, name)
            }
            for name in run.data.metrics
        }

    def stored_summary(self, ref):
        run = self.client.get_run(ref.path)
        return run.data.tags | run.data.metrics

    def truncate(self, ref, capture):
        whole = self.files(ref, "captures")[capture.file_name]
        self.overwrite(ref, f"captures/{capture.file_name}", whole[: capture.nbytes // 2])

    def missing_ref(self):
        return RunRef("mlflow", "0" * 32)

    def check_video(self, ref, video):
        assert self.files(ref, "")["heads.webm"] == video.read_bytes()
        assert self.files(ref, "videos/heads")["step_00000100.webm"] == video.read_bytes()

    def stored_table(self, ref, name):
        tagged = json.loads(self.client.get_run(ref.path).data.tags["mlflow.loggedArtifacts"])
        assert tagged == [{"path": f"tables/{name}.json", "type": "table"}]
        table = json.loads(self.files(ref, "tables")[f"{name}.json"])
        return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]

    def stored_key_frames(self, ref, layout, steps):
        stored = {}
        for name, contents in sorted(self.files(ref, "images").items()):
            if name.startswith(f"{layout}+step+") and name.endswith(".png"):
                stored.setdefault(int(name.split("+")[2]), []).append(contents)
        assert self.client.get_run(ref.path).data.tags["mlflow.loggedImages"] == "True"
        return stored

    def stored_inputs(self, ref):
        data = self.client.get_run(ref.path).data
        inputs = json.loads(data.tags["mlflow.tracker_viz.inputs"])
        assert json.loads(self.files(ref, "compare")["inputs.json"]) == inputs
        for each in map(RunRef.parse, inputs):
            shown = f"](#/runs/{each.path})" if each.scheme == "mlflow" else f"`{each}`"
            assert shown in data.tags["mlflow.note.content"]
        return inputs


class FilesInADirectory(MlflowContract):
    """``artifacts(ref)`` is where the run's files lie."""

    def artifacts(self, ref):
        raise NotImplementedError

    def files(self, ref, folder):
        found = self.artifacts(ref) / folder
        return {path.name: path.read_bytes() for path in found.iterdir() if path.is_file()}

    def overwrite(self, ref, artifact, contents):
        (self.artifacts(ref) / artifact).write_bytes(contents)
