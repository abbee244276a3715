"""W&B shows more than the video in a run: tables, key frames, pictures and pages, by
the real client against the stand-in."""

from __future__ import annotations

import copy
import json
import struct
import zlib

import pytest
import wandb
from wandb_server.fixtures import train, wandb_server, wandb_service  # noqa: F401

from tracker_viz.errors import ConfigError, TrackerError, TransientTrackerError
from tracker_viz.trackers.wandb import session, snapshot
from tracker_viz.trackers.wandb.tracker import WandbTracker
from tracker_viz.types import RunRef

TABLE, FRAMES = "tracker_viz/tables/head_roles", "tracker_viz/frames/heads"


@pytest.fixture
def tracker(wandb_server):
    return WandbTracker()


def opened(run):
    """As another process would reach the run."""
    return WandbTracker().open_run(RunRef("wandb", run.path))


def png(path, shade):
    """One gray pixel, eight bits deep."""

    def chunk(kind, contents):
        return (
            struct.pack(">I", len(contents))
            + kind
            + contents
            + struct.pack(">I", zlib.crc32(kind + contents))
        )

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes([0, shade])))
        + chunk(b"IEND", b"")
    )
    return path


@pytest.fixture
def frames(tmp_path):
    return [(step, png(tmp_path / f"frame-{step}.png", step // 2)) for step in (200, 0, 100)]


def shown(run, key=FRAMES):
    """Training step -> bytes, of every row with a picture under ``key``."""
    return [
        (row["tracker_viz/step"], run.files[row[key]["path"]]) for row in run.history if key in row
    ]


def axis(run, key):
    definitions = run.config["_wandb"]["value"]["m"]
    return next(
        definitions[definition["5"] - 1]["1"]
        for definition in definitions
        if definition.get("1") == key
    )


# -- tables ----------------------------------------------------------------------------------------


def test_a_table_stands_in_a_panel_and_in_an_artifact_and_the_newest_counts(wandb_server):
    theirs = train(wandb_server)
    before = copy.deepcopy(theirs)
    for onset in (None, 560):
        opened(theirs).put_table(
            [
                {"head": "L0H0", "score": 0.25, "onset": None},
                {"head": "L1H0", "score": 1, "onset": onset},
            ],
            "head_roles",
        )
    panel = theirs.summary[TABLE]
    assert panel["_type"] == "table-file"
    stored = json.loads(theirs.files[panel["path"]])
    assert stored == {
        "columns": ["head", "score", "onset"],
        "data": [["L0H0", 0.25, None], ["L1H0", 1, 560]],
    }
    (*_, newest) = wandb_server.artifacts(theirs.path, "run_table")
    (contents,) = newest.files.values()
    kept = json.loads(contents)
    assert kept["data"] == stored["data"]
    columns = kept["column_types"]["params"]["type_map"]
    types = {
        name: {each["wb_type"] for each in column["params"]["allowed_types"]}
        for name, column in columns.items()
    }
    assert types == {
        "head": {"string", "none"},
        "score": {"number", "none"},
        "onset": {"number", "none"},
    }
    assert theirs.state == before.state
    assert theirs.history[: len(before.history)] == before.history
    assert theirs.config.keys() == before.config.keys()


def test_a_table_whose_artifact_the_service_refused_is_no_table(wandb_server, tracker, monkeypatch):
    """The panel reads from the artifact, whatever the row says."""

    def refuse(*_):
        raise LookupError("no room")

    run = tracker.create_run(name="own", config={})
    monkeypatch.setattr(wandb_server.state, "commit", refuse)
    with pytest.raises(TrackerError, match="no room"):
        run.put_table([{"head": "L0H0"}], "head_roles")
    monkeypatch.undo()
    del wandb_server.refused[:]
    run.finish("finished")


def test_cells_that_a_table_of_wandb_cannot_hold_become_text_or_empty(wandb_server, tracker):
    run = tracker.create_run(name="own", config={})
    run.put_table(
        [
            {"mixed": "none", "score": float("nan")},
            {"mixed": 4, "score": 0.5},
            {"mixed": None, "score": float("inf")},
        ],
        "odd",
    )
    run.finish("finished")
    stored = wandb_server.run(run.ref.path)
    text = stored.files[stored.summary["tracker_viz/tables/odd"]["path"]].decode()
    assert json.loads(text, parse_constant=pytest.fail)["data"] == [
        ["none", None],
        ["4", 0.5],
        [None, None],
    ]


# -- key frames ------------------------------------------------------------------------------------


@pytest.mark.parametrize("maker", ["ours", "theirs"])
def test_key_frames_are_rows_on_the_training_step(wandb_server, tracker, frames, maker):
    if maker == "ours":
        made = tracker.create_run(name="own", config={})
        made.finish("failed")
        run = wandb_server.run(made.ref.path)
    else:
        run = train(wandb_server, counted=False, exit_code=1)
    before = copy.deepcopy(run)
    link = opened(run).put_key_frames(frames, "heads")
    assert link == opened(run).url()
    assert shown(run) == [(step, path.read_bytes()) for step, path in sorted(frames)]
    assert axis(run, FRAMES) == "tracker_viz/step"
    assert run.state == before.state == "failed"
    assert run.history[: len(before.history)] == before.history


def test_key_frames_that_are_put_again_are_not_doubled_and_one_that_changed_is_added(
    wandb_server, frames
):
    theirs = train(wandb_server, counted=False)
    opened(theirs).put_key_frames(frames[:2], "heads")
    opened(theirs).put_key_frames(frames, "heads")  # one of them is new
    before = shown(theirs)
    assert [step for step, _ in before] == [0, 200, 100]
    resumed = wandb_server.counts()["RunResumeStatus"]
    opened(theirs).put_key_frames(frames, "heads")
    assert shown(theirs) == before
    assert wandb_server.counts()["RunResumeStatus"] == resumed  # not even touched
    png(frames[0][1], 255)
    opened(theirs).put_key_frames(frames, "heads")
    opened(theirs).put_key_frames(frames, "heads")
    assert shown(theirs) == [*before, (200, frames[0][1].read_bytes())]
    opened(theirs).put_key_frames(frames[:1], "ffn")  # a panel of its own
    assert shown(theirs, "tracker_viz/frames/ffn") == [(200, frames[0][1].read_bytes())]


def test_key_frames_share_one_row_where_a_loop_counts_its_own_steps(wandb_server, frames):
    """It may go on some day, and would lose as many rows as were added here."""
    theirs = train(wandb_server, steps=4)
    for _ in range(2):
        opened(theirs).put_key_frames(frames, "heads")
    (gallery,) = theirs.values(FRAMES)
    assert gallery["captions"] == ["step 0", "step 100", "step 200"]
    assert [theirs.files[path] for path in gallery["filenames"]] == [
        path.read_bytes() for _, path in sorted(frames)
    ]
    assert [row["_step"] for row in theirs.history] == [0, 1, 2, 3, 4]
    png(frames[2][1], 255)
    opened(theirs).put_key_frames(frames, "heads")
    assert len(theirs.values(FRAMES)) == 2
    assert len(theirs.values(FRAMES)[1]["filenames"]) == 3


def test_a_run_that_does_not_say_who_counted_its_steps_is_taken_for_one_that_did_itself(
    wandb_server, frames
):
    theirs = train(wandb_server, counted=False)
    del theirs.config["_wandb"]["value"]["t"]["3"]
    opened(theirs).put_key_frames(frames, "heads")
    assert [len(gallery["filenames"]) for gallery in theirs.values(FRAMES)] == [3]


def test_key_frames_in_a_going_run_that_counts_its_steps_move_no_counter(wandb_server, frames):
    run = wandb.init(project="theirs", settings=wandb.Settings(silent=True, console="off"))
    run.log({"loss": 1.0}, step=7)
    for _ in range(2):
        WandbTracker().open_run(RunRef("wandb", f"tester/theirs/{run.id}")).put_key_frames(
            frames, "heads"
        )
    run.log({"more": 2.0}, step=7)
    run.log({"loss": 0.5}, step=8)
    run.finish()
    stored = wandb_server.run(f"tester/theirs/{run.id}")
    assert [(row["_step"], row.get("loss"), row.get("more")) for row in stored.history] == [
        (7, 1.0, 2.0),
        (8, 0.5, None),
    ]
    assert [len(gallery["filenames"]) for gallery in stored.values(FRAMES)] == [3]


@pytest.mark.parametrize("ours", [True, False])
def test_key_frames_in_a_going_run_are_not_doubled_before_the_service_shows_them(
    wandb_server, tracker, frames, ours
):
    if ours:
        going = tracker.create_run(name="own", config={})
        path = going.ref.path
    else:
        run = wandb.init(project="theirs", settings=wandb.Settings(silent=True, console="off"))
        run.log({"loss": 1.0})
        path = f"tester/theirs/{run.id}"
    for _ in range(2):
        WandbTracker().open_run(RunRef("wandb", path)).put_key_frames(frames, "heads")
    going.finish("finished") if ours else run.finish()
    assert [step for step, _ in shown(wandb_server.run(path))] == [0, 100, 200]


def test_key_frames_of_an_offline_run_are_logged_once(wandb_server, tracker, frames, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = tracker.create_run(name="offline", config={})
    for _ in range(2):
        run.put_key_frames(frames, "heads")
    run.put_table([{"head": "L0H0"}], "head_roles")
    with pytest.raises(TransientTrackerError, match="offline"):
        run.link_inputs([RunRef("mlflow", "0" * 32)])
    media = list(
        (session.sync_directory(run._sdk_run) / "files" / "media" / "images").rglob("*.png")
    )
    assert sorted(path.read_bytes() for path in media) == sorted(
        path.read_bytes() for _, path in frames
    )
    run.finish("finished")


def test_rows_that_show_late_are_waited_for(wandb_server, frames):
    theirs = train(wandb_server, counted=False)
    wandb_server.pages_behind = 2
    opened(theirs).put_key_frames(frames, "heads")
    assert wandb_server.pages_behind == 0
    opened(theirs).put_key_frames(frames, "heads")
    assert len(shown(theirs)) == 3


def test_more_key_frames_than_one_row_holds_are_refused_where_they_have_to_share_one(
    wandb_server, tmp_path
):
    theirs = train(wandb_server, steps=1)
    picture = png(tmp_path / "frame.png", 0)
    with pytest.raises(ConfigError, match="108 key frames; got 109"):
        opened(theirs).put_key_frames([(step, picture) for step in range(109)], "heads")
    assert theirs.values(FRAMES) == []
    assert theirs.state == "finished"


@pytest.mark.parametrize("steps", [[], [3, 3]])
def test_key_frames_that_cannot_be_are_refused_before_anything_is_sent(
    wandb_server, tracker, tmp_path, steps
):
    theirs = train(wandb_server, steps=1)
    sent = len(wandb_server.requests)
    run = WandbTracker(base_url=wandb_server.base_url).open_run(RunRef("wandb", theirs.path))
    opening = len(wandb_server.requests) - sent
    with pytest.raises(ConfigError, match="key frames"):
        run.put_key_frames([(step, png(tmp_path / "frame.png", 0)) for step in steps], "heads")
    assert len(wandb_server.requests) == sent + opening


# -- files that the service lost -------------------------------------------------------------------


def test_media_that_were_lost_on_the_way_are_missed_and_can_be_put_again(
    wandb_server, frames, tmp_path, monkeypatch
):
    monkeypatch.setattr(snapshot, "VISIBLE_S", 1.0)
    theirs = train(wandb_server, counted=False)
    (tmp_path / "heads.webm").write_bytes(b"\x1aE\xdf\xa3 video")
    for suffix, put in {
        "webm": lambda: opened(theirs).put_video(
            tmp_path / "heads.webm", layout="heads", last_step=3
        ),
        "json": lambda: opened(theirs).put_table([{"head": "L0H0"}], "head_roles"),
        "png": lambda: opened(theirs).put_key_frames(frames, "heads"),
    }.items():
        wandb_server.loses = suffix
        with pytest.raises(TransientTrackerError, match=rf"\.{suffix}.* does not hold"):
            put()
        wandb_server.loses = ""
        put()
    assert (
        theirs.files[theirs.summary["tracker_viz/heads"]["path"]]
        == (tmp_path / "heads.webm").read_bytes()
    )
    assert theirs.state == "finished"


# -- pictures and pages ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("heads.png", "image-file"),
        ("heads.webp", "image-file"),
        ("heads.gif", "video-file"),
        ("heads.html", "html-file"),
    ],
)
def test_whatever_render_makes_has_a_panel_of_its_own_beside_the_video(
    wandb_server, tmp_path, name, kind
):
    from PIL import Image

    theirs = train(wandb_server, steps=1)
    picture = tmp_path / name
    if name.endswith("html"):
        picture.write_text("<html><head></head><p>a page</p></html>")
    else:
        Image.new("RGB", (4, 4)).save(picture, save_all=name != "heads.png")
    (tmp_path / "heads.webm").write_bytes(b"\x1aE\xdf\xa3")
    run = opened(theirs)
    assert run.put_file(picture, f"compare/{name}").endswith(f"/files/compare/{name}")
    run.put_video(tmp_path / "heads.webm", layout="heads", last_step=3)
    panel = theirs.summary[f"tracker_viz/compare/{name.replace('.', '_')}"]
    assert panel["_type"] == kind
    assert theirs.files[panel["path"]] == theirs.files[f"compare/{name}"] == picture.read_bytes()
    assert theirs.summary["tracker_viz/heads"]["_type"] == "video-file"


def test_a_file_that_nobody_looks_at_resumes_no_run(wandb_server, tmp_path):
    theirs = train(wandb_server, steps=1)
    before = copy.deepcopy(theirs)
    (tmp_path / "runs.csv").write_text("a,b")
    opened(theirs).put_file(tmp_path / "runs.csv", "compare/runs.csv")
    assert theirs.files.pop("compare/runs.csv") == b"a,b"
    assert theirs == before
