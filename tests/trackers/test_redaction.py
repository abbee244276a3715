"""No password, key or token is printed, logged, or put where others read it: the spool, parameters,
tags, the note, files of the run."""

from __future__ import annotations

import re
import socket
import sys

import pytest
import requests
from bearer_proxy import BearerProxy
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from tracker_viz.delivery import Destination, Outbox, push
from tracker_viz.errors import ConfigError, TrackerError
from tracker_viz.trackers import open_run
from tracker_viz.trackers.download import pull
from tracker_viz.trackers.mlflow.errors import mlflow_errors
from tracker_viz.trackers.mlflow.tracker import MlflowTracker
from tracker_viz.trackers.redaction import (
    is_secret,
    shown_override,
    without_retries,
    without_secrets,
    without_userinfo,
)
from tracker_viz.trackers.testing import make_capture
from tracker_viz.trackers.wandb.service import WandbService
from tracker_viz.types import RunRef

TOKEN = "t0ken-of-the-team"
SECRET = "s3cret"


def stored(run):
    return MlflowClient(run.environment["tracking_uri"]).get_run(run.ref.path)


def contents(directory):
    """Everything in the files of a directory, their names included."""
    return "".join(
        f"{path}\n{path.read_bytes().decode(errors='replace')}"
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    )


@pytest.fixture
def gateway(mlflow_server):
    with BearerProxy(mlflow_server.port, TOKEN) as proxy:
        yield proxy


def test_a_token_opens_the_server_and_leaves_no_trace(
    gateway, mlflow_server, tmp_path, monkeypatch, caplog, capfd
):
    caplog.set_level(0)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", TOKEN)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    destination = Destination("mlflow", {"tracking_uri": gateway.uri, "experiment": "token"})
    with Outbox(
        tmp_path / "spool", [destination], name="with a token", keep_captures=True
    ) as outbox:
        outbox.submit(make_capture(0))
        outbox.set_summary({"best_head": "L0H1"})
        outbox.put_table([{"head": "L00H00", "score": 0.5}], "head_roles")
    report = push(tmp_path / "spool")
    assert report.complete
    run = open_run(outbox.refs[0], **outbox.runs[0].environment)
    (tmp_path / "a.webm").write_bytes(b"video")
    links = [run.put_video(tmp_path / "a.webm", layout="heads", last_step=0), run.url()]
    assert len(pull(run, tmp_path / "cache").captures) == 1
    printed = capfd.readouterr()
    kept = (
        contents(tmp_path)
        + contents(mlflow_server.stored(run.ref.path))
        + str(MlflowClient(gateway.uri).get_run(run.ref.path))
    )
    assert "best_head" in kept
    assert TOKEN not in kept + caplog.text + printed.out + printed.err + str(links) + str(
        report
    ) + str(run.environment)


def test_a_token_that_is_refused_is_not_shown_even_where_the_server_says_it(
    gateway, tmp_path, monkeypatch, caplog, capfd
):
    caplog.set_level(0)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken-that-expired")
    with pytest.raises(TrackerError, match="MLFLOW_TRACKING_TOKEN") as caught:
        Outbox(tmp_path / "spool", [Destination("mlflow", {"tracking_uri": gateway.uri})], name="a")
    printed = capfd.readouterr()
    assert (
        "t0ken-that-expired"
        not in str(caught.value) + contents(tmp_path) + caplog.text + printed.out + printed.err
    )


@pytest.mark.parametrize(
    ("override", "shown"),
    [
        ("lr=0.1", "lr=0.1"),
        ("+db.password=s3cret", "+db.password=***"),
        ("++hf_token='s3cret'", "++hf_token=***"),
        ("+db={user: me, password: s3cret}", "+db={user: me, password: ***}"),
        (
            "+db={user:me,aws_secret_access_key:'s3,cret'}",
            "+db={user:me,aws_secret_access_key:***}",
        ),
        (
            "+stores=[{uri: 'http://me:s3cret@host/x', n_tokens: 5}]",
            "+stores=[{uri: 'http://host/x', n_tokens: 5}]",
        ),
        ("~trainer", "~trainer"),
    ],
)
def test_overrides_are_shown_without_their_secrets(override, shown):
    assert shown_override(override) == shown


def test_configurations_lose_their_secrets_however_deep_they_lie():
    config = {
        "a": [{"api_key": SECRET}, "x://me:s3cret@host"],
        "credentials": {"user": "me", "key": SECRET},
        "password": 123456,
    }
    assert without_secrets(config) == {
        "a": [{"api_key": "***"}, "x://host"],
        "credentials": {"user": "***", "key": "***"},
        "password": "***",
    }
    assert without_secrets({"n_tokens": 5, "token": None, "use_token": True}) == {
        "n_tokens": 5,
        "token": None,
        "use_token": True,
    }


@pytest.mark.parametrize(
    "text",
    [
        "https://me:s3cret@host/x",
        "postgresql://me:s3@cret@host/x",
        "see 'http://s3cret@host' there",
        "https://me:s3cret/x@host/x",
        "https://me:#s3cret?@host:5000/x",
        "https://me:s3'cret@host/x",
        "https://host/x?token=s3cret&n=3",
        "https://host/x?sv=1&sig=s3cret%3D#top",
        "postgresql://host/db?password=s3cret",
    ],
)
def test_addresses_lose_their_passwords(text):
    shown = without_userinfo(text)
    assert "cret" not in shown
    assert "://host" in shown


@pytest.mark.parametrize(
    "address",
    [
        "http://host:5000/x?email=me@lab.org",
        "http://host/@me/x",
        "https://host/x?n_tokens=5&sort_key=loss",
    ],
)
def test_addresses_without_a_password_stay_as_they_are(address):
    assert without_userinfo(address) == address


NAMES = """openai_key Authorization cookie webhook_url slackWebhook db_pass clientSecret tokens
    OPENAI_API_KEY apiKey AWSSecretAccessKey hf_token aws_secret_access_key"""
HARMLESS = """key sort_key eos_token special_tokens tokenizer keyboard secretary forward_pass
    weight_decay tokens_seen token_count monitor_key state_dict_keys"""


def test_secrets_are_known_by_the_words_of_their_names():
    assert [name for name in NAMES.split() if not is_secret(name)] == []
    assert [name for name in HARMLESS.split() if is_secret(name)] == []
    config = {"tokens": {"hf": SECRET, "seen": 5}, "n_tokens": 7, "key": "loss"}
    shown = {"tokens": {"hf": "***", "seen": 5}, "n_tokens": 7, "key": "loss"}
    assert without_secrets(config) == shown


@pytest.mark.parametrize(
    "text",
    [
        "Bearer s3cret-s3cret",
        "curl -H 'Authorization: Basic czNjcmV0' http://host",
        "Cookie: session=s3cret; other=s3cret",
        "Server=db;Password=s3cret;n=1",
        "sk-proj-s3crets3crets3cret",
        "ghp_s3crets3crets3crets3cret",
        "AKIAS3CRETS3CRETS3CR",
        "eyJhbGciOiJI.eyJzM2NyZXQi.s3cret-s3cret",
        "-----BEGIN RSA PRIVATE KEY-----\ns3cret\n-----END RSA PRIVATE KEY-----",
    ],
)
def test_secrets_in_values_go_whatever_the_value_is_called(text):
    shown = without_secrets({"note": f"before {text}"})["note"]
    assert shown.startswith("before ")
    assert "***" in shown
    assert not {"s3cret", "S3CRET", "czNj"} & set(re.findall("s3cret|S3CRET|czNj", shown))


def test_a_password_in_the_address_of_wandb_is_in_no_link():
    service = WandbService("http://me:s3cret@wandb.mylab.org")
    assert service.app_url == service.shown_url == "http://wandb.mylab.org"
    with pytest.raises(ConfigError) as caught:
        WandbService("me://me:s3cret@wandb.mylab.org")
    assert "s3cret" not in str(caught.value)


def test_the_address_of_a_git_remote_is_tagged_without_its_password(embedded, monkeypatch):
    from mlflow.tracking.context import registry

    monkeypatch.setattr(
        registry,
        "resolve_tags",
        lambda tags: tags | {"mlflow.source.git.repoURL": "https://me:s3cret@git.example/repo"},
    )
    run = MlflowTracker(embedded, "contract").create_run(name="a", config={})
    assert stored(run).data.tags["mlflow.source.git.repoURL"] == "https://git.example/repo"
    run.finish("finished")


def test_no_secret_is_stored_or_shown(tmp_path, embedded, caplog):
    config = {
        "wandb": {"api_key": "s3cret"},
        "db": "postgresql://me:s3cret@host/db",
        "n_tokens": 5,
        "tokens": 6,
    }
    destination = Destination("mlflow", {"tracking_uri": embedded, "experiment": "contract"})
    with Outbox(tmp_path / "spool", [destination], name="a", config=config) as outbox:
        pass
    params = stored(outbox.runs[0]).data.params
    assert params == {
        "wandb.api_key": "***",
        "db": "postgresql://host/db",
        "n_tokens": "5",
        "tokens": "6",
    }
    assert "s3cret" not in (tmp_path / "spool/run.json").read_text() + caplog.text


def test_a_password_in_the_address_stays_in_memory(tmp_path, caplog, capsys):
    secret = Destination(
        "mlflow", {"tracking_uri": "http://me:s3cret@127.0.0.1:9", "experiment": "e"}
    )
    outbox = Outbox(tmp_path / "spool", [secret], name="a", start_timeout_s=5)
    report = outbox.close(timeout_s=0.1)
    printed = capsys.readouterr()
    everything = (
        (tmp_path / "spool/run.json").read_text()
        + caplog.text
        + printed.out
        + printed.err
        + str(report)
    )
    assert "127.0.0.1:9" in everything
    assert "s3cret" not in everything


def test_an_address_without_its_password_finds_it_in_the_environment(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:s3cret@mlflow.example")
    assert MlflowTracker("https://mlflow.example")._uri == "https://me:s3cret@mlflow.example"
    assert MlflowTracker("https://other.example")._uri == "https://other.example"


@pytest.fixture
def silent_server():
    """Takes connections and answers none."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def reason(address, **options):
    with pytest.raises(requests.RequestException) as caught:
        requests.get(address, timeout=1.0, **options)
    return without_retries(f"cannot ask: {caught.value}")


def test_of_urllib3s_chain_of_exceptions_the_reason_at_its_end_is_told(silent_server):
    assert reason("http://127.0.0.1:9/x").endswith("[Errno 111] Connection refused")
    proxied = reason("http://host.invalid/", proxies={"http": "http://127.0.0.1:9"})
    assert proxied.startswith("cannot ask: Unable to connect to proxy: ")
    silent = reason(f"http://{silent_server}/")
    assert silent == "cannot ask: Read timed out. (read timeout=1.0)"
    for said in (reason("http://127.0.0.1:9/x"), proxied, silent):
        assert "ConnectionPool" not in said
        assert "Caused by" not in said
    assert without_retries("nothing of the kind") == "nothing of the kind"


def test_a_dead_server_is_told_in_one_short_line(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackerError) as caught:
        MlflowTracker(tracking_uri="http://127.0.0.1:9").open_run(RunRef("mlflow", "a" * 32)).info()
    assert "http://127.0.0.1:9" in str(caught.value)
    assert "Connection refused" in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_full_disk_under_the_database_is_told_on_one_line_without_its_statement():
    said = "(sqlite3.OperationalError) disk is full\n[SQL: INSERT INTO params VALUES (?)]\n[x: 1]"
    with pytest.raises(TrackerError) as caught, mlflow_errors("sqlite:////x.db", "log metrics"):
        raise MlflowException(said)
    assert str(caught.value).endswith("(sqlite3.OperationalError) disk is full")
