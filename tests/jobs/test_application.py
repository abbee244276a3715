"""Every Hydra application has exit codes, and messages in place of tracebacks unless these are
asked for."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import textwrap

import pytest

from tracker_viz.errors import ConfigError, TrackerError
from tracker_viz.jobs.application import application, with_home, without_dashes
from tracker_viz.jobs.doctor import DoctorSettings

CALLBACK = """
from pathlib import Path
from hydra.experimental.callback import Callback

class Notes(Callback):
    def on_job_end(self, config, job_return, **rest):
        Path("status").write_text(job_return.status.name)
"""


@pytest.fixture
def call(monkeypatch, tmp_path):
    """Run ``task`` as an application with the smallest of our settings; returns its exit code."""
    monkeypatch.chdir(tmp_path)

    def run(task, *words):
        monkeypatch.setattr(sys, "argv", ["app", *words])
        try:
            application(DoctorSettings, name="doctor")(task)()
        except SystemExit as left:
            return left.code
        return 0

    return run


def raising(error):
    def task(settings):
        raise error

    return task


def test_the_task_gets_its_settings(call):
    seen = []
    assert call(seen.append, "timeout_s=9") == 0
    assert seen == [DoctorSettings(timeout_s=9)]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("give it a name"), 2),
        (TrackerError("the server said no"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_that_a_user_can_mend_are_one_message(call, capsys, error, code):
    assert call(raising(error)) == code
    printed = capsys.readouterr().err
    assert (str(error) or "interrupted") in printed
    assert "Traceback" not in printed


def test_the_message_stands_alone_and_of_several_jobs_says_which_one_failed(call, capsys):
    assert call(raising(ConfigError("give it a name"))) == 2
    assert capsys.readouterr().err == "give it a name\n"
    assert call(raising(ConfigError("give it a name")), "-m", "timeout_s=1,2") == 2
    assert capsys.readouterr().err == "timeout_s=1: give it a name\n"
    assert call(raising(TrackerError("no\nanswer")), "-m", "timeout_s=1,2") == 1
    assert capsys.readouterr().err == "timeout_s=1: no answer\n"


def test_a_callback_of_hydra_learns_that_the_job_failed(call, capsys, tmp_path, monkeypatch):
    (tmp_path / "callback_of_application.py").write_text(CALLBACK)
    monkeypatch.syspath_prepend(tmp_path)
    assert (
        call(
            raising(ConfigError("x")),
            "+hydra.callbacks.mine._target_=callback_of_application.Notes",
        )
        == 2
    )
    assert (tmp_path / "status").read_text() == "FAILED"
    assert capsys.readouterr().err == "x\n"


def test_a_scheduler_that_ends_the_program_lets_it_put_things_in_order(tmp_path):
    program = """
    import sys, time
    from tracker_viz.jobs.application import application
    from tracker_viz.jobs.doctor import DoctorSettings

    @application(DoctorSettings, name="doctor")
    def main(settings):
        try:
            print("at work", flush=True)
            time.sleep(60)
        finally:
            print("in order", flush=True)

    main()
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        assert process.stdout.readline() == "at work\n"
        process.terminate()
        assert process.communicate(timeout=30) == ("in order\n", "interrupted\n")
    assert process.returncode == 130


def test_a_traceback_comes_when_it_is_asked_for(call, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(TrackerError, match="the server said no"):
        call(raising(TrackerError("the server said no")))


def test_a_bug_keeps_its_traceback(call):
    with pytest.raises(ZeroDivisionError):
        call(lambda settings: 1 / 0)


def printing(text):
    """A program whose only job prints ``text``."""
    return (
        "from tracker_viz.jobs.application import application\n"
        "from tracker_viz.jobs.doctor import DoctorSettings\n"
        f"application(DoctorSettings, name='doctor')(lambda settings: print({text}))()"
    )


def test_a_reader_that_has_seen_enough_gets_no_traceback():
    program = printing("'x' * 100_000")
    done = subprocess.run(
        f"{shlex.quote(sys.executable)} -c {shlex.quote(program)} | true",
        shell=True,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert "Traceback" not in done.stderr


def test_a_terminal_that_cannot_show_every_sign_gets_the_others():
    program = printing("'✓ done'")
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "? done\n"), done.stderr


@pytest.mark.parametrize("before", [None, "0"])
def test_the_environment_is_left_as_it_was(call, monkeypatch, before):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    if before is not None:
        monkeypatch.setenv("HYDRA_FULL_ERROR", before)
    call(raising(ConfigError("x")))
    assert os.environ.get("HYDRA_FULL_ERROR") == before


@pytest.mark.parametrize(
    ("word", "read"),
    [
        ("--seed=1", "seed=1"),
        ("--model.n_heads=4", "model.n_heads=4"),
        ("seed=1", "seed=1"),
        ("--multirun", "--multirun"),
        ("--config-dir=conf", "--config-dir=conf"),
        ("--cfg=job", "--cfg=job"),
    ],
)
def test_settings_may_have_dashes_as_wandb_agent_writes_them(word, read):
    assert without_dashes(word) == read


@pytest.mark.parametrize(
    ("word", "read"),
    [
        ("spool=~/runs", "spool=/home/me/runs"),
        ("run=local:~/runs/a", "run=local:/home/me/runs/a"),
        ("runs=[local:~/a,local:~/b]", "runs=[local:/home/me/a,local:/home/me/b]"),
        ("checkpoints='~/ck/*.pt'", "checkpoints='/home/me/ck/*.pt'"),
        ("output=a~/b", "output=a~/b"),
        ("~trainer", "~trainer"),
        ("name=~other/x", "name=~other/x"),
    ],
)
def test_the_home_directory_may_be_written_as_a_tilde(word, read, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert with_home(word) == read
