"""Artifacts in S3: written by the client itself, or passed on by the server. The peer speaks S3
over loopback (moto's server)."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from mlflow import MlflowClient
from mlflow.store.artifact import s3_artifact_repo
from mlflow_contract import MlflowContract
from mlflow_server import MlflowServer
from outages import until_met
from slow_link import SlowLink

from tracker_viz import capture_file
from tracker_viz.delivery import Destination, Outbox, push
from tracker_viz.errors import (
    CaptureFileError,
    MissingDependencyError,
    TrackerError,
    TransientTrackerError,
)
from tracker_viz.trackers import connect
from tracker_viz.trackers.download import pull
from tracker_viz.trackers.mlflow.tracker import MlflowTracker
from tracker_viz.trackers.testing import make_capture, write_captures
from tracker_viz.types import RunRef

boto3 = pytest.importorskip("boto3", reason="needs boto3")
threaded = pytest.importorskip("moto.moto_server.threaded_moto_server", reason="needs moto")

BUCKET = "team-artifacts"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "team",
    "AWS_SECRET_ACCESS_KEY": "s3cret-of-the-bucket",
    "AWS_DEFAULT_REGION": "us-east-1",
}
PAGE = 50


class Bucket:
    """The bucket seen from behind, and the address at which clients reach it."""

    def __init__(self, port):
        self.port = port
        self.uri = f"http://127.0.0.1:{port}"
        self.client = boto3.client(
            "s3",
            endpoint_url=self.uri,
            aws_access_key_id="a",
            aws_secret_access_key="b",
            region_name=CREDENTIALS["AWS_DEFAULT_REGION"],
        )

    def keys(self, prefix):
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [found["Key"] for page in pages for found in page.get("Contents", ())]

    def read(self, key):
        return self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()

    def write(self, key, contents):
        self.client.put_object(Bucket=BUCKET, Key=key, Body=contents)


@pytest.fixture(scope="module")
def bucket():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "MOTO_S3_DEFAULT_MAX_KEYS", str(PAGE)
        )  # a listing's page: what is paged at 1,000 is paged sooner
        server = threaded.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        bucket = Bucket(server.get_host_and_port()[1])
        bucket.client.create_bucket(Bucket=BUCKET)
        yield bucket
        server.stop()


@pytest.fixture
def s3(bucket, monkeypatch):
    """This process reaches the bucket by itself, as a client of a server does that does not pass
    artifacts on."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", bucket.uri)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3_artifact_repo._cached_get_s3_client.cache_clear()
    yield bucket
    s3_artifact_repo._cached_get_s3_client.cache_clear()


@pytest.fixture
def direct(s3, embedded):
    """An experiment whose artifacts lie in the bucket."""
    client = MlflowClient(embedded)
    if client.get_experiment_by_name("in S3") is None:
        client.create_experiment("in S3", artifact_location=f"s3://{BUCKET}/direct")
    return Destination("mlflow", {"tracking_uri": embedded, "experiment": "in S3"})


class FilesInS3(MlflowContract):
    def key(self, ref):
        raise NotImplementedError

    def files(self, ref, folder):
        prefix = f"{self.key(ref)}/{folder}/" if folder else f"{self.key(ref)}/"
        names = {key: key.removeprefix(prefix) for key in self.bucket.keys(prefix)}
        return {name: self.bucket.read(key) for key, name in names.items() if "/" not in name}

    def overwrite(self, ref, artifact, contents):
        self.bucket.write(f"{self.key(ref)}/{artifact}", contents)


class TestWrittenByTheClient(FilesInS3):
    @pytest.fixture
    def tracker(self, direct, s3):
        self.bucket = s3
        self.client = MlflowClient(direct.options["tracking_uri"])
        return connect("mlflow", **direct.options)

    @pytest.fixture
    def reader(self, tracker):
        return connect("mlflow", **tracker.options)

    def key(self, ref):
        return f"direct/{ref.path}/artifacts"


@pytest.fixture(scope="module")
def passing_on(bucket, tmp_path_factory):
    """A server that keeps its artifacts in S3, run by gunicorn, which hands on what it got of a
    request whose client is gone."""
    directory = tmp_path_factory.mktemp("passing-on")
    options = [
        "--artifacts-destination",
        f"s3://{BUCKET}/proxied",
        "--gunicorn-opts",
        "--threads 4",
    ]
    server = MlflowServer(
        directory, *options, env={**CREDENTIALS, "MLFLOW_S3_ENDPOINT_URL": bucket.uri}
    ).start()
    yield server
    server.kill()


class TestPassedOnByTheServer(FilesInS3):
    @pytest.fixture
    def tracker(self, passing_on, bucket):
        self.bucket = bucket
        self.client = MlflowClient(passing_on.uri)
        return MlflowTracker(passing_on.uri, "contract")

    @pytest.fixture
    def reader(self, tracker):
        return connect("mlflow", **tracker.options)

    def key(self, ref):
        return f"proxied/{self.client.get_run(ref.path).info.experiment_id}/{ref.path}/artifacts"


def test_more_captures_than_a_page_of_the_store_are_listed_and_pulled(direct, tmp_path):
    steps = range(2 * PAGE + 1)
    run = connect("mlflow", **direct.options).create_run(name="many", config={})
    captures = write_captures(steps, tmp_path / "source")
    run.put_captures(captures)
    run.finish("finished")
    assert run.missing([capture.ref for capture in captures]) == []
    pulled = pull(run, tmp_path / "cache")
    assert [capture.path.read_bytes() for capture in pulled.captures] == [
        capture.path.read_bytes() for capture in captures
    ]


def test_a_store_that_goes_away_and_comes_back_has_everything(direct, s3, tmp_path, monkeypatch):
    with SlowLink(("127.0.0.1", s3.port)) as link:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", link.uri)
        with Outbox(tmp_path / "spool", [direct], name="cut off") as outbox:
            for step in range(6):
                if step == 2:
                    link.cut()
                if step == 4:
                    until_met(outbox)
                    link.restore()
                outbox.submit(make_capture(step))
        assert outbox.close().complete
        pulled = pull(outbox.runs[0], tmp_path / "cache")
    assert [capture.path.read_bytes() for capture in pulled.captures] == [
        capture_file.to_bytes(make_capture(step)) for step in range(6)
    ]


def test_a_file_that_was_cut_in_the_store_is_named_left_out_and_mended_by_push(
    direct, s3, tmp_path
):
    with Outbox(tmp_path / "spool", [direct], name="damaged", keep_captures=True) as outbox:
        for step in range(3):
            outbox.submit(make_capture(step))
    run = outbox.runs[0]
    s3.write(f"direct/{run.ref.path}/artifacts/captures/step-00000001.safetensors", b"half of it")
    pulled = pull(run, tmp_path / "cache")
    assert [capture.ref.step for capture in pulled.captures] == [0, 2]
    ((ref, error),) = pulled.damaged.items()
    assert (ref.step, type(error)) == (1, CaptureFileError)
    assert push(tmp_path / "spool").complete
    assert len(pull(run, tmp_path / "cache").captures) == 3


TRAINING = """
    import sys
    from tracker_viz.delivery import Destination, Outbox
    from tracker_viz.trackers.testing import make_capture

    options = {"tracking_uri": sys.argv[2], "experiment": "halves"}
    outbox = Outbox(sys.argv[1], [Destination("mlflow", options)], name="halves")
    outbox.submit(make_capture(0))
    while not outbox._uploaders[0].status().sent:
        pass
    print(*outbox.refs, flush=True)
    outbox.submit(make_capture(1, size=2000))
    outbox.close()
"""


def test_half_a_file_of_a_killed_client_that_the_server_stored_is_not_listed_and_is_repeated(
    passing_on, bucket, tmp_path
):
    whole, enough = capture_file.to_bytes(make_capture(1, size=2000)), 1_000_000
    with SlowLink(("127.0.0.1", passing_on.port)) as link:
        link.lost_after_bytes = enough
        program = [
            sys.executable,
            "-c",
            textwrap.dedent(TRAINING),
            str(tmp_path / "spool"),
            link.uri,
        ]
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as training:
            ref = RunRef.parse(training.stdout.readline().strip())
            while link.lost_after_bytes >= 0:
                time.sleep(0.01)
            training.kill()
        link.lost_after_bytes = None
        run = MlflowTracker(passing_on.uri).open_run(ref)
        experiment = MlflowClient(passing_on.uri).get_run(ref.path).info.experiment_id
        key = f"proxied/{experiment}/{ref.path}/artifacts/captures/step-00000001.safetensors"
        deadline = time.monotonic() + 60
        while key not in bucket.keys(key) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert enough // 2 < len(bucket.read(key)) < len(whole)
        assert [found.step for found in run.list_captures()] == [0]
        assert push(tmp_path / "spool").complete
    assert bucket.read(key) == whole
    assert [found.step for found in run.list_captures()] == [0, 1]


# -- what waiting cannot fix, before any training -------------------------------------------------


def test_a_bucket_that_is_not_there_is_refused_before_training(s3, embedded, tmp_path):
    experiment = MlflowClient(embedded).create_experiment(
        "nowhere in S3", artifact_location="s3://no-such-bucket/x"
    )
    with pytest.raises(TrackerError, match="bucket does not exist"):
        Outbox(
            tmp_path / "spool",
            [Destination("mlflow", {"tracking_uri": embedded, "experiment": "nowhere in S3"})],
            name="a",
        )
    assert [run.info.status for run in MlflowClient(embedded).search_runs([experiment])] == [
        "FAILED"
    ]


def test_credentials_that_are_not_here_are_asked_for_before_training(direct, tmp_path, monkeypatch):
    for name in CREDENTIALS:
        monkeypatch.delenv(name)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # which remembers them
    s3_artifact_repo._cached_get_s3_client.cache_clear()
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(TrackerError, match="AWS_ACCESS_KEY_ID"):
        Outbox(tmp_path / "spool", [direct], name="a")


def test_a_client_that_is_not_installed_is_named_before_training(direct, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(MissingDependencyError, match="pip install boto3"):
        Outbox(tmp_path / "spool", [direct], name="a")


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [(503, "SlowDown", TransientTrackerError), (403, "AccessDenied", TrackerError)],
)
def test_what_the_store_answers_decides_whether_it_is_asked_again(
    direct, tmp_path, monkeypatch, status, code, kind
):
    class Answers(BaseHTTPRequestHandler):
        def do_PUT(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = (
                f"<Error><Code>{code}</Code><Message>as told; the key was "
                "s3cret-of-the-bucket</Message></Error>"
            ).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    run = connect("mlflow", **direct.options).create_run(name="a", config={})
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as store:
        threading.Thread(target=store.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://127.0.0.1:{store.server_port}")
        with pytest.raises(TrackerError) as caught:
            run.put_captures(write_captures([0], tmp_path))
        store.shutdown()
    assert type(caught.value) is kind
    assert code in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert ("AWS_ACCESS_KEY_ID" in str(caught.value)) == (status == 403)


def test_runs_of_a_bucket_are_opened_from_their_reference_alone(direct, tmp_path):
    with Outbox(tmp_path / "spool", [direct], name="a") as outbox:
        outbox.submit(make_capture(0))
    opened = connect("mlflow", **outbox.runs[0].environment).open_run(
        RunRef.parse(str(outbox.refs[0]))
    )
    assert [ref.step for ref in opened.list_captures()] == [0]
