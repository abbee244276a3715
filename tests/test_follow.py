"""A run is followed while it goes on: the film grows, costs what is new, survives a kill, and ends
as the one that ``render`` makes."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

import tracker_viz as tv
from tracker_viz.errors import ConfigError, RunActiveError, TransientTrackerError
from tracker_viz.files import torn_prefix
from tracker_viz.pipeline import FollowOptions, PictureOptions
from tracker_viz.pipeline.following import live_film
from tracker_viz.pipeline.following.film_store import FilmStore
from tracker_viz.pipeline.following.held_scales import HeldScales
from tracker_viz.pipeline.following.live_film import LiveFilm
from tracker_viz.rendering import ColorScale, resolve_layout
from tracker_viz.trackers.local import LocalRun
from tracker_viz.trackers.testing import write_captures
from tracker_viz.video.opencv import import_cv2
from tracker_viz.video.read_back import _packets

VIDEO = {"size": "640x360", "title_s": 0.0, "key_frames": 0}


@pytest.fixture(autouse=True)
def _own_directories(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKER_VIZ_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def run(tmp_path):
    return LocalRun.create(tmp_path / "run", name="followed", config={})


def put(run, steps, seed=0):
    made = run.directory.parent / "made"
    run.put_captures(write_captures(list(steps), made, seed=seed))
    shutil.rmtree(made)


def film_of(run, directory, *, format="video", **video):
    options = PictureOptions(video=VIDEO | video, format=format)
    return LiveFilm(directory, run, resolve_layout("heads"), options, "followed")


def drawn(film, run):
    film.draw(film.new(run.list_captures()))
    return [ref.step for ref in film._state.drawn]


def frames_of(path):
    return [checksum for _, checksum in _packets(path)]


def n_played(path):
    reader = import_cv2().VideoCapture(str(path))
    n_frames = 0
    while reader.read()[0]:
        n_frames += 1
    return n_frames


def test_the_film_grows_with_the_run_and_ends_as_the_one_that_render_makes(run, tmp_path):
    put(run, range(0, 30, 10))
    to_come = [range(30, 50, 10), range(50, 60, 10)]
    films = []

    def on_version(version):
        films.append(frames_of(version.path))
        # The last frame comes twice, to mark the end.
        assert n_played(version.path) == version.n_captures + 1
        assert (run.directory / "heads.webm").read_bytes() == version.path.read_bytes()
        assert (run.directory / "heads.html").is_file()
        if to_come:
            put(run, to_come.pop(0))
        else:
            run.finish("finished")

    options = {"every": "0s", "poll_s": 0.01, "video": VIDEO}
    result = tv.follow(run.ref, layout="heads", options=options, on_version=on_version)
    assert [len(film) for film in films] == [4, 6, 7]
    for before, after in itertools.pairwise(films):
        assert after[: len(before) - 1] == before[:-1]  # nothing was encoded again

    at_once = tv.render(
        run.ref,
        layout="heads",
        format=("video", "html"),
        video=VIDEO,
        upload=False,
        output=tmp_path / "at_once",
        progress=False,
    )
    assert result.n_captures == 6
    film, page = (picture.path for picture in at_once.pictures)
    # A WebM has a random number of its own; its frames and their times are the same.
    assert _packets(result.path) == _packets(film)
    assert result.pictures[1].path.read_bytes() == page.read_bytes()
    assert list((run.directory / "videos" / "heads").iterdir())  # beside it, the one of its step
    following = next((tmp_path / "cache").rglob("following"))
    assert [path.name for path in following.iterdir()] == ["heads.lock"]


FOLLOW = """
import sys
import tracker_viz as tv

def told(version):
    print(version.n_captures, flush=True)
    sys.stdin.readline()

options = {"every": "0s", "poll_s": 0.01, "final": False, "format": "video", "video": %r}
tv.follow(sys.argv[1], layout="heads", options=options, on_version=told)
assert "torch" not in sys.modules
"""


def test_killed_at_a_version_and_started_again_it_goes_on_with_the_frames_that_it_has(
    run, tmp_path
):
    def start():
        script = [sys.executable, "-c", FOLLOW % VIDEO, str(run.ref)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        return subprocess.Popen(script, env=os.environ, text=True, **pipes)

    put(run, range(4))
    first = start()
    assert first.stdout.readline().strip() == "4"
    first.send_signal(signal.SIGKILL)
    first.wait()
    there = run.directory / "heads.webm"
    before = frames_of(there)
    # As if it had been at work then.
    torn = torn_prefix().replace(f"-{os.getpid()}-", f"-{first.pid}-") + "x.partial"
    left = [run.directory / torn, next((tmp_path / "cache").rglob("following")) / torn]
    for path in left:
        path.touch()
    assert n_played(there) == 5

    put(run, range(4, 6))
    run.finish("failed")
    second = start()
    assert second.stdout.readline().strip() == "6"
    second.communicate("\n")
    assert second.returncode == 0
    assert frames_of(there)[:4] == before[:4]
    assert n_played(there) == 7
    assert not any(path.exists() for path in left)


def test_a_long_run_keeps_few_captures_few_frames_and_a_small_state(run, tmp_path, monkeypatch):
    monkeypatch.setattr(live_film, "MOST_KEPT", 4)
    monkeypatch.setattr(live_film, "MOST_FRAMES", 12)
    monkeypatch.setattr(live_film, "AT_ONCE", 6)
    film = film_of(run, tmp_path / "film", format=("video", "html"))
    paths = [tmp_path / "film.webm", tmp_path / "film.html"]
    for start in range(0, 60, 20):
        put(run, range(start, start + 20))
        steps = drawn(film, run)
        assert len(steps) <= 12
        version = film.write(paths)
        assert len(list((tmp_path / "film" / "captures").iterdir())) <= 4 + 2 + 6
        assert len(list((tmp_path / "film").glob("body-*"))) == 1
    assert steps[0] == 0
    assert steps[-1] > 50
    assert film._state.stride == 8
    assert n_played(paths[0]) == len(steps) + 1
    assert "1 of 8 captures" in version.renderer.series.subtitle


def test_a_film_of_every_second_capture_goes_on_so_whatever_comes_at_a_time(
    run, tmp_path, monkeypatch
):
    monkeypatch.setattr(live_film, "MOST_FRAMES", 4)
    film = film_of(run, tmp_path / "film")
    put(run, range(5))
    assert drawn(film, run) == [0, 2, 4]
    put(run, [5])
    assert drawn(film, run) == [0, 2, 4]
    put(run, [6])
    assert drawn(film, run) == [0, 2, 4, 6]


def test_killed_between_frames_and_their_count_it_draws_none_of_them_again(
    run, tmp_path, monkeypatch
):
    change = FilmStore.change

    def killed_at_the_count(store, **changes):
        if "n_seen" in changes:
            raise KeyboardInterrupt
        change(store, **changes)

    put(run, range(3))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(FilmStore, "change", killed_at_the_count)
        drawn(film_of(run, tmp_path / "film"), run)
    assert drawn(film_of(run, tmp_path / "film"), run) == [0, 1, 2]


def test_a_film_that_is_too_large_becomes_smaller_by_leaving_frames_out(run, tmp_path, monkeypatch):
    monkeypatch.setattr(LiveFilm, "_most_bytes", 50_000)
    film = film_of(run, tmp_path / "film")
    put(run, range(40))
    drawn(film, run)
    version = film.write([tmp_path / "film.webm"])
    assert version.pictures[0].path.stat().st_size <= 50_000
    assert 1 < version.n_captures < 40


def test_what_a_training_replaces_from_a_checkpoint_on_is_drawn_again(run, tmp_path):
    film = film_of(run, tmp_path / "film")
    put(run, range(0, 60, 10))
    assert drawn(film, run) == [0, 10, 20, 30, 40, 50]
    before = film.write([tmp_path / "before.webm"]).renderer.frame(4).pixels
    put(run, range(30, 60, 10), seed=1)  # from the checkpoint of step 20 on
    assert drawn(film, run) == [0, 10, 20, 30, 40, 50]
    assert list(film._state.drawn) == run.list_captures(), "each as it is now"
    after = film.write([tmp_path / "after.webm"]).renderer.frame(4).pixels
    assert (before != after).any()
    put(run, range(0, 60, 10), seed=2)  # from its start
    assert drawn(film, run) == [0, 10, 20, 30, 40, 50]


def test_another_layout_or_a_damaged_state_starts_a_new_film(run, tmp_path):
    put(run, range(3))
    drawn(film_of(run, tmp_path / "film"), run)
    assert film_of(run, tmp_path / "film")._state.n_seen == 3
    assert film_of(run, tmp_path / "film", size="720p")._state.n_seen == 0
    state = tmp_path / "film" / "following.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"stride": -1}))
    film = film_of(run, tmp_path / "film")
    assert film._state.n_seen == 0
    assert drawn(film, run) == [0, 1, 2]


def test_a_capture_that_cannot_be_read_is_a_gap_and_no_end(run, tmp_path):
    film = film_of(run, tmp_path / "film")
    put(run, range(4))
    run.capture_path(run.list_captures()[2]).write_bytes(b"damaged")
    assert drawn(film, run) == [0, 1, 3]
    assert film.write([tmp_path / "film.webm"]).renderer.series.missing_steps == (2,)


def test_a_capture_that_came_just_before_the_end_is_in_the_film(run, monkeypatch):
    list_captures = LocalRun.list_captures

    def list_before_the_end(self):
        listed = list_captures(self)
        if run.info().state == "running":
            put(run, [2])
            run.finish("finished")
        return listed

    put(run, range(2))
    monkeypatch.setattr(LocalRun, "list_captures", list_before_the_end)
    options = {"poll_s": 0.01, "final": False, "format": "video", "video": VIDEO, "upload": False}
    assert tv.follow(run.ref, layout="heads", options=options).n_captures == 3


def test_a_tracker_that_is_away_is_asked_again(run, monkeypatch):
    put(run, range(2))
    listed, n_calls = run.list_captures(), []

    def list_captures(self):
        n_calls.append(1)
        if len(n_calls) < 3:
            raise TransientTrackerError("away")
        run.finish("finished")
        return listed

    monkeypatch.setattr(LocalRun, "list_captures", list_captures)
    options = {"poll_s": 0.01, "final": False, "format": "video", "video": VIDEO, "upload": False}
    assert tv.follow(run.ref, layout="heads", options=options).n_captures == 2


def test_a_tracker_that_is_away_while_a_film_is_put_gets_it_later(run, monkeypatch):
    put(run, range(2))
    failures = {"put_live_video": 2, "put_video": 1}
    for name in failures:
        real = getattr(LocalRun, name)

        def put_film(self, video, *, name=name, real=real, **options):
            failures[name] -= 1
            if failures[name] >= 0:
                raise TransientTrackerError("away")
            return real(self, video, **options)

        monkeypatch.setattr(LocalRun, name, put_film)
    options = {"poll_s": 0.01, "every": "0s", "format": "video", "video": VIDEO}
    told = []

    def on_version(version):
        told.append(version.n_captures)
        run.finish("finished")

    assert tv.follow(run.ref, layout="heads", options=options, on_version=on_version).url
    assert told == [2]
    assert max(failures.values()) < 0


def test_a_tracker_with_one_writer_says_how_to_see_a_film_nevertheless(run, monkeypatch):
    def taken(self, video, **options):
        raise RunActiveError("another process writes")

    put(run, range(2))
    monkeypatch.setattr(LocalRun, "put_live_video", taken)
    options = {"poll_s": 0.01, "every": "0s", "format": "video", "video": VIDEO}
    with pytest.raises(RunActiveError, match="preview='15min'"):
        tv.follow(run.ref, layout="heads", options=options)


def test_a_run_that_only_seems_to_go_on_is_given_up(run):
    put(run, range(2))
    options = {"poll_s": 0.01, "give_up": "0s", "every": "0s", "format": "video", "video": VIDEO}
    assert run.info().state == "running"
    assert tv.follow(run.ref, layout="heads", options=options | {"upload": False}).n_captures == 2


def test_two_processes_do_not_follow_one_run_into_one_place(run):
    put(run, range(2))
    options = {"poll_s": 0.01, "every": "0s", "format": "video", "video": VIDEO, "upload": False}

    def on_version(_):
        with pytest.raises(ConfigError, match="another process on this machine follows"):
            tv.follow(run.ref, layout="heads", options=options)
        run.finish("finished")

    tv.follow(run.ref, layout="heads", options=options, on_version=on_version)


@pytest.mark.parametrize("every", ["soon", "-1s", "5 hours", ""])
def test_a_time_that_is_none_is_refused_with_examples(every):
    with pytest.raises(ConfigError, match="15min"):
        FollowOptions(every=every)


# -- color scales ----------------------------------------------------------------------------------


def held_ranges(scale, ranges):
    """Return the ranges that are drawn one after the other, and when they changed."""
    scales, drawn_with = HeldScales({}), []
    for low, high in ranges:
        held = scales.hold({"key": replace(scale, minimum=low, maximum=high)})["key"]
        drawn_with.append((held.minimum, held.maximum, scales.has_changed))
    return drawn_with


def test_a_range_grows_by_doublings_and_never_moves_back():
    scale = ColorScale("change", "mako", 0.0, 1.0)
    assert held_ranges(scale, [(0, 1.0), (0, 0.5), (0, 1.0), (0, 1.1), (0, 9), (0, 2)]) == [
        (0, 1.0, False),
        (0, 1.0, False),
        (0, 1.0, False),
        (0, 2.0, True),
        (0, 16.0, True),
        (0, 16.0, False),
    ]


@pytest.mark.parametrize(
    ("scale", "passed", "grown"),
    [
        (ColorScale("signed", "icefire", -1.0, 1.0), (-3.0, 1.0), (-4.0, 1.0)),
        (ColorScale("both", "mako", 2.0, 3.0), (1.5, 4.5), (1.0, 5.0)),
        (ColorScale("below 0", "mako", 0.0, 1.0), (-0.5, 1.0), (-1.0, 1.0)),
        (ColorScale("log", "mako", 0.01, 1.0, norm="log"), (0.03, 3.0), (0.04, 4.0)),
    ],
    ids=lambda value: getattr(value, "title", ""),
)
def test_each_kind_of_scale_grows_at_the_end_that_is_passed(scale, passed, grown):
    start = (scale.minimum, scale.maximum)
    assert held_ranges(scale, [start, passed])[1] == (*grown, True)


def test_a_range_that_still_fits_is_not_rounded():
    scale = ColorScale("both", "mako", 0.1, 0.4)
    assert 0.4 - (0.4 - 0.1) != 0.1
    assert held_ranges(scale, [(0.1, 0.4), (0.15, 0.2)])[1] == (0.1, 0.4, False)


def test_the_picture_says_since_when_its_ranges_are_wider(run, tmp_path):
    film = film_of(run, tmp_path / "film")
    film._layout = resolve_layout(
        {"name": "change", "panels": [{"panel": "attention", "show": "change"}]}
    )
    for steps in ([0, 1], [2], range(3, 40)):
        put(run, steps)
        drawn(film, run)
    version = film.write([tmp_path / "film.webm"])
    widened_step = film._state.widened_step
    assert widened_step in range(2, 40)
    assert f"wider color ranges since step {widened_step}" in version.renderer.series.subtitle
    texts = [label.text for label in version.renderer.plan.labels]
    assert any("wider color ranges" in text for text in texts)
