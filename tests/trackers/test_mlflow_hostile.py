"""A server that answers what harms: nobody gets in, nothing leaves, and nothing fills the disk."""

from __future__ import annotations

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tracker_viz.errors import CaptureFileError, TrackerError, TransientTrackerError
from tracker_viz.trackers.mlflow.artifacts import SHARED_VARIABLE
from tracker_viz.trackers.mlflow.tracker import MlflowTracker
from tracker_viz.types import CaptureRef, RunRef

RUN = "0123456789abcdef0123456789abcdef"
REF = CaptureRef(0, "step-00000000.safetensors", 848, "0" * 64)


class HostileServer:
    """Answers as MLflow's API does, with a run whose files are at ``artifact_uri``.

    Attributes:
        sent: (path, Authorization) of each request.
        n_bytes: how many bytes a download has; it ends early when the client hangs up.
        taken: how many of them the client took.
    """

    def __init__(self, artifact_uri="mlflow-artifacts:/0/run/artifacts"):
        self.artifact_uri, self.sent = artifact_uri, []
        self.n_bytes, self.taken, self.headers, self.body = 200 << 20, 0, {}, b"\0" * (1 << 20)
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                owner.sent.append((self.path, self.headers.get("Authorization")))
                if "/mlflow-artifacts/artifacts/" in self.path:
                    owner.stream(self)
                    return
                info = {"run_id": RUN, "run_uuid": RUN, "experiment_id": "0", "status": "FINISHED"}
                info |= {"lifecycle_stage": "active", "artifact_uri": owner.artifact_uri}
                info |= {"start_time": 0, "run_name": "a"}
                body = json.dumps({"run": {"info": info, "data": {}}, "files": []}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_PUT = do_POST = do_GET

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass  # the client hung up, as it should

        self._http = Server(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._http.server_port}"

    def stream(self, handler):
        handler.send_response(200)
        for name, value in self.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        while self.taken < self.n_bytes:
            handler.wfile.write(self.body)
            self.taken += len(self.body)

    def __enter__(self):
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._http.shutdown()
        self._http.server_close()

    def open_run(self):
        return MlflowTracker(self.uri).open_run(RunRef("mlflow", RUN))


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "the-token")
    with HostileServer() as server:
        yield server


@pytest.mark.parametrize("scheme", ["http", "mlflow-artifacts"])
def test_the_log_in_goes_to_the_tracking_server_alone(server, monkeypatch, tmp_path, scheme):
    with HostileServer() as other:
        address = other.uri.replace("http", scheme)
        server.artifact_uri = f"{address}/api/2.0/mlflow-artifacts/artifacts/0/x/artifacts"
        run = server.open_run()
        for attempt in (run.list_captures, lambda: run.fetch(REF, tmp_path)):
            with pytest.raises(TrackerError, match="another server than"):
                attempt()
        assert other.sent == []
        assert any(token == "Bearer the-token" for _, token in server.sent)

        monkeypatch.setenv(SHARED_VARIABLE, other.uri)
        assert server.open_run().list_captures() == []
        assert other.sent, "a server for artifacts alone can be named"


def test_a_server_names_no_directory_of_this_machine(server, monkeypatch, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "overview.webm").write_text("theirs")
    (tmp_path / "new.webm").write_text("new")
    for place in (theirs.as_uri(), str(theirs)):
        server.artifact_uri = place
        run = server.open_run()
        for attempt in (
            lambda run=run: run.put_file(tmp_path / "new.webm", "overview.webm"),
            lambda run=run: run.get_file("overview.webm", tmp_path / "pulled"),
            run.list_files,
        ):
            with pytest.raises(TrackerError, match="--serve-artifacts"):
                attempt()
    assert (theirs / "overview.webm").read_text() == "theirs"

    monkeypatch.setenv(SHARED_VARIABLE, str(tmp_path / "elsewhere"))
    with pytest.raises(TrackerError, match=SHARED_VARIABLE):
        server.open_run().list_files()
    monkeypatch.setenv(SHARED_VARIABLE, str(tmp_path))
    assert server.open_run().list_files() == ["overview.webm"], "a shared file system is named"


@pytest.mark.parametrize("place", ["ftp://127.0.0.1:9/x", "runs:/abc/x", "gopher://x/y"])
def test_a_store_of_a_kind_that_is_not_used_is_refused_at_once(server, place):
    server.artifact_uri = place
    with pytest.raises(TrackerError, match="stores are one of"):
        server.open_run().list_captures()


def test_of_a_capture_no_more_is_taken_than_its_index_promised(server, tmp_path):
    run = server.open_run()
    with pytest.raises(CaptureFileError, match="at most 848 are read"):
        run.fetch(REF, tmp_path)
    assert server.taken < 32 << 20
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("scheme", ["http", "mlflow-artifacts"])
def test_a_download_that_breaks_off_may_be_asked_for_again(server, tmp_path, scheme):
    address = server.uri.replace("http", scheme)
    server.artifact_uri = f"{address}/api/2.0/mlflow-artifacts/artifacts/0/x/artifacts"
    server.headers, server.body, server.n_bytes = {"Content-Length": "848"}, b"\0" * 100, 100
    run = server.open_run()
    for attempt in (
        lambda: run.fetch(REF, tmp_path),
        lambda: run.get_file("overview.webm", tmp_path),
    ):
        server.taken = 0
        with pytest.raises(TransientTrackerError, match="100 bytes read, 748 more expected"):
            attempt()
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_unpacked_that_came_packed_unasked(server, tmp_path):
    server.headers = {"Content-Encoding": "gzip"}
    server.body = gzip.compress(b"\0" * (16 << 20))
    server.n_bytes = len(server.body)
    with pytest.raises(TrackerError, match="arrived compressed"):
        server.open_run().get_file("overview.webm", tmp_path)
    assert list(tmp_path.iterdir()) == []
