"""The doctor: each examination finds what is well and what is not, and names the fix."""

from __future__ import annotations

import http.server
import sys
import threading

import pytest
import wandb
from own_port import own_port
from wandb_server.fixtures import own_client

from tracker_viz.errors import MissingDependencyError
from tracker_viz.jobs import doctor


@pytest.fixture(autouse=True)
def _own_client():
    with own_client():
        yield


@pytest.fixture
def web():
    """Address of a server that answers everything with 404."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def nobody_home():
    """An address at which nothing listens."""
    with own_port() as held:
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def mlflow(tracking_uri):
    return doctor.tracker("mlflow", {"tracking_uri": tracking_uri, "base_url": None}, 60.0)


def wandb_at(base_url):
    return doctor.tracker("wandb", {"tracking_uri": None, "base_url": base_url}, 60.0)


def test_the_doctor_examines_this_machine_and_finds_it_fit(tracker_viz, nobody_home):
    result = tracker_viz("doctor", f"base_url={nobody_home}")
    assert result.code == 0, result.out
    assert "✓ video: opencv       VP80 in .webm, written and read back" in result.out
    assert "✓ mlflow              embedded, sqlite:///" in result.out
    assert f"· wandb               {nobody_home} does not answer" in result.out


def test_a_broken_opencv_fails_the_examination_with_its_fix(tracker_viz, monkeypatch, nobody_home):
    def broken(*args, **options):
        raise MissingDependencyError("import cv2 fails: libGL.so.1; apt-get install libgl1")

    monkeypatch.setattr(doctor, "write_video", broken)
    result = tracker_viz("doctor", f"base_url={nobody_home}")
    assert result.code == 1
    assert (
        "✗ video: opencv       does not work here\n                      fix: import cv2 fails: "
        "libGL.so.1; apt-get install libgl1" in result.out
    )
    assert "· video: h264" in result.out
    assert "1 check failed" in result.err


@pytest.mark.parametrize("version", [(3, 10, 9), (3, 14, 0)])
def test_another_python_is_refused(monkeypatch, version):
    monkeypatch.setattr(doctor.sys, "version_info", version)
    finding = doctor.python()
    assert (finding.outcome, finding.detail) == ("fail", ".".join(map(str, version)))
    assert "3.11 or later, below 3.14" in finding.fix


def test_a_missing_package_is_named_with_its_install_line(monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", ("numpy", "no-such-package"))
    missing, found = doctor.packages()
    assert (missing.outcome, missing.fix) == ("fail", "pip install no-such-package")
    assert found.detail.startswith("numpy ")


def test_a_server_is_asked_whether_it_answers(web, nobody_home):
    assert mlflow(web) == doctor.Finding("ok", "mlflow", f"{web} answers")
    away = mlflow(nobody_home)
    assert away.outcome == "note"
    assert "tracker-viz push" in away.fix


def test_a_database_that_is_no_file_is_not_looked_for_on_the_disk():
    uri = "postgresql://db.example/mlflow"
    finding = mlflow(uri)
    assert (finding.outcome, finding.detail) == ("note", f"{uri} is not tried here")
    assert "mlflow experiments search" in finding.fix


def test_an_address_that_mlflow_does_not_take_is_told_with_those_that_it_takes():
    finding = mlflow("foo://x")
    assert (finding.outcome, finding.detail) == ("note", "cannot be used")
    assert "sqlite:////" in finding.fix


@pytest.mark.parametrize("timeout_s", ["-1", "0", "inf", "nan"])
def test_a_time_that_cannot_be_waited_for_is_refused(tracker_viz, timeout_s):
    result = tracker_viz("doctor", f"timeout_s={timeout_s}")
    assert result.code == 2
    assert "timeout_s must be a number above 0; got" in result.err
    assert result.out == ""


def test_wandb_is_looked_for_where_the_client_would(monkeypatch, nobody_home):
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    monkeypatch.setenv("https_proxy", nobody_home)
    assert wandb_at(None).detail.startswith(f"{wandb.Settings().base_url} does not answer")


def test_wandb_needs_a_key_for_its_server(web, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    keyless = wandb_at(web)
    assert (keyless.outcome, keyless.detail) == ("note", f"{web} answers, but cannot be written to")
    assert f"wandb login --host={web}" in keyless.fix
    (tmp_path / ".netrc").write_text(
        f"machine {web.removeprefix('http://')} login user password {40 * '0'}"
    )
    (tmp_path / ".netrc").chmod(0o600)
    assert wandb_at(web).outcome == "ok"
    (tmp_path / ".netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", 40 * "0")
    assert wandb_at(web).outcome == "ok"


def test_a_disk_that_is_nearly_full_is_told(tmp_path, monkeypatch):
    assert doctor.free_space("disk", tmp_path / "not" / "made" / "yet").outcome == "ok"
    monkeypatch.setattr(
        doctor.shutil, "disk_usage", lambda path: doctor.shutil._ntuple_diskusage(100, 99, 1)
    )
    finding = doctor.free_space("disk", tmp_path)
    assert (finding.outcome, "capture.max_mb" in finding.fix) == ("note", True)


def test_a_machine_without_torch_is_examined_to_the_end(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # import torch fails
    finding = doctor.graphics_card()
    assert finding.outcome == "note"
    assert finding.fix == "pip install 'tracker-viz[torch]'"
    assert "rendering works without it, capturing does not" in finding.detail
