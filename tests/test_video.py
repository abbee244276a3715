"""write_video keeps its promises: every picture, at its time, in a file that reads back; or an
error, and no file."""

from __future__ import annotations

import builtins
import itertools
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from tracker_viz.errors import (
    ConfigError,
    EncoderUnavailableError,
    MissingDependencyError,
    VideoError,
)
from tracker_viz.types import Frame
from tracker_viz.video import (
    ENCODERS,
    append_frames,
    encoder,
    join_film,
    keep_frames,
    opencv,
    video_path,
    write_video,
)
from tracker_viz.video.opencv import import_cv2
from tracker_viz.video.read_back import _packets
from tracker_viz.video.writer import timestamps

WIDTH, HEIGHT, CELL = 128, 96, 8


def picture(index):
    """The index in binary as big black and white cells: survives any encoder, and says which
    picture it is."""
    bits = np.array([index >> bit & 1 for bit in range(WIDTH // CELL)], np.uint8) * 200 + 20
    return np.broadcast_to(bits.repeat(CELL)[None, :, None], (HEIGHT, WIDTH, 3)).copy()


def index_of(pixels):
    return sum(
        int(pixels[HEIGHT // 2, bit * CELL + CELL // 2].mean() > 128) << bit
        for bit in range(WIDTH // CELL)
    )


def read(path):
    cv2 = import_cv2()
    reader = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    seen = []
    while True:
        found, pixels = reader.read()
        if not found:
            return seen
        seen.append((round(reader.get(cv2.CAP_PROP_POS_MSEC) / 1000, 3), index_of(pixels)))


@pytest.mark.parametrize("encoder", [name for name in ENCODERS if name != "auto"])
@pytest.mark.parametrize("workers", [1, 3])
def test_every_picture_comes_once_in_order_at_its_time(tmp_path, encoder, workers):
    durations_s = [0.1 + 0.05 * (index % 4) for index in range(101)]
    info = write_video(
        101, picture, tmp_path / "v", duration_s=durations_s, encoder=encoder, workers=workers
    )
    seen = read(info.path)
    assert [index for _, index in seen] == [*range(101), 100]
    starts = np.cumsum([0, *durations_s])
    assert np.allclose([time_s for time_s, _ in seen[:-1]], starts[:-1], atol=1 / 60)
    assert info.duration_s == pytest.approx(starts[-1], abs=1 / 60)
    assert (info.n_frames, info.width, info.height, info.encoder) == (101, WIDTH, HEIGHT, encoder)
    assert info.nbytes == info.path.stat().st_size


def test_one_picture_is_a_video_too(tmp_path):
    info = write_video(1, picture, tmp_path / "v", duration_s=2.0)
    assert info.n_frames == 1
    assert info.duration_s == pytest.approx(2.0)


def test_lossless_returns_every_pixel(tmp_path):
    av = pytest.importorskip("av")
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 256, (9, HEIGHT, WIDTH, 3), np.uint8)
    info = write_video(9, drawn.__getitem__, tmp_path / "v", encoder="lossless", workers=2)
    with av.open(str(info.path)) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert all(np.array_equal(decoded[index], drawn[index]) for index in range(9))


def test_progress_counts_every_picture_once(tmp_path):
    seen = []
    write_video(
        30,
        picture,
        tmp_path / "v",
        workers=3,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(number, 30) for number in range(1, 31)]


def test_frames_are_drawn_by_all_the_workers_it_was_given(tmp_path):
    together = threading.Barrier(3, timeout=60)
    waited = threading.local()

    def meet(index):
        if index and not getattr(waited, "once", False):
            waited.once = True
            together.wait()
        return Frame(index, picture(index))

    write_video(30, meet, tmp_path / "v", workers=3)


def test_no_more_threads_draw_at_once_than_python_can_run(tmp_path):
    drawing, most, lock, three = 0, 0, threading.Lock(), threading.Event()

    def slowly(index):
        nonlocal drawing, most
        with lock:
            drawing += 1
            most = max(most, drawing)
            if drawing == 3:
                three.set()
        if index:
            three.wait(60)
        time.sleep(0.01)  # for a fourth to come
        with lock:
            drawing -= 1
        return picture(index)

    write_video(64, slowly, tmp_path / "v", workers=8)
    assert most == 3


@pytest.mark.parametrize(
    ("n_frames", "workers", "expected"),
    [(200, 2, 6), (95, 2, 2), (200, 3, 6), (2, 8, 1), (20, 8, 5)],
)
def test_every_worker_has_as_many_parts_to_encode(
    tmp_path, monkeypatch, n_frames, workers, expected
):
    join, parts = opencv.OpenCV.join, []
    monkeypatch.setattr(
        opencv.OpenCV,
        "join",
        lambda self, segments, *rest: parts.extend(segments) or join(self, segments, *rest),
    )
    write_video(n_frames, picture, tmp_path / "v", workers=workers)
    assert len(parts) == expected


def test_auto_is_h264_for_an_mp4_and_webm_otherwise(tmp_path):
    assert write_video(2, picture, tmp_path / "a.mp4").encoder == "h264"
    assert write_video(2, picture, tmp_path / "a").path.name == "a.webm"
    assert write_video(2, picture, tmp_path / "new" / "folder" / "a").path.is_file()


def test_a_suffix_that_the_encoder_does_not_write_is_refused():
    with pytest.raises(ConfigError, match=r"writes \.webm"):
        video_path("x.avi")
    assert video_path("run.v2").name == "run.v2.webm"


def test_unknown_encoder_names_the_near_one(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'h264'"):
        write_video(1, picture, tmp_path / "v", encoder="h265")


@pytest.mark.parametrize(
    "duration_s", [0.001, float("nan"), [1.0, 2.0], [1.0, float("nan"), 1.0], [1.0, 1.0, 0.001]]
)
def test_impossible_durations_are_refused(tmp_path, duration_s):
    with pytest.raises(ConfigError, match="picture"):
        write_video(3, picture, tmp_path / "v", duration_s=duration_s)


def test_the_shortest_durations_never_fall_on_one_tick():
    ticks = timestamps(500, [1 / 60, 1.4 / 60] * 250)
    assert min(np.diff(ticks)) >= 1
    assert timestamps(3, [3.5 / 60, 1 / 60, 1 / 60]) == [0, 4, 5, 6], "both halves round to 4"


def test_roundings_of_durations_do_not_add_up():
    assert timestamps(60, 2.4 / 60)[-2:] == [142, 143]


def test_an_error_while_drawing_comes_through_and_leaves_nothing(tmp_path):
    def broken(index):
        if index == 17:
            raise ValueError("no picture 17")
        return picture(index)

    with pytest.raises(ValueError, match="no picture 17"):
        write_video(40, broken, tmp_path / "v", workers=2)
    assert list(tmp_path.iterdir()) == []


def test_an_error_stops_the_other_workers(tmp_path):
    drawn, failed = [], threading.Event()

    def broken(index):
        drawn.append(index)
        if index == 1:
            failed.set()
            raise ValueError("early")
        if index:
            assert failed.wait(60)
            time.sleep(0.01)  # so that all pictures would take 20 seconds
        return picture(index)

    with pytest.raises(ValueError, match="early"):
        write_video(4000, broken, tmp_path / "v", workers=2)
    assert len(drawn) < 2000


def test_an_older_video_stays_when_the_new_one_fails(tmp_path):
    (tmp_path / "v.webm").write_bytes(b"old")
    with pytest.raises(VideoError, match="one size"):
        write_video(9, lambda index: picture(index)[: HEIGHT - 2 * (index == 5)], tmp_path / "v")
    assert (tmp_path / "v.webm").read_bytes() == b"old"


@pytest.mark.parametrize(
    "pixels", [np.zeros((10, 11, 3), np.uint8), np.zeros((10, 10), np.uint8), np.zeros((10, 10, 3))]
)
def test_what_is_not_a_picture_is_refused(tmp_path, pixels):
    with pytest.raises(VideoError, match="even height and width"):
        write_video(1, lambda index: pixels, tmp_path / "v")


def test_a_path_that_cannot_be_written_is_an_error_before_anything_is_encoded(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(VideoError, match="cannot be written"):
        write_video(1, picture, tmp_path / "file" / "v")
    (tmp_path / "v.webm").mkdir()
    with pytest.raises(VideoError, match="is a directory"):
        write_video(1, picture, tmp_path / "v")


@pytest.mark.parametrize("encoder", ["opencv", "h264", "lossless"])
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path, encoder):
    # A limit on the size of files fails writes half-way, as a full disk does; it cannot be lifted
    # again, hence the process.
    program = f"""
import resource, signal, sys
import numpy as np
from tracker_viz.errors import VideoError
from tracker_viz.video import write_video
noise = np.random.default_rng(0).integers(0, 256, (8, 480, 640, 3), np.uint8)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    write_video(40, lambda i: noise[i % 8], {str(tmp_path / "v")!r}, encoder={encoder!r}, workers=2)
except VideoError as error:
    print(f"VideoError: {{error}}")
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=500
    )
    assert "VideoError" in result.stdout, result.stdout + result.stderr
    assert "free" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_within_the_last_frame_is_found(tmp_path):
    program = f"""
import resource, signal
from pathlib import Path
import numpy as np
from tracker_viz.errors import VideoError
from tracker_viz.video import encoder
noise = np.random.default_rng(0).integers(0, 256, (8, 480, 640, 3), np.uint8)
def write(path):
    with encoder("opencv").open(path, (640, 480)) as segment:
        for pixels in noise:
            segment.write(pixels)
    return path.stat().st_size
nbytes = write(Path({str(tmp_path)!r}, "whole.avi"))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes - 2000, nbytes - 2000))
try:
    write(Path({str(tmp_path)!r}, "cut.avi"))
except VideoError as error:
    print(f"VideoError: {{error}}")
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=500
    )
    assert "VideoError: a part of the video was cut short" in result.stdout, (
        result.stdout + result.stderr
    )
    assert len(read(tmp_path / "cut.avi")) == 8, (
        "all its frames are decoded: counting them finds nothing"
    )


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda contents: contents[: len(contents) * 2 // 3], "it reads back as"),
        (
            lambda contents: contents[:-5000] + bytes(40) + contents[-4960:],
            "1 frames that are not what was encoded",
        ),
    ],
)
def test_a_video_that_is_not_what_was_encoded_is_no_video(tmp_path, monkeypatch, damage, said):
    join = opencv.OpenCV.join
    noise = np.random.default_rng(0).integers(0, 256, (8, 240, 320, 3), np.uint8)

    def join_and_damage(encoder, segments, path, *rest):
        join(encoder, segments, path, *rest)
        path.write_bytes(damage(path.read_bytes()))

    monkeypatch.setattr(opencv.OpenCV, "join", join_and_damage)
    with pytest.raises(VideoError, match=said):
        write_video(40, lambda index: noise[index % 8], tmp_path / "v", workers=2)
    assert list(tmp_path.iterdir()) == []


def test_a_video_whose_frames_come_at_other_times_is_no_video(tmp_path, monkeypatch):
    join = opencv.OpenCV.join

    def join_slowly(encoder, segments, path, ticks, size):
        join(encoder, segments, path, [2 * tick for tick in ticks], size)

    monkeypatch.setattr(opencv.OpenCV, "join", join_slowly)
    with pytest.raises(VideoError, match="away from its time"):
        write_video(3, picture, tmp_path / "v")
    assert list(tmp_path.iterdir()) == []


def test_a_video_that_is_too_large_is_made_smaller_and_says_so(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (8, 240, 320, 3), np.uint8)
    whole = write_video(24, lambda index: noise[index % 8], tmp_path / "whole")
    drawn = []
    info = write_video(
        24,
        lambda index: drawn.append(index) or noise[index % 8],
        tmp_path / "v",
        max_bytes=whole.nbytes // 2,
    )
    assert drawn.count(12) <= 3, "the size is estimated from what the whole one needed"
    assert info.nbytes <= whole.nbytes // 2
    assert info.width < 320
    assert "made again" in info.notice
    with pytest.raises(VideoError, match="lossless video has"):
        write_video(
            24,
            lambda index: noise[index % 8],
            tmp_path / "l",
            encoder="lossless",
            max_bytes=whole.nbytes // 2,
        )
    with pytest.raises(VideoError, match="even at"):
        write_video(24, lambda index: noise[index % 8], tmp_path / "x", max_bytes=2000)


def test_an_opencv_that_cannot_say_when_a_frame_begins_names_the_fix(tmp_path, monkeypatch):
    monkeypatch.delattr(import_cv2(), "VIDEOWRITER_PROP_PTS")  # as in 4.10
    with pytest.raises(
        EncoderUnavailableError, match=r"4\.11 can: pip install --upgrade opencv-python"
    ):
        write_video(1, picture, tmp_path / "video")


@pytest.mark.parametrize(
    ("message", "fix"),
    [
        (
            "libGL.so.1: cannot open shared object file: No such file or directory",
            "apt-get install libgl1",
        ),
        ("No module named 'cv2'", "pip install opencv-python-headless"),
    ],
)
def test_opencv_that_cannot_be_imported_names_the_fix(monkeypatch, message, fix):
    real_import = builtins.__import__

    def failing(name, *args, **options):
        if name == "cv2":
            raise ImportError(message)
        return real_import(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", failing)
    with pytest.raises(MissingDependencyError, match=fix):
        import_cv2()


def test_a_missing_pyav_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingDependencyError, match=r"tracker-viz\[hq\]"):
        write_video(1, picture, tmp_path / "v", encoder="h264")


# -- a film that grows -----------------------------------------------------------------------------


def grown(tmp_path, parts, name, title=None):
    """Return a body of frames 0, 1, ... that was appended in parts of these lengths, its film, and
    the packets of every body on the way."""
    body, n_before, packets = None, 0, []
    for n_frames in parts:
        longer = tmp_path / f"body-{n_before}{encoder(name).suffix}"
        frame_at = [picture(n_before + index) for index in range(n_frames)].__getitem__
        append_frames(body, n_before, n_frames, frame_at, longer, encoder_name=name, workers=1)
        body, n_before = longer, n_before + n_frames
        packets.append([checksum for _, checksum in _packets(body)])
    durations_s = [0.5] * (title is not None) + [0.1] * n_before
    film = tmp_path / f"film{encoder(name).suffix}"
    info = join_film(
        body,
        n_before,
        picture(n_before - 1),
        film,
        duration_s=durations_s,
        title=title,
        encoder_name=name,
    )
    return info, packets


@pytest.mark.parametrize("name", ["opencv", "h264", "lossless"])
def test_appended_frames_follow_those_that_were_there_which_stay_to_the_bit(tmp_path, name):
    if name != "opencv":
        pytest.importorskip("av")
    info, packets = grown(tmp_path, [5, 1, 7], name, title=picture(99))
    for before, after in itertools.pairwise(packets):
        assert after[: len(before)] == before
    seen = read(info.path)
    assert [index for _, index in seen] == [99, *range(13), 12]
    starts_s = [0.0, *np.arange(13) * 0.1 + 0.5]
    assert np.allclose([time_s for time_s, _ in seen[:-1]], starts_s, atol=1 / 60)
    assert info.duration_s == pytest.approx(1.8, abs=1 / 60)


def test_each_part_begins_with_a_key_frame_where_players_can_start(tmp_path):
    info, _ = grown(tmp_path, [3, 4], "opencv")
    # RFC 6386, section 9.1: the lowest bit of a key frame's first byte is 0.
    keys = [not packet.ravel()[0] & 1 for packet in opencv.OpenCV()._packets([info.path])]
    assert [index for index, is_key in enumerate(keys) if is_key] == [0, 3, 7]


def test_a_body_that_is_not_what_it_was_is_refused_and_the_film_stays(tmp_path):
    info, _ = grown(tmp_path, [4], "opencv")
    before = info.path.read_bytes()
    body = tmp_path / "body-0.webm"
    body.write_bytes(body.read_bytes()[:200])
    with pytest.raises(VideoError):
        join_film(body, 4, picture(3), info.path, duration_s=[0.1] * 4)
    with pytest.raises(VideoError):
        append_frames(body, 4, 1, picture, tmp_path / "longer.webm")
    assert info.path.read_bytes() == before
    assert not (tmp_path / "longer.webm").exists()


def test_nothing_to_append_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="at least one frame"):
        append_frames(None, 0, 0, picture, tmp_path / "body.webm")


def test_frames_that_stay_are_those_that_were_named(tmp_path):
    grown(tmp_path, [5, 6], "opencv")
    body = tmp_path / "body-5.webm"
    keep_frames(body, [0, 2, 7, 10], tmp_path / "fewer.webm")
    assert [index for _, index in read(tmp_path / "fewer.webm")] == [0, 2, 7, 10]
    with pytest.raises(VideoError, match="no frame 11"):
        keep_frames(body, [0, 11], tmp_path / "none.webm")


def test_frames_that_stay_keep_their_colors(tmp_path):
    red = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    red[..., 0] = 255
    append_frames(None, 0, 2, lambda _: red, tmp_path / "body.webm", encoder_name="opencv")
    keep_frames(tmp_path / "body.webm", [1], tmp_path / "fewer.webm")
    for name in ("body.webm", "fewer.webm"):
        _, bgr = import_cv2().VideoCapture(str(tmp_path / name)).read()
        assert np.allclose(bgr.mean((0, 1)), (0, 0, 255), atol=20), name
