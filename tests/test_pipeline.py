"""The whole line in one process: a small model is watched, its captures come back, a video lands in
the same run."""

from __future__ import annotations

import inspect
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from torch import nn

import tracker_viz as tv
from tracker_viz import capture_file
from tracker_viz.delivery import Outbox
from tracker_viz.demo.model import Decoder, ModelConfig
from tracker_viz.errors import (
    CaptureError,
    ConfigError,
    MissingDependencyError,
    ProbeError,
    RenderError,
    RunNotFoundError,
    TrackerError,
    TransientTrackerError,
    UnsupportedModelError,
)
from tracker_viz.pipeline import (
    ComparisonOptions,
    PictureOptions,
    VideoOptions,
    compare,
    put_sweep_page,
    render,
    render_command,
    render_sweep,
)
from tracker_viz.pipeline.load import pulled_captures
from tracker_viz.pipeline.render import film_name
from tracker_viz.pipeline.results.in_step import put_in_step_page
from tracker_viz.trackers import connect, open_run
from tracker_viz.trackers.local import LocalRun
from tracker_viz.types import capture_step

SMALL = {"size": "640x360", "hold_s": 0.5}


@pytest.fixture(autouse=True)
def _own_directories(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRACKER_VIZ_CACHE", str(tmp_path / "cache"))


def make_model():
    torch.manual_seed(0)
    return Decoder(
        ModelConfig(
            n_blocks=2,
            n_heads=2,
            n_kv_heads=1,
            d_model=16,
            d_ffn=32,
            context_length=32,
            vocab_size=40,
        )
    )


def train(model, watcher, steps):
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for step in steps:
        batch = torch.randint(40, (4, 17), generator=generator)
        loss = nn.functional.cross_entropy(
            model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        watcher.step(step, tokens_seen=64 * (step + 1), loss=loss)


def watch(model, **options):
    return tv.watch(
        model,
        **{
            "run": "local",
            "every": 2,
            "total_steps": 6,
            "max_overhead": float("inf"),
            "spool": "spool",
            "start_timeout_s": 600.0,  # a run that is deleted, or listed, must be there
            **options,
        },
    )


@pytest.fixture
def watched(tmp_path):
    model = make_model()
    with watch(model, name="a run") as watcher:
        train(model, watcher, range(6))
    return watcher


def test_what_was_captured_comes_back_in_order(watched):
    captures = list(tv.load_captures(watched.ref))
    assert [capture.step for capture in captures] == [0, 2, 4, 6]
    assert all(np.isfinite(capture.metrics["loss"]) for capture in captures)
    pattern = captures[-1].arrays["blocks.1.attn.pattern"].astype(np.float32)
    assert pattern.shape[1:] == (2, 32, 32)
    np.testing.assert_allclose(pattern.sum(-1), 1, atol=2e-3)
    assert captures[-1].arrays["scores.head.previous_token"].shape == (2, 2)
    assert not np.array_equal(
        captures[0].arrays["blocks.0.mlp.w_gate"], captures[-1].arrays["blocks.0.mlp.w_gate"]
    )


def test_scoring_and_writing_are_charged_to_training_that_has_no_core_to_spare(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: {0})
    model = make_model()
    with watch(model) as watcher:
        train(model, watcher, range(1))
        watcher.outbox.flush()
        before_s = watcher.outbox.background_s
        train(model, watcher, range(1, 4))
        watcher.outbox.flush()
        charged_s = watcher.outbox.background_s - before_s
        train(model, watcher, range(4, 6))
    assert 0 < charged_s < watcher.recorder.governor.spent_s


def test_captures_are_loaded_from_what_watch_returned(watched):
    assert [capture.step for capture in tv.load_captures(watched)] == [0, 2, 4, 6]


def test_chosen_arrays_are_loaded_alone(watched):
    capture = next(iter(tv.load_captures(watched.ref, names=["scores.head.induction"])))
    assert list(capture.arrays) == ["scores.head.induction"]


def test_an_array_that_no_capture_has_is_named_with_the_nearest(watched):
    with pytest.raises(ConfigError, match=r"unknown array .*did you mean 'scores.head.induction'"):
        next(tv.load_captures(watched.ref, names=["scores.head.inductoin"]))


def test_the_video_lands_in_the_same_run(watched):
    result = render(watched.ref, video=SMALL, progress=False)
    run_directory = Path(watched.ref.path)
    assert result.path.read_bytes() == (run_directory / "overview.webm").read_bytes()
    assert (run_directory / "videos/overview/step_00000006.webm").exists()
    assert result.n_captures == 4
    assert result.url


def test_the_path_of_a_local_runs_video_is_in_the_runs_directory(watched, tmp_path):
    assert tv.render(watched, progress=False).path == Path(watched.ref.path) / "overview.webm"
    output = tmp_path / "here.webm"
    assert tv.render(watched, output=output, progress=False).path == output


def test_a_script_is_told_once_where_its_captures_and_its_video_are(caplog):
    caplog.set_level("INFO", "tracker_viz")
    watcher = watch(make_model(), spool="mine")
    watcher.step(0)
    watcher.close()
    watcher.close()
    directory = Path("mine").resolve()
    command = f"tracker-viz render run=local:{directory}"
    (line,) = [line for line in caplog.messages if "make the video with" in line]
    assert line == f"2 captures are in local:{directory}; make the video with: {command}"

    film = tv.render(watcher, progress=False)
    (line,) = [line for line in caplog.messages if "watch it at" in line]
    made = f"overview.webm, made of 2 captures of local:{directory}"
    assert line == f"{made}: watch it at {film.path.as_uri()}"


def test_a_script_that_renders_at_once_is_only_told_where_the_video_is(caplog):
    caplog.set_level("INFO", "tracker_viz")
    watcher = watch(make_model())
    watcher.step(0)
    tv.render(watcher, progress=False)
    watcher.close()
    assert "make the video with" not in caplog.text
    assert caplog.text.count("watch it at") == 1


def test_a_video_that_is_not_uploaded_lies_where_it_was_asked_for(watched, tmp_path):
    made = tv.render(
        str(watched.ref), video=SMALL, upload=False, output=tmp_path / "here.webm", progress=False
    )
    assert made.path == tmp_path / "here.webm"
    assert os.stat(made).st_size > 1000, "the result is a path itself"
    assert str(made) == str(made.path)
    assert not (Path(watched.ref.path) / "overview.webm").exists()


def test_rendering_loads_neither_torch_nor_a_trackers_sdk(watched):
    program = (
        "import sys, tracker_viz as tv; tv.render(sys.argv[1], upload=False, progress=False, "
        "video={'size': '640x360'});"
        "print([name for name in ('torch', 'mlflow', 'wandb', 'hydra') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(watched.ref)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_a_damaged_capture_leaves_a_gap_and_not_a_failure(watched):
    damaged = Path(watched.ref.path) / "captures/step-00000004.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    result = render(watched.ref, video=SMALL, upload=False, progress=False)
    assert (result.n_captures, result.missing_steps) == (3, (4,))


def test_a_damaged_capture_is_marked_in_the_picture(watched, tmp_path):
    capture = Path(watched.ref.path) / "captures/step-00000004.safetensors"
    capture.write_bytes(capture.read_bytes()[:-100])
    damaged = tv.render(
        watched.ref,
        format="poster",
        video=SMALL,
        upload=False,
        output=tmp_path / "damaged.png",
        progress=False,
    )
    capture.unlink()
    gone = tv.render(
        watched.ref,
        format="poster",
        video=SMALL,
        upload=False,
        output=tmp_path / "gone.png",
        progress=False,
    )
    assert damaged.path.read_bytes() != gone.path.read_bytes()


def test_a_video_that_is_larger_than_allowed_is_made_smaller_and_says_so(watched):
    (picture,) = render(
        watched.ref,
        layout="weights",  # all of whose cells change
        video={"size": "2560x1440", "interpolate": 3, "max_mb": 1},
        upload=False,
        progress=False,
    ).pictures
    assert picture.path.stat().st_size <= 1 << 20
    assert "at most 1.0" in picture.notice


def test_captures_are_cut_to_the_size_that_was_chosen(watched):
    model = make_model()
    with watch(model, max_mb=0.02, spool="small") as small:
        train(model, small, range(6))
    whole, cut = (list(tv.load_captures(run.ref))[-1] for run in (watched, small))
    assert whole.arrays["blocks.0.attn.pattern"].shape[1] == 2
    assert cut.arrays["blocks.0.attn.pattern"].shape[1] == cut.model["cut"]["heads"] == 1


def test_a_run_that_is_gone_on_with_captures_nothing_twice(watched):
    model = make_model()
    with watch(model, start_step=4, total_steps=10) as again:
        assert again.captured_steps == [0, 2, 4, 6]
        train(model, again, range(4, 10))
    captures = {capture.step: capture for capture in tv.load_captures(again.ref)}
    assert sorted(captures) == [0, 2, 4, 6, 8, 10]
    # Change is still measured from the run's first capture, which another process took.
    first, last = (
        captures[step].arrays["blocks.0.mlp.w_gate"].astype(np.float32) for step in (0, 10)
    )
    column = captures[10].labels["projection"].index("mlp.w_gate")
    distance = captures[10].arrays["scores.weight.distance"][0, column]
    assert distance == pytest.approx(np.linalg.norm(last - first) / np.linalg.norm(first), rel=1e-2)


def test_a_run_whose_captures_hold_samples_is_gone_on_with_from_the_same_first_sample():
    model = make_model()
    small = {"max_mb": 0.082}
    with watch(model, **small) as watcher:
        train(model, watcher, range(6))
    with watch(model, start_step=6, total_steps=10, **small) as again:
        train(model, again, range(6, 10))
    captures = {capture.step: capture for capture in tv.load_captures(again.ref)}
    first, last = (
        captures[step].arrays["blocks.0.mlp.w_gate"].astype(np.float32) for step in (0, 10)
    )
    assert first.shape < (32, 16)
    column = captures[10].labels["projection"].index("mlp.w_gate")
    distances = [
        captures[step].arrays["scores.weight.distance"][0, column] for step in (4, 6, 8, 10)
    ]
    assert distances[-1] == pytest.approx(
        np.linalg.norm(last - first) / np.linalg.norm(first), rel=2e-2
    )
    assert distances == sorted(distances), "it goes on where it was"


def test_a_model_that_cannot_be_captured_leaves_no_run_behind(tmp_path):
    with pytest.raises(UnsupportedModelError):
        watch(nn.Sequential(nn.Embedding(40, 8), nn.Linear(8, 40)))
    assert not (tmp_path / "spool").exists()


def test_a_model_without_a_configuration_can_be_watched_in_two_lines():
    class Gpt(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.positions = nn.Embedding(40, 16), nn.Embedding(24, 16)
            self.blocks = nn.TransformerEncoder(
                nn.TransformerEncoderLayer(16, 2, 32, batch_first=True),
                2,
                enable_nested_tensor=False,
            )
            self.head = nn.Linear(16, 40)

        def forward(self, ids):
            length = ids.shape[1]
            mask = nn.Transformer.generate_square_subsequent_mask(length)
            return self.head(
                self.blocks(
                    self.tokens(ids) + self.positions(torch.arange(length)),
                    mask=mask,
                    is_causal=True,
                )
            )

    model = Gpt()
    with watch(model) as watcher:
        train(model, watcher, range(6))
    (*_, last) = tv.load_captures(watcher.ref)
    assert last.arrays["blocks.1.attn.pattern"].shape == (1, 2, 24, 24)
    assert np.isfinite(last.arrays["scores.head.induction"]).all()


def test_runs_that_begin_in_the_same_second_have_a_spool_each(monkeypatch):
    monkeypatch.setattr("time.strftime", lambda form: "20260101-000000")
    refs = []
    for number in range(2):
        with (
            watch(make_model(), spool=None, name="a job") as watcher,
            watch(make_model(), spool=None, name="a job") as beside,
        ):
            refs += [watcher.ref, beside.ref]
            assert watcher.captured_steps == beside.captured_steps == [0], (
                f"round {number} goes on with none of the others"
            )
    assert [Path(ref.path).name for ref in refs] == [
        f"a-job-20260101-000000{more}" for more in ("", "-2", "-3", "-4")
    ]


def test_a_probe_that_does_not_fit_leaves_no_run_behind(tmp_path):
    with pytest.raises(ProbeError):
        watch(make_model(), probe=torch.full((1, 16), 40))
    assert not (tmp_path / "spool").exists()


def test_an_exception_in_training_passes_through_and_marks_the_run_as_failed():
    model = make_model()
    with pytest.raises(RuntimeError, match="out of luck"), watch(model) as watcher:
        train(model, watcher, range(3))
        raise RuntimeError("out of luck")
    assert open_run(watcher.ref).info().state == "failed"
    assert [capture.step for capture in tv.load_captures(watcher.ref)] == [0, 2, 3]


def test_training_that_was_stopped_by_hand_is_marked_so():
    with pytest.raises(KeyboardInterrupt), watch(make_model()) as watcher:
        raise KeyboardInterrupt
    assert watcher.runs[0].info().state == "killed"


def test_several_runs_get_the_same_captures(mlflow_store):
    model = make_model()
    options = {"mlflow": {"tracking_uri": mlflow_store}, "local": {"directory": "runs"}}
    with watch(model, run=["mlflow", "local"], tracker_options=options) as watcher:
        train(model, watcher, range(6))
    schemes = [ref.scheme for ref in watcher.refs]
    assert schemes == ["mlflow", "local"]
    in_mlflow, in_local = (
        list(tv.load_captures(ref, tracker_options=options)) for ref in watcher.refs
    )
    assert (
        [capture.step for capture in in_mlflow]
        == [0, 2, 4, 6]
        == [capture.step for capture in in_local]
    )
    for one, other in zip(in_mlflow, in_local, strict=True):
        assert all(
            np.array_equal(one.arrays[name], other.arrays[name], equal_nan=True)
            for name in one.arrays
        )
    assert (
        render_command(watcher.runs[0])
        == f"tracker-viz render run={watcher.refs[0]} tracking_uri={mlflow_store}"
    )


@pytest.mark.parametrize(
    ("format", "name", "begins"),
    [
        ("poster", "heads.png", b"\x89PNG"),
        ("webp", "heads.webp", b"RIFF"),
        ("gif", "heads.gif", b"GIF8"),
        ("html", "heads.html", b"<!doctype"),
    ],
)
def test_other_formats_land_in_the_run_beside_the_video(watched, format, name, begins):
    result = render(watched.ref, layout="heads", format=format, video=SMALL, progress=False)
    stored = Path(watched.ref.path) / name
    assert stored.read_bytes() == result.path.read_bytes()
    assert stored.read_bytes()[: len(begins)].lower() == begins.lower()


def test_a_part_of_a_run_is_drawn_alone_and_leaves_the_whole_runs_film_and_table(watched):
    whole = render(watched.ref, video=SMALL, progress=False).path
    film = Path(watched.ref.path) / whole.name
    film_before = film.read_bytes()
    table = Path(watched.ref.path) / "tables"
    before = {path.name: path.read_bytes() for path in table.rglob("*") if path.is_file()}
    last = max(capture.step for capture in tv.load_captures(watched.ref))
    result = render(watched.ref, steps=(2, None), video=SMALL, progress=False)
    assert (
        result.n_captures == sum(capture.step >= 2 for capture in tv.load_captures(watched.ref)) < 4
    )
    steps = [capture.step for capture in tv.load_captures(watched.ref)]
    both_ends = pulled_captures(open_run(watched.ref), None, progress=False, steps=(2, last))
    assert [each.ref.step for each in both_ends.captures] == [s for s in steps if s >= 2]
    assert {path.name: path.read_bytes() for path in table.rglob("*") if path.is_file()} == before
    assert film.read_bytes() == film_before
    assert result.path.stem == "overview_steps_2-end"
    assert (Path(watched.ref.path) / result.path.name).exists()
    with pytest.raises(
        RenderError,
        match=rf"no capture in steps \[{last + 1}, None\]; its captures go from step 0 to {last}",
    ):
        render(watched.ref, steps=(last + 1, None), video=SMALL, progress=False)
    with pytest.raises(ConfigError, match=r"steps must be \[first, last\]"):
        render(watched.ref, steps=(5,), video=SMALL, progress=False)
    with pytest.raises(ConfigError, match="got 5"):
        render(watched.ref, steps=5, video=SMALL, progress=False)


def test_several_formats_are_made_of_one_pull_under_one_name(watched, tmp_path):
    result = render(
        watched.ref,
        format=["video", "poster"],
        video=SMALL,
        output=tmp_path / "out.webm",
        progress=False,
    )
    assert [picture.path for picture in result.pictures] == [
        tmp_path / "out.webm",
        tmp_path / "out.png",
    ]
    assert all(
        (Path(watched.ref.path) / name).is_file() for name in ("overview.webm", "overview.png")
    )
    assert [picture.duration_s > 0 for picture in result.pictures] == [True, False]


@pytest.fixture
def second(tmp_path):
    """Another run that shall get the same pictures."""
    return connect("local", directory=tmp_path / "second").create_run(name="second", config={})


def test_one_drawing_goes_into_several_runs(watched, second):
    result = render(watched.ref, also_into=[second.ref], video=SMALL, progress=False)
    assert [upload.ref for upload in result.pictures[0].uploads] == [watched.ref, second.ref]
    for name in ("overview.webm", "head_roles.csv"):
        assert (Path(second.ref.path) / name).read_bytes() == (
            Path(watched.ref.path) / name
        ).read_bytes()


def test_a_run_that_takes_no_picture_keeps_it_from_no_other(watched, second, tmp_path):
    (Path(watched.ref.path) / "overview.webm" / "in the way").mkdir(parents=True)
    with pytest.raises(
        TrackerError, match=r"here\.webm\), but not uploaded to every run: local:.*overview\.webm"
    ):
        render(
            watched.ref,
            also_into=[second.ref],
            video=SMALL,
            output=tmp_path / "here",
            progress=False,
        )
    assert (Path(second.ref.path) / "overview.webm").read_bytes() == (
        tmp_path / "here.webm"
    ).read_bytes()


def test_the_table_of_heads_is_there_when_training_ends(watched):
    lines = (Path(watched.ref.path) / "tables/head_roles.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "head",
        "L00H00",
        "L00H01",
        "L01H00",
        "L01H01",
    ]


def test_the_table_of_heads_lies_beside_the_video(watched):
    render(watched.ref, video=SMALL, progress=False)
    lines = (Path(watched.ref.path) / "head_roles.csv").read_text().splitlines()
    assert lines[0].startswith("head,role,onset_after,onset_step,margin,")
    assert [line.split(",")[0] for line in lines[1:]] == ["L00H00", "L00H01", "L01H00", "L01H01"]
    assert (Path(watched.ref.path) / "tables/head_roles.csv").read_text().splitlines() == lines


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "heads"),
        ({"theme": "light", "video": VideoOptions(size="720p")}, "heads"),
        ({"theme": "dark"}, "heads_dark"),
        ({"theme": "dark", "steps": (None, 40)}, "heads_dark_steps_0-40"),
    ],
)
def test_pictures_that_show_something_else_leave_the_film_of_the_whole_run(options, name):
    assert film_name("heads", PictureOptions(**options)) == name


@pytest.mark.parametrize("call", [render, render_sweep, compare, put_sweep_page, put_in_step_page])
def test_pictures_have_the_theme_of_the_options_where_a_call_names_none(call):
    """A theme is part of a film's name, so a call with another would make a second film."""
    default = PictureOptions.model_fields["theme"].default
    assert ComparisonOptions.model_fields["theme"].default == default
    assert inspect.signature(call).parameters["theme"].default == default


@pytest.mark.parametrize(("n", "steps"), [(12, [0, 2, 4, 6]), (2, [0, 6]), (0, [])])
def test_key_frames_lie_beside_the_video_at_their_steps(watched, n, steps):
    render(watched.ref, video=SMALL | {"key_frames": n}, progress=False)
    found = sorted((Path(watched.ref.path) / "key_frames/overview").glob("*.png"))
    assert [path.name for path in found] == [f"step_{step:08d}.png" for step in steps]


@pytest.mark.parametrize(
    ("format", "message"),
    [("htm", "did you mean 'html'"), (["video", "htm"], "'html'"), ([], "got none")],
)
def test_an_unknown_format_is_refused_with_the_near_one(watched, format, message):
    with pytest.raises(ConfigError, match=message):
        render(watched.ref, format=format, progress=False)


@pytest.mark.parametrize("steps", [range(6), range(1, 7)], ids=["from 0", "from 1"])
def test_loops_that_count_from_0_and_from_1_capture_the_same_steps(steps):
    model = make_model()
    with watch(model) as watcher:
        train(model, watcher, steps)
    assert [capture.step for capture in tv.load_captures(watcher.ref)] == [0, 2, 4, 6]


def test_the_runs_summary_says_what_became_of_its_heads_also_after_it_was_gone_on_with(watched):
    def summary():
        return json.loads((Path(watched.ref.path) / "summary.json").read_text())

    before = summary()
    assert before["specialisation/heads_specialised"] == 0
    model = make_model()
    with watch(model, start_step=6, total_steps=8) as again:
        train(model, again, range(6, 8))
    captures = list(tv.load_captures(watched.ref))
    highest = max(
        float(np.nanmax(capture.arrays["scores.head.previous_token"])) for capture in captures
    )
    assert len(captures) == 5
    assert summary()["specialisation/previous_token_max"] == pytest.approx(highest, rel=1e-6)


def test_a_job_of_a_sweep_is_watched_into_a_run_below_the_sweeps(mlflow_store, monkeypatch):
    options = {"mlflow": {"tracking_uri": mlflow_store}}
    sweep = connect("mlflow", **options["mlflow"]).create_run(name="sweep", config={})
    monkeypatch.setenv("TRACKER_VIZ_PARENT_RUNS", str(sweep.ref))
    model = make_model()
    with watch(model, run="mlflow", tracker_options=options) as watcher:
        train(model, watcher, range(2))
    assert sweep.children() == [watcher.ref]


def test_a_tracker_that_never_answers_leaves_the_spool_to_be_drawn():
    model = make_model()
    watcher = watch(
        model, run="mlflow", tracker_options={"mlflow": {"tracking_uri": "http://127.0.0.1:9"}}
    )
    train(model, watcher, range(6))
    report = watcher.close(timeout_s=0.5, progress=False)
    assert report.command.startswith("tracker-viz push spool=")
    (whole,) = watcher.whole_runs()
    assert whole.scheme == "local"
    assert render(whole, video=SMALL, progress=False).n_captures == 4


def test_a_server_that_hangs_is_waited_for_at_the_start_as_long_as_chosen(monkeypatch):
    monkeypatch.setattr(
        "tracker_viz.trackers.mlflow.service.PROBE_TIMEOUT_S", 3600.0
    )  # so that nothing else ends the wait
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        address = {"mlflow": {"tracking_uri": f"http://127.0.0.1:{hanging.getsockname()[1]}"}}
        watcher = watch(make_model(), run="mlflow", tracker_options=address, start_timeout_s=0.2)
        assert watcher.close(timeout_s=0.2, progress=False).deliveries[0].left > 0


@pytest.mark.parametrize("kept", [False, True])
def test_the_spools_copy_of_what_was_delivered_is_kept_where_that_is_asked_for(tmp_path, kept):
    model, elsewhere = make_model(), {"local": {"directory": str(tmp_path / "there")}}
    with watch(model, tracker_options=elsewhere, keep_captures=kept) as watcher:
        train(model, watcher, range(6))
    assert len(list(tv.load_captures(watcher.ref))) == 4
    assert len(watcher.outbox.run.list_captures()) == 4 * kept


def test_after_training_the_runs_that_have_everything_are_drawn(watched):
    assert watched.whole_runs() == [watched.ref]


def test_a_run_that_was_deleted_while_it_trained_is_not_drawn(mlflow_store):
    model = make_model()
    options = {"mlflow": {"tracking_uri": mlflow_store}, "local": {"directory": "runs"}}
    watcher = watch(model, run=["mlflow", "local"], tracker_options=options)
    train(model, watcher, range(3))
    MlflowClient(mlflow_store).delete_run(watcher.refs[0].path)
    train(model, watcher, range(3, 6))
    watcher.close(timeout_s=60, progress=False)
    assert [ref.scheme for ref in watcher.whole_runs()] == ["local"]


def save_checkpoints(directory, steps):
    """Save checkpoints as a training script without tracker_viz does."""
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    for step in range(max(steps) + 1):
        if step in steps:
            torch.save({"model": model.state_dict(), "step": step}, directory / f"ckpt_{step}.pt")
        nn.functional.cross_entropy(
            model(torch.arange(32)[None]).flatten(0, 1), torch.arange(32)
        ).backward()
        optimizer.step()


def test_checkpoints_that_were_saved_earlier_become_a_run(tmp_path):
    save_checkpoints(tmp_path, [3, 5, 8])
    done = tv.backfill(
        str(tmp_path / "ckpt_*.pt"), model=make_model(), run="local", spool="spool", progress=False
    )
    assert done.steps == (3, 5, 8)
    captures = list(tv.load_captures(done.runs[0].ref))
    assert [capture.step for capture in captures] == [3, 5, 8]
    saved = torch.load(tmp_path / "ckpt_5.pt")["model"]["blocks.0.mlp.up_proj.weight"]
    np.testing.assert_allclose(
        captures[1].arrays["blocks.0.mlp.w_up"].astype(np.float32),
        saved.numpy(),
        rtol=1e-3,
        atol=1e-5,
    )
    save_checkpoints(tmp_path, [9])
    again = tv.backfill(
        str(tmp_path / "ckpt_*.pt"), model=make_model(), run="local", spool="spool", progress=False
    )
    assert again.steps == (9,)


def test_a_checkpoint_of_another_model_leaves_no_run_behind(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "ckpt_1.pt")
    with pytest.raises(CaptureError, match="does not fit"):
        tv.backfill(
            str(tmp_path / "ckpt_*.pt"),
            model=make_model(),
            run="local",
            spool="spool",
            progress=False,
        )
    assert not (tmp_path / "spool").exists()


def test_a_metric_that_is_no_number_does_not_cost_the_first_capture():
    with watch(make_model()) as watcher:
        watcher.step(0, loss="unknown")
    assert next(capture.step for capture in tv.load_captures(watcher.ref)) == 0


def test_schedule_and_every_together_are_refused():
    from tracker_viz.capture import Schedule

    with pytest.raises(TypeError, match="unexpected keyword argument 'evry'"):
        tv.watch(make_model(), evry=2)
    with pytest.raises(ConfigError, match="not both"):
        watch(make_model(), schedule=Schedule.every(3))


def test_a_run_without_captures_says_so(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises((RenderError, RunNotFoundError)):
        render(f"local:{tmp_path / 'empty'}", progress=False)


@pytest.mark.parametrize("format", ["video", "poster", "html"])
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_pulled(
    watched, tmp_path, monkeypatch, format
):
    monkeypatch.setattr(
        sys.modules["tracker_viz.pipeline.render"],
        "pulled_captures",
        lambda *given, **options: pytest.fail("pulled"),
    )
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ConfigError, match=r"file/here\S* cannot be written: .*choose another with output="
    ):
        tv.render(
            str(watched.ref),
            upload=False,
            output=tmp_path / "file" / "here",
            format=format,
            progress=False,
        )
    assert (tmp_path / "file").read_text() == ""


def test_an_encoder_that_is_not_there_is_told_before_anything_is_pulled(watched, monkeypatch):
    monkeypatch.setattr(
        sys.modules["tracker_viz.pipeline.render"],
        "pulled_captures",
        lambda *given, **options: pytest.fail("pulled"),
    )
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingDependencyError, match=r"tracker-viz\[hq\]"):
        tv.render(str(watched.ref), upload=False, video={"encoder": "lossless"}, progress=False)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"size": "1081p"}, "size"),
        ({"encoder": "h265"}, "encoder"),
        ({"pace": "stepp"}, "did you mean 'step'"),
        ({"max_mb": 0}, "at least 1"),
        ({"workers": 0}, "at least 1"),
        ({"hold_s": -1.0}, "hold_s"),
        ({"hold_s": float("nan")}, "video.hold_s must be a number of at least 0; got nan"),
        (
            {"interpolate": "two"},
            "video.interpolate must be a whole number of at least 0; got 'two'",
        ),
        ({"workers": 1.5}, "video.workers must be a whole number of at least 1 or null; got 1.5"),
        (
            {"seconds_per_capture": "x"},
            "video.seconds_per_capture must be a number above 0 or null; got 'x'",
        ),
        ({"fps": 30}, "unknown option of video 'fps'; known: encoder"),
    ],
)
def test_impossible_video_options_are_refused_before_anything_is_pulled(option, message):
    with pytest.raises(ConfigError, match=message):
        VideoOptions.of(option)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"theme": "blue"}, "unknown theme 'blue'"),
        ({"format": None}, "format must name at least one of video, .*; got none"),
        ({"format": 3}, "unknown format '3'"),
    ],
)
def test_what_no_picture_can_have_is_refused_before_anything_is_pulled(
    watched, monkeypatch, options, message
):
    monkeypatch.setattr(
        sys.modules["tracker_viz.pipeline.render"],
        "pulled_captures",
        lambda *given, **options: pytest.fail("pulled"),
    )
    with pytest.raises(ConfigError, match=message):
        tv.render(str(watched.ref), upload=False, progress=False, **options)


# -- when things go wrong at the end, or at once ---------------------------------------------------


def test_where_no_spool_can_be_made_is_said_before_training(tmp_path):
    (tmp_path / "spool").touch()
    with pytest.raises(ConfigError, match=r"no spool can be made here: .*Not a directory"):
        watch(make_model(), spool=None)


def test_a_training_that_begins_anew_in_the_run_of_another_is_told_that_it_captures_nothing(
    watched, caplog
):
    model = make_model()
    with watch(model) as again:
        train(model, again, range(6))
    assert "the run already holds captures up to step 6" in caplog.text


@pytest.mark.parametrize("failing", ["set_summary", "put_table", "put_file"])
def test_what_the_end_cannot_write_neither_raises_into_training_nor_keeps_captures_back(
    tmp_path, monkeypatch, failing, caplog
):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Outbox, failing, full)
    model = make_model()
    watcher = watch(model, tracker_options={"local": {"directory": str(tmp_path / "runs")}})
    train(model, watcher, range(6))
    assert watcher.close().complete
    assert open_run(watcher.ref).info().state == "finished"
    assert [capture.step for capture in tv.load_captures(watcher.ref)] == [0, 2, 4, 6]
    assert "No space left" in caplog.text


@pytest.mark.parametrize(
    "delivered", ["later", "while they are read", "one by one while they are read"]
)
def test_a_run_with_a_backlog_is_gone_on_with_from_all_of_its_scores(
    tmp_path, monkeypatch, delivered
):
    """Some captures are in the run, the others still in the spool, and on their way."""
    options = {"tracker_options": {"local": {"directory": str(tmp_path / "runs")}}}
    put_captures, may_go = LocalRun.put_captures, defaultdict(threading.Event)
    resumed = False

    def put(run, captures):
        for capture in captures:
            if capture.ref.step >= 4 and not may_go[capture.ref.step].wait(30 if resumed else 0):
                raise TransientTrackerError("away")
        put_captures(run, captures)

    monkeypatch.setattr(LocalRun, "put_captures", put)
    model = make_model()
    watcher = watch(model, **options)
    train(model, watcher, range(6))
    watcher.close("killed", timeout_s=0.3)
    assert [capture.step for capture in tv.load_captures(watcher.ref)] == [0, 2]
    resumed = True
    if delivered != "later":
        read = capture_file.read

        def read_late(path, names=None):
            if "spool" in str(path):
                for step in (
                    [4, 6] if delivered == "while they are read" else [capture_step(path.name)]
                ):
                    may_go[step].set()
                deadline = time.monotonic() + 1  # long enough to be delivered and deleted in
                while path.exists() and time.monotonic() < deadline:
                    time.sleep(0.01)
            return read(path, names)

        monkeypatch.setattr(capture_file, "read", read_late)
    again = watch(model, total_steps=8, start_step=6, counts_from=0, **options)
    for step in [4, 6, 8]:
        may_go[step].set()
    train(model, again, range(6, 8))
    again.close()
    assert [path.name for path in Path("spool/captures").iterdir() if path.is_file()] == []
    assert [capture.step for capture in tv.load_captures(again.ref)] == [0, 2, 4, 6, 8]
    assert again._scores.series().steps.tolist() == [0, 2, 4, 6, 8]


def test_a_run_may_have_a_longer_name_than_a_file(tmp_path):
    name = "x" * 400
    watcher = watch(
        make_model(),
        name=name,
        spool=None,
        tracker_options={"local": {"directory": str(tmp_path / "runs")}},
    )
    watcher.close(progress=False)
    assert open_run(watcher.ref).info().name == name


def test_a_last_capture_that_is_interrupted_does_not_leave_the_run_open(tmp_path, monkeypatch):
    model = make_model()
    watcher = watch(
        model, every=4, tracker_options={"local": {"directory": str(tmp_path / "runs")}}
    )
    train(model, watcher, range(5))
    monkeypatch.setattr(
        watcher.recorder.camera, "take", lambda *_: signal.raise_signal(signal.SIGINT)
    )
    with pytest.raises(KeyboardInterrupt):
        watcher.close()
    assert open_run(watcher.ref).info().state == "finished"
    assert [capture.step for capture in tv.load_captures(watcher.ref)] == [0, 4]


def test_compare_takes_every_option_of_comparisons_with_its_default():
    given = inspect.signature(tv.compare).parameters
    for name, field in ComparisonOptions.model_fields.items():
        default = given[name].default
        assert (VideoOptions.of(default) if name == "video" else default) == field.default


def test_render_takes_every_option_of_pictures_with_its_default():
    given = inspect.signature(tv.render).parameters
    options = PictureOptions(
        format=given["format"].default, video=VideoOptions.of(given["video"].default)
    )
    assert options == PictureOptions()
    for name, field in PictureOptions.model_fields.items():
        assert name in given
        if name not in ("format", "video"):
            assert given[name].default == field.default, name
