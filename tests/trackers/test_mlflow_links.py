"""Where people are led to, and what a run's overview page says."""

from __future__ import annotations

from mlflow import MlflowClient

from tracker_viz.trackers import connect
from tracker_viz.trackers.mlflow.run import MlflowRun
from tracker_viz.trackers.mlflow.tracker import MlflowTracker


def stored(run):
    return MlflowClient(run.environment["tracking_uri"]).get_run(run.ref.path)


def test_links_of_a_server_lead_to_its_artifact_page(mlflow_server):
    run = MlflowTracker(mlflow_server.uri, "contract").create_run(name="a", config={})
    experiment = stored(run).info.experiment_id
    page = f"{mlflow_server.uri}/#/experiments/{experiment}/runs/{run.ref.path}"
    assert run.url() == f"{page}?workflowType=machine_learning"
    assert (
        run.url("videos/heads/a b.webm")
        == f"{page}/artifacts/videos/heads/a%20b.webm?workflowType=machine_learning"
    )
    assert run.ui_command is None
    run.finish("finished")


def test_links_of_the_embedded_store_say_what_has_to_run(run, embedded):
    assert run.url("heads.webm").startswith("http://127.0.0.1:5000/#/experiments/")
    assert run.ui_command == f"mlflow ui --backend-store-uri {embedded}"


def test_links_follow_the_address_of_the_ui(embedded, monkeypatch):
    told = connect(
        "mlflow",
        tracking_uri=embedded,
        experiment="contract",
        ui_url="https://u:pw@ml.example/prefix/",
    ).create_run(name="a", config={})
    assert told.url().startswith("https://ml.example/prefix/#/experiments/")
    assert told.ui_command is None
    monkeypatch.setenv("TRACKER_VIZ_MLFLOW_UI_URL", "https://other.example")
    assert MlflowTracker(embedded).open_run(told.ref).url().startswith("https://other.example/#/")


def test_the_runs_note_lists_its_videos_and_never_overwrites_a_persons(run, tmp_path):
    client = MlflowClient(run.environment["tracking_uri"])
    (tmp_path / "a.webm").write_bytes(b"video")
    for layout in ("heads", "overview"):
        run.put_video(tmp_path / "a.webm", layout=layout, last_step=7)
    note = stored(run).data.tags["mlflow.note.content"]
    for layout in ("heads", "overview"):
        assert f"[{layout}](#{run.url(f'{layout}.webm').partition('#')[2]})" in note
    client.set_tag(run.ref.path, "mlflow.note.content", note + "my own remark")
    run.put_video(tmp_path / "a.webm", layout="mlp", last_step=7)
    assert stored(run).data.tags["mlflow.note.content"] == note + "my own remark"
    assert run.set_note("ours") is False


def test_of_two_that_draw_a_run_at_once_the_note_lists_both_pictures(
    run, embedded, tmp_path, monkeypatch
):
    """As ``render -m layout=heads,ffn hydra/launcher=joblib`` does: the one writes the note last,
    and listed the files first."""
    other = MlflowTracker(embedded, "contract").open_run(run.ref)
    (tmp_path / "a.webm").write_bytes(b"video")
    set_note, first = MlflowRun.set_note, iter([True])

    def late(writing, markdown):
        if writing is run and next(first, False):
            other.put_video(tmp_path / "a.webm", layout="ffn", last_step=7)
        return set_note(writing, markdown)

    monkeypatch.setattr(MlflowRun, "set_note", late)
    run.put_video(tmp_path / "a.webm", layout="heads", last_step=7)
    note = stored(run).data.tags["mlflow.note.content"]
    assert "[ffn]" in note
    assert "[heads]" in note


def test_the_note_shows_the_animation_and_the_heads_that_took_a_role(run, tmp_path):
    (tmp_path / "heads.webp").write_bytes(b"RIFF")
    (tmp_path / "heads.html").write_text("<p>")
    (tmp_path / "table.csv").write_text(
        "head,role,onset_step,margin\nL00H00,,,\nL00H01,previous_token,320,0.41\nL01H02,induction,560,0.87\n"
    )
    run.put_file(tmp_path / "heads.webp", "heads.webp")
    run.put_file(tmp_path / "heads.html", "heads.html")
    run.put_file(tmp_path / "table.csv", "head_roles.csv")
    run.put_file(tmp_path / "heads.html", "elsewhere/not-noted.html")
    title, table, picture = stored(run).data.tags["mlflow.note.content"].split("\n\n", 2)
    assert "page to explore [heads](#/experiments/" in title
    assert "[every head's scores](#/experiments/" in title
    assert table.index("| L01H02 | induction | 560 | 0.87 |") < table.index(
        "| L00H01 | previous token | 320 | 0.41 |"
    )
    assert "L00H00" not in table
    assert picture.startswith(f"![heads](get-artifact?path=heads.webp&run_uuid={run.ref.path})")
    assert "not-noted" not in title + picture


def test_what_people_broke_in_tags_and_files_breaks_no_upload(run, tmp_path):
    run.link_inputs([run.ref])
    MlflowClient(run.environment["tracking_uri"]).set_tag(
        run.ref.path, "tracker_viz.inputs", "edited by hand"
    )
    (tmp_path / "a.webm").write_bytes(b"video")
    run.put_video(tmp_path / "a.webm", layout="heads", last_step=7)
    note = stored(run).data.tags["mlflow.note.content"]
    assert note.startswith("**While these models trained** (tracker_viz): video [heads](")
    assert f"Made of the captures of [{run.ref.path[:8]}](#/runs/{run.ref.path})." in note
    run._files.in_place("compare/inputs.json").unlink()
    run.put_video(tmp_path / "a.webm", layout="overview", last_step=7)
    assert (
        stored(run)
        .data.tags["mlflow.note.content"]
        .startswith("**While this model trained** (tracker_viz): video [heads](")
    )
