"""What is shown in notebooks stays small, true and by itself, whatever is to be shown."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

import tracker_viz as tv
from tracker_viz import notebook
from tracker_viz.capture import HeldOutRows
from tracker_viz.delivery import Report
from tracker_viz.delivery.delivery_status import DeliveryStatus
from tracker_viz.metrics import score_series
from tracker_viz.notebook import MOST_BYTES
from tracker_viz.pipeline import Picture, RenderResult, SweepResult, VerifyResult
from tracker_viz.pipeline.backfill import Backfilled
from tracker_viz.pipeline.showing import TrainingView, picture_markup
from tracker_viz.video import write_video

REF = tv.RunRef("local", "/a/spool/GPT-20260101-000000")
VIDEO = re.compile(r'src="data:video/webm;base64,([^"]+)"')


@pytest.fixture(scope="module")
def big_film(tmp_path_factory):
    """A film of noise, which no encoder makes small."""
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 256, (12, 90, 160, 3), np.uint8)
    frames = [np.kron(frame, np.ones((8, 8, 1), np.uint8)) for frame in cells]
    path = tmp_path_factory.mktemp("film") / "film.webm"
    write_video(len(frames), lambda index: frames[index], path, duration_s=0.5)
    assert path.stat().st_size > MOST_BYTES
    return path


def test_of_a_big_film_a_small_copy_of_the_same_length_is_shown(big_film, tmp_path):
    cv2 = pytest.importorskip("cv2")
    markup = picture_markup(big_film)
    assert len(markup.encode()) < MOST_BYTES
    assert "A small copy" in markup
    copy = tmp_path / "copy.webm"
    copy.write_bytes(base64.b64decode(VIDEO.search(markup)[1]))
    film = cv2.VideoCapture(str(copy))
    n_frames = 0
    while film.read()[0]:
        n_frames += 1
        end_s = film.get(cv2.CAP_PROP_POS_MSEC) / 1000
    assert n_frames == 12 + 1  # the last one marks the end
    assert end_s == pytest.approx(12 * 0.5, abs=0.05)


def test_a_page_that_is_too_big_stays_outside(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("<p>" + "x" * MOST_BYTES)
    markup = picture_markup(path, url="https://tracker/page.html")
    assert len(markup) < 1000
    assert "too much for a notebook" in markup
    assert 'href="https://tracker/page.html"' in markup


def test_of_a_big_picture_a_small_copy_is_shown(tmp_path):
    path = tmp_path / "poster.png"
    noise = np.random.default_rng(0).integers(0, 256, (900, 1600, 3), np.uint8)
    Image.fromarray(noise).save(path)
    assert path.stat().st_size > 4 * MOST_BYTES
    markup = picture_markup(path)
    assert len(markup.encode()) < MOST_BYTES
    assert "the picture has 4.3 MB" in markup


def test_a_film_that_was_moved_away_is_said_to_be_gone(tmp_path):
    assert "no longer there" in picture_markup(tmp_path / "gone.webm")


def test_words_of_a_run_cannot_become_markup():
    assert notebook.text("<script>") == "&lt;script&gt;"
    assert "<b>" not in notebook.table(("a",), [("<b>",)])
    assert "<a" not in notebook.link("javascript:alert(1)", "here")


@pytest.mark.chromium
def test_a_page_runs_and_leaves_the_notebook_around_it_as_it_was(page):
    inner = (
        "<style>body { overflow: hidden; background: red } p { color: red }</style>"
        "<p id=said>no</p><script>said.textContent = 'it\\'s & ran'</script>"
    )
    page.set_content(
        '<body style="overflow: auto; color: rgb(1, 2, 3)"><p id=around>around</p>'
        + notebook.page(inner)
    )
    assert page.frame_locator("iframe").locator("#said").text_content() == "it's & ran"
    style = page.evaluate("getComputedStyle(document.body).overflow")
    assert style == "auto"
    assert page.evaluate("getComputedStyle(around).color") == "rgb(1, 2, 3)"


def test_maps_show_thin_diagonals_and_leave_out_what_a_head_cannot_see():
    shift = np.eye(256, k=-1, dtype=np.float32)  # each token looks at the one before it
    maps = notebook.heads_maps({"blocks.0.attn.pattern": shift[None]})
    assert maps.shape == (72, 72)
    below = np.diagonal(maps)[1:]
    assert set(below) == {254}
    assert set(maps[np.triu_indices(72, 1)]) == {255}
    with Image.open(io.BytesIO(notebook.maps_png(maps))) as png:
        alpha = np.asarray(png.convert("RGBA"))[..., 3]
    assert ((alpha == 0) == (maps == 255)).all()


def test_maps_of_a_huge_model_fit_into_one_picture():
    heads = np.full((1, 61, 16, 16), 0.5, np.float16)
    maps = notebook.heads_maps({f"blocks.{block}.attn.pattern": heads for block in range(128)})
    height, width = maps.shape
    assert height <= 400
    assert width <= 720


def test_a_capture_without_attention_is_shown_without_a_picture():
    capture = tv.Capture(3, {"blocks.0.mlp.w_in": np.zeros((8, 4), np.float32)})
    assert notebook.heads_maps(capture.arrays) is None
    markup = capture._repr_html_()
    assert "<img" not in markup
    assert "step=3, 1 array, 0.0 MB" in markup
    assert "8 x 4" in markup


def capture(n_blocks=12):
    pattern = np.zeros((1, 12, 64, 64), np.float32)
    arrays = {f"blocks.{block}.attn.pattern": pattern for block in range(n_blocks)}
    arrays["scores.head.sink"] = np.zeros((12, 12), np.float32)
    return tv.Capture(100, arrays, metrics={"loss": 3.21})


def values():
    """One of every public value that holds much."""
    probe = tv.make_probe(5000, 512, text_ids=torch.arange(4000), decode=chr)
    status = DeliveryStatus("mlflow", REF, None, 3, 2, tuple(range(500)), "away" * 200)
    report = Report((status,), tuple(range(500)), "tracker-viz push spool=spool/GPT")
    moments = tuple((step, float(step)) for step in range(500))
    picture = Picture("video", REF.path + "/overview.webm", 3.0, moments, "made smaller " * 30)
    film = RenderResult((picture,), 500, tuple(range(500)))
    return [
        capture(),
        tv.Frame(3, np.zeros((1080, 1920, 3), np.uint8)),
        tv.Schedule.open_ended(),
        probe,
        probe.rows[0],
        HeldOutRows(torch.arange(20).repeat(2, 2)),
        tv.load_captures(REF),
        score_series([capture()]),
        status,
        report,
        picture,
        film,
        SweepResult({REF: film}, {REF: "no capture"}, None),
        VerifyResult(({"a": 1},) * 99, {3: ("induction holds",) * 99}, (), "verify.csv", None),
        Backfilled(tuple(range(500)), (), report),
    ]


@pytest.mark.parametrize("value", values(), ids=lambda value: type(value).__name__)
def test_a_value_prints_one_short_line(value):
    assert len(repr(value)) < 200
    assert "\n" not in repr(value)


def test_a_training_goes_on_where_its_view_fails(caplog):
    def unreachable():
        raise OSError("the tracker is away")

    kept = []
    view = TrainingView(unreachable)
    view.behind(kept.append)(capture())
    view.closed("all captures were delivered")
    assert [each.step for each in kept] == [100]
    assert "training goes on" in caplog.text
