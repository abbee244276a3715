"""Where people are led to, and what a run's overview page says."""

from __future__ import annotations

from mlflow import MlflowClient

from tracker_viz.trackers import connect
from tracker_viz.trackers.mlflow.run_note import RunNote
from tracker_viz.trackers.mlflow.tracker import MlflowTracker
from tracker_viz.types import RunRef


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
    linked = connect(
        "mlflow",
        tracking_uri=embedded,
        experiment="contract",
        ui_url="https://u:pw@ml.example/prefix/",
    ).create_run(name="a", config={})
    assert linked.url().startswith("https://ml.example/prefix/#/experiments/")
    assert linked.ui_command is None
    monkeypatch.setenv("TRACKER_VIZ_MLFLOW_UI_URL", "https://other.example")
    assert MlflowTracker(embedded).open_run(linked.ref).url().startswith("https://other.example/#/")


def test_the_runs_note_lists_its_videos_and_never_overwrites_a_persons(run, tmp_path):
    client = MlflowClient(run.environment["tracking_uri"])
    (tmp_path / "a.webm").write_bytes(b"video")
    for layout in ("heads", "overview"):
        run.put_video(tmp_path / "a.webm", layout=layout, last_step=7)
    note = stored(run).data.tags["mlflow.note.content"]
    heads, overview = (run.url(f"{name}.webm").partition("#")[2] for name in ("heads", "overview"))
    assert note.startswith(
        f"**[▶ Watch this model learn: overview](#{overview})** · [heads](#{heads})"
    )
    client.set_tag(run.ref.path, "mlflow.note.content", note + "my own remark")
    run.put_video(tmp_path / "a.webm", layout="mlp", last_step=7)
    assert stored(run).data.tags["mlflow.note.content"] == note + "my own remark"
    assert run._note.put("ours") is False


def test_of_two_that_draw_a_run_at_once_the_note_lists_both_pictures(
    run, embedded, tmp_path, monkeypatch
):
    """As ``render -m layout=heads,ffn hydra/launcher=joblib`` does: the one writes the note last,
    and listed the files first."""
    other = MlflowTracker(embedded, "contract").open_run(run.ref)
    (tmp_path / "a.webm").write_bytes(b"video")
    put, first = RunNote.put, iter([True])

    def late(writing, markdown):
        if writing is run._note and next(first, False):
            other.put_video(tmp_path / "a.webm", layout="ffn", last_step=7)
        return put(writing, markdown)

    monkeypatch.setattr(RunNote, "put", late)
    run.put_video(tmp_path / "a.webm", layout="heads", last_step=7)
    note = stored(run).data.tags["mlflow.note.content"]
    assert "ffn](#" in note
    assert "heads](#" in note


def test_the_note_shows_the_animation_and_the_heads_that_took_a_role(run, tmp_path):
    (tmp_path / "heads.webp").write_bytes(b"RIFF")
    (tmp_path / "heads.html").write_text("<p>")
    (tmp_path / "table.csv").write_text(
        "head,role,onset_after,onset_step,margin\nL00H00,,,,\nL00H01,previous_token,,320,0.41\n"
        "L01H01,induction,,,0.5\nL01H02,induction,480,560,0.87\n"
    )
    run.put_file(tmp_path / "heads.webp", "heads.webp")
    run.put_file(tmp_path / "heads.html", "heads.html")
    run.put_file(tmp_path / "table.csv", "head_roles.csv")
    run.put_file(tmp_path / "heads.html", "elsewhere/not-noted.html")
    note = stored(run).data.tags["mlflow.note.content"]
    title, sentences, picture, table = note.split("\n\n", 3)
    assert title.startswith("[explore heads](#/experiments/")
    assert "[every head's scores](#/experiments/" in title
    assert sentences.splitlines() == [
        "**Induction**: 2 heads. The strongest, L1H2 (0.87 above chance), "
        "took the role between steps 480 and 560.  ",
        "**Previous token**: L0H1 (0.41 above chance) took the role by step 320.",
    ]
    assert picture == f"![heads](get-artifact?path=heads.webp&run_uuid={run.ref.path})"
    rows = table.replace("&emsp;", "").splitlines()
    assert rows[2:5] == [
        "| L1H2 | induction | 560 | 0.87 |",
        "| L1H1 | induction |  | 0.50 |",
        "| L0H1 | previous token | 320 | 0.41 |",
    ]
    assert "L0H0" not in table
    assert "not-noted" not in note


def test_the_note_tells_the_events_in_the_words_of_the_film(run, tmp_path):
    texts = ["0–3: loss falls 5.6 → 4.1", "472–508: L1H3 looks back, 4 heads in the end"]
    (tmp_path / "events.csv").write_text(
        "first_step,last_step,event,text,heads\n"
        f'0,3,loss falls,{texts[0]},\n472,508,induction,"{texts[1]}",L1H3\n'
    )
    (tmp_path / "heads.csv").write_text("head,role,onset_step,margin\nL01H03,induction,508,0.8\n")
    run.put_file(tmp_path / "heads.csv", "head_roles.csv")
    run.put_file(tmp_path / "events.csv", "events.csv")
    note = stored(run).data.tags["mlflow.note.content"]
    assert f"\n\n**loss falls** · {texts[0]}  \n**induction** · {texts[1]}\n\n" in note


def test_the_note_of_a_sweeps_run_shows_the_poster_and_the_runs_by_their_labels(run, tmp_path):
    (tmp_path / "poster.png").write_bytes(b"PNG")
    (tmp_path / "a.webm").write_bytes(b"video")
    (tmp_path / "runs.csv").write_text(
        "run,label,loss,onset/induction,onset/sink,heads_specialised\n"
        "mlflow:aa,seed=0 | x,1.23456,480,,7\nwandb:me/p/b,seed=1,1.5,,,0\n"
    )
    run.put_file(tmp_path / "runs.csv", "compare/runs.csv")
    run.put_file(tmp_path / "poster.png", "compare/poster.png")
    run.put_video(tmp_path / "a.webm", layout="compare", last_step=7)
    run.link_inputs([RunRef("mlflow", "aa"), RunRef("wandb", "me/p/b")])
    title, table, picture = stored(run).data.tags["mlflow.note.content"].split("\n\n", 2)
    assert title.startswith("**[▶ Watch 2 models learn: compare](#/experiments/")
    assert picture.startswith("![poster](get-artifact?path=compare/poster.png&run_uuid=")
    assert table.replace("&emsp;", "").splitlines()[:4] == [
        "| run | loss | heads with a role | induction since step |",
        "| --- | --- | --- | --- |",
        "| [seed=0 / x](#/runs/aa) | 1.23 | 7 | 480 |",
        "| `seed=1` | 1.5 | 0 | never |",
    ]


def test_what_people_broke_in_tags_and_files_breaks_no_upload(run, tmp_path):
    run.link_inputs([run.ref])
    MlflowClient(run.environment["tracking_uri"]).set_tag(
        run.ref.path, "mlflow.tracker_viz.inputs", "edited by hand"
    )
    (tmp_path / "a.webm").write_bytes(b"video")
    run.put_video(tmp_path / "a.webm", layout="heads", last_step=7)
    note = stored(run).data.tags["mlflow.note.content"]
    assert note.startswith("**[▶ Watch this model learn: heads](")
    assert f"Made from the captures of [a](#/runs/{run.ref.path})." in note
    run._files.in_place("compare/inputs.json").unlink()
    run.put_video(tmp_path / "a.webm", layout="overview", last_step=7)
    note = stored(run).data.tags["mlflow.note.content"]
    assert note.startswith("**[▶ Watch this model learn: overview](")
    assert "captures of" not in note
