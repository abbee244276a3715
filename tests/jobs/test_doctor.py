"""The doctor: each examination finds what is well and what is not, and names the fix."""

from __future__ import annotations

import http.server
import sys
import threading

import pytest
from own_port import own_port

from tracker_viz.errors import MissingDependencyError
from tracker_viz.jobs import doctor


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
        "✗ video: opencv       does not work here\n                      fix: import cv2 fails: libGL.so.1; apt-get install libgl1"
        in result.out
    )
    assert "· video: h264" in result.out
    assert "1 of these need mending" in result.err


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
    assert doctor.tracker("mlflow", {"tracking_uri": web}, 60.0) == doctor.Finding("ok", "mlflow", f"{web} answers")
    away = doctor.tracker("mlflow", {"tracking_uri": nobody_home}, 60.0)
    assert away.outcome == "note"
    assert "tracker-viz push" in away.fix


def test_wandb_needs_a_key_for_its_server(web, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert doctor.server("wandb", web, 60.0).fix == "wandb login, or WANDB_API_KEY=..."
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login user password secret")
    (tmp_path / ".netrc").chmod(0o600)
    assert doctor.server("wandb", web, 60.0).outcome == "ok"
    (tmp_path / ".netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert doctor.server("wandb", web, 60.0).outcome == "ok"


def test_a_disk_that_is_nearly_full_is_told(tmp_path, monkeypatch):
    assert doctor.free_space("disk", tmp_path / "not" / "made" / "yet").outcome == "ok"
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: doctor.shutil._ntuple_diskusage(100, 99, 1))
    finding = doctor.free_space("disk", tmp_path)
    assert (finding.outcome, "capture.max_mb" in finding.fix) == ("note", True)


def test_a_machine_without_torch_is_examined_to_the_end(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # import torch fails
    finding = doctor.graphics_card()
    assert (finding.outcome, finding.fix) == ("note", "pip install torch")
    assert "rendering needs none, capturing does" in finding.detail
