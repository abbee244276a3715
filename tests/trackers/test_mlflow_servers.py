"""Servers as teams run them: log-in, TLS with a CA of their own, a URL prefix, PostgreSQL; and one
that is killed and restarted."""

from __future__ import annotations

import datetime
import ipaddress
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.utils.workspace_context import set_workspace
from mlflow_server import MlflowServer
from outages import until_met
from PIL import Image
from postgres_server import PASSWORD, Postgres

from tracker_viz import capture_file
from tracker_viz.delivery import Destination, Outbox
from tracker_viz.errors import ConfigError, RunNotFoundError, TrackerError
from tracker_viz.pipeline.results.in_step import put_in_step_page, timeline_artifact, timeline_text
from tracker_viz.trackers import connect, open_run
from tracker_viz.trackers.download import pull
from tracker_viz.trackers.mlflow.tracker import MlflowTracker
from tracker_viz.trackers.testing import make_capture, write_captures
from tracker_viz.trackers.values import MetricPoint
from tracker_viz.video import write_video

PREFIX = "/team/mlflow"


def private_ca(directory):
    """A CA that nobody knows, and a certificate of it for 127.0.0.1: paths of the CA, the
    certificate and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def name(text):
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    def certificate(subject, key, signer, *extensions):
        now = datetime.datetime.now(datetime.UTC)
        built = x509.CertificateBuilder(
            name("our CA"), name(subject), key.public_key(), x509.random_serial_number()
        )
        built = built.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(
            now + datetime.timedelta(days=1)
        )
        for extension in (*extensions, x509.SubjectKeyIdentifier.from_public_key(key.public_key())):
            built = built.add_extension(
                extension, critical=isinstance(extension, x509.BasicConstraints)
            )
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
        return (
            built.add_extension(issuer, critical=False)
            .sign(signer, hashes.SHA256())
            .public_bytes(serialization.Encoding.PEM)
        )

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    files = {
        "ca.pem": certificate("our CA", ca_key, ca_key, x509.BasicConstraints(True, None), usage),
        "server.pem": certificate("127.0.0.1", key, ca_key, here),
        "server.key": key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    }
    for file_name, contents in files.items():
        (directory / file_name).write_bytes(contents)
    return [directory / file_name for file_name in files]


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    """Basic auth, TLS and a static prefix at once: one slow start instead of three."""
    directory = tmp_path_factory.mktemp("secured")
    ca, certificate, key = private_ca(directory)
    # Without its cache the server derives a key from the password for every single request.
    settings = {
        "default_permission": "READ",
        "database_uri": f"sqlite:///{directory}/users.db",
        "admin_username": "admin",
    }
    settings |= {
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
        "auth_cache_ttl_seconds": "600",
    }
    (directory / "auth.ini").write_text(
        "[mlflow]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())
    )
    server = MlflowServer(
        directory,
        *(
            "--app-name",
            "basic-auth",
            "--static-prefix",
            PREFIX,
            "--uvicorn-opts",
            f"--ssl-keyfile {key} --ssl-certfile {certificate}",
        ),
        env={
            "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
            "MLFLOW_AUTH_CONFIG_PATH": str(directory / "auth.ini"),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "k" * 32,
        },
        prefix=PREFIX,
        ca=ca,
    )
    server.start()
    yield server
    server.kill()


@pytest.fixture
def trusted(secured, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(secured.ca))
    return secured


@pytest.fixture
def logged_in(trusted, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    return trusted


def test_a_certificate_of_an_unknown_ca_is_refused_before_training(secured, tmp_path):
    with pytest.raises(TrackerError, match="MLFLOW_TRACKING_SERVER_CERT_PATH"):
        Outbox(tmp_path / "spool", [Destination("mlflow", {"tracking_uri": secured.uri})], name="a")


@pytest.mark.parametrize("password", [None, "wrong"])
def test_a_failed_log_in_is_refused_before_training(trusted, tmp_path, monkeypatch, password):
    if password:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    with pytest.raises(TrackerError, match="MLFLOW_TRACKING_USERNAME"):
        Outbox(
            tmp_path / "spool",
            [Destination("mlflow", {"tracking_uri": trusted.uri + PREFIX})],
            name="a",
        )


def test_an_address_without_the_servers_prefix_is_refused_with_a_hint(logged_in, tmp_path):
    with pytest.raises(TrackerError, match="--static-prefix included"):
        Outbox(
            tmp_path / "spool", [Destination("mlflow", {"tracking_uri": logged_in.uri})], name="a"
        )


def test_with_log_in_and_ca_everything_works_and_nothing_secret_is_kept(
    logged_in, tmp_path, caplog, capsys
):
    caplog.set_level(0)
    destination = Destination("mlflow", {"tracking_uri": logged_in.uri + PREFIX})
    with Outbox(tmp_path / "spool", [destination], name="secured", config={"lr": 0.1}) as outbox:
        for step in range(3):
            outbox.submit(make_capture(step))
    (run,) = outbox.runs
    (tmp_path / "a.webm").write_bytes(b"video")
    link = open_run(run.ref, **run.environment).put_video(
        tmp_path / "a.webm", layout="heads", last_step=2
    )
    assert link.startswith(
        f"{logged_in.uri}{PREFIX}/#/experiments/0/runs/{run.ref.path}/artifacts/heads.webm"
    )
    assert len(pull(run, tmp_path / "cache").captures) == 3
    printed = capsys.readouterr()
    files = "".join(
        path.read_text(errors="replace") for path in (tmp_path / "spool").rglob("*.json*")
    )
    assert PASSWORD not in caplog.text + printed.out + printed.err + files + str(
        outbox.close()
    ) + str(run.environment)


@pytest.mark.chromium
def test_links_notes_and_pages_work_below_the_prefix_for_who_is_logged_in(
    logged_in, chromium, tmp_path
):
    tracker = MlflowTracker(logged_in.uri + PREFIX, "below the prefix")
    runs = [tracker.create_run(name=name, config={}) for name in "ab"]
    sweep = tracker.create_run(name="sweep", config={})
    noise = np.random.default_rng(0).integers(0, 255, (24, 360, 640, 3), np.uint8)
    write_video(len(noise), noise.__getitem__, tmp_path / "heads.webm")
    assert (tmp_path / "heads.webm").stat().st_size > 2 << 20, (
        "more than fits into an ordinary address"
    )
    (tmp_path / "timeline.json").write_text(
        timeline_text("heads.webm", [(step, step / 4) for step in range(24)])
    )
    Image.fromarray(noise[0]).save(
        tmp_path / "heads.webp", save_all=True, append_images=[Image.fromarray(noise[1])]
    )
    for run in runs:
        run.put_file(tmp_path / "timeline.json", timeline_artifact("heads"))
        run.put_file(tmp_path / "heads.webp", "heads.webp")
        link = run.put_video(tmp_path / "heads.webm", layout="heads", last_step=23)
        assert run.guards_files(run.ref, "heads.webm")
    page_link = put_in_step_page(
        sweep, runs, {str(run.ref): run.info().name for run in runs}, title="two"
    )
    for each in (*runs, sweep):
        each.finish("finished")

    credentials = {"username": "admin", "password": PASSWORD}
    context = chromium.new_context(
        ignore_https_errors=True,
        http_credentials=credentials,
        viewport={"width": 1600, "height": 1000},
    )
    context.set_default_timeout(60_000)
    try:
        page = context.new_page()
        page.goto(link)
        page.wait_for_function(
            "() => document.querySelector('video')?.readyState >= 2", timeout=60_000
        )
        page.goto(runs[1].url())
        page.wait_for_function(
            "() => document.querySelector(\"img[src*='heads.webp']\")?.naturalWidth == 640",
            timeout=60_000,
        )
        with context.expect_page() as opened:
            page.get_by_role("link", name="Watch this model learn: heads").click()
        opened.value.wait_for_function(
            "() => document.querySelector('video')?.readyState >= 2", timeout=60_000
        )
        assert opened.value.url == link
        # A page in the viewer's sandbox is a stranger to the server, so the videos are part of it.
        page.goto(page_link)
        page.frame_locator("iframe").locator("video").first.wait_for(timeout=60_000)
        (frame,) = (each for each in page.frames if each != page.main_frame)
        frame.wait_for_function(
            "() => [...document.querySelectorAll('video')].filter(video => video.readyState >= "
            "2).length == 2",
            timeout=60_000,
        )
        screenshot = os.environ.get("TRACKER_VIZ_SCREENSHOTS")
        if screenshot:
            page.screenshot(path=Path(screenshot) / "in-step-logged-in.png")
    finally:
        context.close()


def test_a_server_that_is_killed_and_started_again_has_everything_once(logged_in, tmp_path, asking):
    destination = Destination("mlflow", {"tracking_uri": logged_in.uri + PREFIX})
    with Outbox(tmp_path / "spool", [destination], name="restarted") as outbox:
        asking.clear()
        for step in range(15):
            if step == 5:
                logged_in.kill()
            if step == 10:
                until_met(outbox)
                training = threading.current_thread()
                assert training not in asking, "it hands over and goes on, whatever the server does"
                logged_in.start()
            outbox.submit(make_capture(step))
    assert outbox.close().complete
    assert asking - {training}
    (run,) = outbox.runs
    pulled = pull(run, tmp_path / "cache")
    assert [capture.path.read_bytes() for capture in pulled.captures] == [
        capture_file.to_bytes(make_capture(step)) for step in range(15)
    ]
    assert sorted(
        point.step
        for point in MlflowClient(logged_in.uri + PREFIX).get_metric_history(run.ref.path, "loss")
    ) == list(range(15))


# -- PostgreSQL ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def postgres():
    postgres = Postgres.found()
    postgres.start()
    yield postgres
    postgres.remove()


@pytest.fixture(scope="module")
def teams(postgres, tmp_path_factory):
    """A server whose store is PostgreSQL."""
    server = MlflowServer(tmp_path_factory.mktemp("teams"), store=postgres.uri).start()
    yield server
    server.kill()


def test_postgresql_as_the_store_of_a_server_and_used_directly(
    postgres, teams, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    points = [MetricPoint(step, {"loss": 1.0 / (1 + step)}, time=1.7e9 + step) for step in range(3)]
    captures = write_captures([0, 1, 5], tmp_path / "source")
    for tracker in (MlflowTracker(teams.uri, "team"), MlflowTracker(postgres.uri, "direct")):
        run = tracker.create_run(name="a", config={"lr": 0.1}, key="0" * 32)
        assert tracker.create_run(name="a", config={"lr": 0.1}, key="0" * 32).ref == run.ref
        run.put_captures(captures)
        run.log_metrics(points)
        run.log_metrics(points)
        run.finish("finished")
        pulled = pull(tracker.open_run(run.ref), tmp_path / "cache")
        assert [capture.path.read_bytes() for capture in pulled.captures] == [
            capture.path.read_bytes() for capture in captures
        ]
        assert len(MlflowClient(postgres.uri).get_metric_history(run.ref.path, "loss")) == 3
        assert PASSWORD not in str(tracker.options) + str(run.environment) + run.url() + str(
            run.ui_command
        )
    noted = connect("mlflow", **run.environment)
    assert noted.options["tracking_uri"].startswith("postgresql+psycopg2://127.0.0.1")


def test_artifacts_that_only_the_server_can_reach_are_refused_before_training(
    postgres, teams, tmp_path
):
    MlflowClient(teams.uri).create_experiment("of the server")
    with pytest.raises(TrackerError, match="must be a valid http or https URI"):
        Outbox(
            tmp_path / "spool",
            [Destination("mlflow", {"tracking_uri": postgres.uri, "experiment": "of the server"})],
            name="a",
        )


def test_a_database_that_crashes_behind_the_server_or_is_used_directly_gets_everything_once(
    postgres, teams, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    stores = {"behind": teams.uri, "directly": postgres.uri}
    destinations = [
        Destination("mlflow", {"tracking_uri": uri, "experiment": f"crash {how}"})
        for how, uri in stores.items()
    ]
    with Outbox(tmp_path / "spool", destinations, name="crash") as outbox:
        for step in range(9):
            if step == 3:
                postgres.stop()
            if step == 6:
                until_met(outbox)
                postgres.start()
            outbox.submit(make_capture(step))
    assert outbox.close().complete
    for run in outbox.runs:
        assert [ref.step for ref in run.list_captures()] == list(range(9))
        history = MlflowClient(postgres.uri).get_metric_history(run.ref.path, "loss")
        assert sorted(point.step for point in history) == list(range(9))
    assert PASSWORD not in "".join(
        path.read_text() for path in (tmp_path / "spool").rglob("*.json*")
    )


# -- workspaces ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory):
    """A server that several teams share, each in a workspace of its own."""
    server = MlflowServer(tmp_path_factory.mktemp("shared"), "--enable-workspaces").start()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_WORKSPACE", raising=False)
        MlflowClient(server.uri).create_workspace("team-a")
    yield server
    server.kill()


@pytest.fixture
def no_workspace_is_left(monkeypatch):
    monkeypatch.delenv("MLFLOW_WORKSPACE", raising=False)
    yield
    set_workspace(None)


def test_a_run_in_a_workspace_is_found_in_it_alone(shared_server, no_workspace_is_left, tmp_path):
    options = {"tracking_uri": shared_server.uri, "experiment": "e", "workspace": "team-a"}
    with Outbox(tmp_path / "spool", [Destination("mlflow", options)], name="a") as outbox:
        for step in range(2):
            outbox.submit(make_capture(step))
    (ref,), (run,) = outbox.refs, outbox.runs
    assert outbox.close().command is None
    assert run.environment == {"tracking_uri": shared_server.uri, "workspace": "team-a"}
    assert run.url().endswith("?workflowType=machine_learning&workspace=team-a")

    set_workspace(None)
    with pytest.raises(RunNotFoundError):
        MlflowTracker(shared_server.uri).open_run(ref)
    # What a printed command carries
    again = open_run(ref, **run.environment)
    assert len(pull(again, tmp_path / "cache").captures) == 2


def test_a_name_that_no_workspace_can_have_is_refused(no_workspace_is_left, embedded):
    with pytest.raises(ConfigError, match="workspace must be"):
        MlflowTracker(embedded, workspace="Team A!")
