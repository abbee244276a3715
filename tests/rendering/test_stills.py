"""Posters, animations and the explorer's page: small, whole or not there at all, and saying the
same as the video."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import zlib

import numpy as np
import pytest
from PIL import Image

from tracker_viz.errors import ConfigError, RenderError
from tracker_viz.metrics import Event, strongest_event
from tracker_viz.rendering import (
    THEMES,
    Layout,
    Renderer,
    Series,
    Weights,
    poster_moments,
    stills,
    storyboard,
    template,
    title_card,
    write_animation,
    write_explorer,
    write_key_frames,
    write_poster,
)
from tracker_viz.rendering.explorer import encode, explorer_page
from tracker_viz.rendering.in_step_page import Player, in_step_page
from tracker_viz.rendering.scales import ColorScale
from tracker_viz.rendering.series import si_number
from tracker_viz.rendering.sources import HeadMap
from tracker_viz.rendering.story import Story
from tracker_viz.rendering.storyboard import Shot
from tracker_viz.rendering.template import text_width
from tracker_viz.rendering.theme import rgb


@pytest.fixture(scope="module")
def renderer(small_run):
    return Renderer(Series(small_run, title="<a> & 100% small run"), "overview", size="720p")


def test_a_poster_shows_the_first_a_middle_and_the_last_capture(renderer, tmp_path):
    first, middle, last = poster_moments(renderer)
    assert (first, last) == (0, 5)
    assert 0 < middle < 5
    picture = np.asarray(Image.open(write_poster(renderer, tmp_path / "poster")))
    assert picture.shape == (3 * 720, 1280, 3)
    for place, index in enumerate((first, middle, last)):
        assert np.array_equal(
            picture[place * 720 : (place + 1) * 720], renderer.frame(index).pixels
        )


@pytest.mark.parametrize(
    ("strengths", "expected"),
    [({}, (0, 2, 5)), ({1: 0.4, 3: 0.9, 5: 0.5}, (0, 3, 5)), ({5: 1.0}, (0, 5))],
)
def test_the_middle_of_a_poster_is_the_strongest_event(renderer, strengths, expected, monkeypatch):
    steps = renderer.series.steps
    events = tuple(
        Event("role", steps[index - 1], steps[index], role="sink", strength=strength)
        for index, strength in strengths.items()
    )
    plan = dataclasses.replace(renderer.plan, story=Story(steps, events))
    monkeypatch.setattr(renderer, "plan", plan)
    assert poster_moments(renderer) == expected


def test_a_poster_of_one_or_two_captures_shows_each_once(small_run):
    assert poster_moments(Renderer(Series(small_run[:1]), "heads", size="720p")) == (0,)
    assert poster_moments(Renderer(Series(small_run[:2]), "heads", size="720p")) == (0, 1)


def test_key_frames_are_the_frames_of_captures_spread_over_the_run(renderer, tmp_path):
    frames = write_key_frames(renderer, tmp_path, 3)
    indices = [renderer.series.steps.index(step) for step, _ in frames]
    assert (indices[0], indices[-1], len(indices)) == (0, 5, 3)
    assert indices[1] in (2, 3)
    for index, (step, path) in zip(indices, frames, strict=True):
        assert path == tmp_path / f"step_{step:08d}.png"
        assert np.array_equal(np.asarray(Image.open(path)), renderer.frame(index).pixels)
    assert [step for step, _ in write_key_frames(renderer, tmp_path)] == list(renderer.series.steps)
    assert [step for step, _ in write_key_frames(renderer, tmp_path, 1)] == [
        renderer.series.steps[-1]
    ]
    with pytest.raises(ConfigError, match="at least one"):
        write_key_frames(renderer, tmp_path, 0)


def test_key_frames_of_a_4k_picture_are_half_as_large_and_keep_their_cells(small_run, tmp_path):
    renderer = Renderer(Series(small_run), "heads", size="4k")
    ((_, path),) = write_key_frames(renderer, tmp_path, 1)
    shown, drawn = np.asarray(Image.open(path)), renderer.frame(5).pixels
    assert shown.shape == (1080, 1920, 3)
    box = renderer.plan.heatmaps[0].box
    box = dataclasses.replace(box, width=box.width // 4 * 2)  # the head's name is right of it
    assert np.array_equal(
        shown[box.y // 2 : box.bottom // 2, box.x // 2 : box.right // 2],
        drawn[box.y : box.bottom : 2, box.x : box.right : 2],
    ), "a cell's edge was blurred"


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_an_animation_keeps_every_picture_and_its_time(renderer, tmp_path, suffix):
    shots = storyboard(renderer.series.steps, seconds_per_capture=0.2, hold_s=1.5)
    picture = Image.open(write_animation(renderer, shots, tmp_path / f"a{suffix}"))
    assert picture.n_frames == 6
    assert picture.info["loop"] == 0
    durations = []
    for index in range(picture.n_frames):
        picture.seek(index)
        picture.load()
        durations.append(picture.info["duration"])
    assert durations == [200, 200, 200, 200, 200, 1500]


def test_an_animation_of_too_many_pictures_leaves_some_out_and_lasts_as_long(
    renderer, tmp_path, monkeypatch
):
    """The first and the last are kept, and each that stays is shown for those that do not."""
    monkeypatch.setattr(stills, "_ATTEMPTS", ((320, 90, 4),))
    kinds = ((0.0, "capture"), (0.5, "interpolated"))
    shots = [
        Shot(index, part, 0.1 + 0.02 * index, kind) for index in range(5) for part, kind in kinds
    ]
    shots.append(Shot(5, 0.0, 1.0, "end"))
    picture = Image.open(write_animation(renderer, shots, tmp_path / "a.webp"))
    assert (picture.n_frames, picture.size) == (4, (320, 180))
    kept, durations = [0, 3, 7, 10], []
    for place, index in enumerate(kept):
        picture.seek(place)
        shown = np.asarray(picture.convert("RGB")).astype(int)
        durations.append(picture.info["duration"])
        unlike = [
            np.abs(
                shown
                - np.asarray(
                    Image.fromarray(renderer.draw(shot).pixels).resize(
                        (320, 180), Image.Resampling.BOX
                    )
                )
            ).mean()
            for shot in shots
        ]
        assert np.argmin(unlike) == index
    ends = [*kept[1:], len(shots)]
    assert durations == [
        round(1000 * sum(shot.duration_s for shot in shots[start:end]))
        for start, end in zip(kept, ends, strict=True)
    ]


def test_a_gif_keeps_the_roles_colours(renderer, tmp_path):
    picture = Image.open(
        write_animation(renderer, storyboard(renderer.series.steps), tmp_path / "a.gif")
    )
    picture.seek(picture.n_frames - 1)
    shown = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)
    for role in {role for held in renderer.plan.roles.held for role in held.values()}:
        assert np.abs(shown - rgb(renderer.plan.theme.roles[role])).sum(1).min() <= 6, role


def test_an_animation_shrinks_until_it_fits_and_gives_up_in_words(renderer, tmp_path):
    shots = storyboard(renderer.series.steps)
    whole = write_animation(renderer, shots, tmp_path / "a.gif")
    small = write_animation(
        renderer, shots, tmp_path / "b.gif", max_bytes=whole.stat().st_size // 2
    )
    assert small.stat().st_size <= whole.stat().st_size // 2
    with pytest.raises(RenderError, match="at its smallest"):
        write_animation(renderer, shots, tmp_path / "c.gif", max_bytes=1000)
    assert not (tmp_path / "c.gif").exists()


def test_files_that_cannot_be_written_leave_nothing(renderer, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RenderError, match="cannot be written"):
        write_poster(renderer, tmp_path / "file" / "poster.png")
    with pytest.raises(ConfigError, match=r"\.png"):
        write_poster(renderer, tmp_path / "poster.gif")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize("size", ["720p", "square"])
def test_a_title_card_says_what_the_run_became_within_the_picture(
    small_run, size, theme, monkeypatch
):
    named = {
        "title": "a run whose name somebody gave in a hurry",
        "subtitle": "meta-llama/Llama-3.1-8B-Instruct-tuned-on-something · 8.03 B parameters",
    }
    renderer = Renderer(Series(small_run, **named), "heads", size=size, theme=theme)
    drawn, original = [], title_card.seaborn_pixels
    monkeypatch.setattr(
        title_card,
        "seaborn_pixels",
        lambda plan, values: drawn.append(plan) or original(plan, values),
    )
    frame = renderer.draw(storyboard(renderer.series.steps, title_s=2.0)[0])
    assert frame.step == 1000, "it shows the last capture"
    (card,) = drawn
    texts = [label.text for label in card.labels]
    assert texts[:3] == ["after training · step 1,000", *named.values()]
    sentence = renderer.plan.story.summary
    assert sentence
    assert sentence in " ".join(texts), "what the run became, in one sentence"
    roles = dict.fromkeys(event.role for event in renderer.plan.story.events if event.role)
    assert all(role.replace("_", " ") in texts for role in list(roles)[:2])
    for label in card.labels:
        assert label.x >= 0
        assert label.x + text_width(label.text, label.size_px, bold=label.bold) <= card.width
        assert label.y < card.height
    # The strongest head is there, large, in the colors of the film.
    event = strongest_event([each for each in renderer.plan.story.events if each.role])
    color = rgb(THEMES[theme].roles[event.role])
    assert (frame.pixels == color).all(2).sum() > 2000


def page_parts(path):
    text = path.read_text()
    description = json.loads(re.search(r'id="description">(.*?)</script>', text)[1])
    cells = zlib.decompress(base64.b64decode(re.search(r"CELLS = '(.*?)'", text)[1]))
    cells = np.frombuffer(cells, np.uint8).reshape(len(description["steps"]), -1)
    return description, np.cumsum(cells, axis=0, dtype=np.uint8), text


def test_the_page_holds_what_the_frames_show(renderer, tmp_path):
    description, cells, text = page_parts(write_explorer(renderer, tmp_path / "page"))
    assert description["steps"] == list(renderer.series.steps)
    assert "http" not in text.replace("</html>", ""), "the page must not fetch anything"
    for index in (0, 5):
        values = renderer.values(index)
        expected = [
            encode(values[heatmap.name], renderer.plan.scales[heatmap.scale]).reshape(-1)
            for heatmap in renderer.plan.heatmaps
        ]
        assert np.array_equal(cells[index], np.concatenate(expected))
    assert "&lt;a>" in text


def test_the_page_describes_its_maps_and_says_what_each_frame_says(renderer, tmp_path):
    plan, series, indices = renderer.plan, renderer.series, [1, 5]
    path = tmp_path / "page.html"
    path.write_bytes(explorer_page(renderer, indices))
    description, cells, text = page_parts(path)
    assert (description["title"], description["width"], description["height"]) == (
        series.title,
        1280,
        720,
    )
    assert (description["steps"], description["left"]) == ([series.steps[1], series.steps[5]], 4)
    assert "<title>&lt;a> &amp; 100&#37; small run" in text
    assert cells.shape[1] == sum(
        rows * columns for rows, columns in (heatmap.source.shape for heatmap in plan.heatmaps)
    )
    for shown, heatmap in zip(description["maps"], plan.heatmaps, strict=True):
        box, source = heatmap.box, heatmap.source
        assert (shown["name"], shown["scale"], shown["box"]) == (
            heatmap.name,
            heatmap.scale,
            [box.x, box.y, box.width, box.height],
        )
        assert (shown["rows"], shown["columns"]) == source.shape
        assert shown["head"] == (".".join(map(str, heatmap.head)) if heatmap.head else None)
        assert (shown["probe"], shown["pool"]) == (
            (source.probe, source.pool) if isinstance(source, HeadMap) else (None, 1)
        )
        hidden = shown["hidden"] and np.frombuffer(base64.b64decode(shown["hidden"]), np.uint8)
        if heatmap.mask is None:
            assert hidden is None
        else:
            bits = [hidden[at // 8] >> at % 8 & 1 for at in range(heatmap.mask.size)]
            assert np.array_equal(bits, heatmap.mask.reshape(-1))
    assert description["held"] == [
        {f"{block}.{head}": role for (block, head), role in plan.roles.held[index].items()}
        for index in indices
    ]
    assert description["roles"] == {role: plan.theme.roles[role] for role in plan.roles.names}
    assert [readout["texts"] for readout in description["readouts"]] == [
        [f"{series.steps[index]:,}" for index in indices],
        [f"{series.metrics[index]['loss']:.3f}" for index in indices],
        [si_number(series.tokens_seen[index]) for index in indices],
    ]
    assert [(shown["x"], shown["baseline"]) for shown in description["readouts"]] == [
        (each.x, each.baseline) for each in plan.readouts
    ]
    assert description["timeline"]["x"] == [
        round(plan.timeline.x(series.steps[index]), 1) for index in indices
    ]
    assert description["tokens"] == [row["tokens"] for row in series.last.probe["rows"]]


def test_the_page_names_the_block_and_the_head_or_matrix_of_a_cell(renderer, synthetic, tmp_path):
    def names(layout, series):
        path = tmp_path / "page.html"
        path.write_bytes(explorer_page(Renderer(series, layout, size="1080p"), [0]))
        return {
            each["name"]: (each["names"], each["rows"], each["columns"])
            for each in page_parts(path)[0]["maps"]
        }

    found = names("scores", renderer.series)
    (rows, columns), *shape = found["score · induction"]
    assert (rows, columns) == (
        [f"block {row}" for row in range(shape[0])],
        [f"head {column}" for column in range(shape[1])],
    )
    assert found["weights · distance from init"][0][1][2:5] == [
        "attention v",
        "attention o",
        "FFN gate",
    ]
    assert (
        names("heads", renderer.series)["Attention · repeated tokens · block 0 head 0"][0] is None
    ), "a row there is a token"

    captures = synthetic.write_run(
        tmp_path, 2, blocks=24, heads=24, length=32, width=16, hidden=24, period=7
    )
    mosaic = next(
        given
        for name, given in names("overview", Series(captures)).items()
        if name.endswith("blocks 0 to 23")
    )
    (rows, columns), n_rows, n_columns = mosaic
    assert (len(rows), len(columns)) == (n_rows, n_columns)
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (
        "block 0",
        "block 23",
        "head 0",
        "head 23",
    )


def test_every_step_of_a_pages_scale_is_the_scales_value_and_colour(renderer, tmp_path):
    description, _, _ = page_parts(write_explorer(renderer, tmp_path / "page"))
    assert description["scales"].keys() == renderer.plan.scales.keys()
    for key, scale in renderer.plan.scales.items():
        shown = description["scales"][key]
        colors = np.array(shown["colors"]).reshape(-1, 3)
        assert (shown["title"], len(shown["values"]), len(colors)) == (scale.label, 255, 255)
        values = np.array([float(text.replace("−", "-")) for text in shown["values"]])
        assert scale.positions(values) == pytest.approx(np.arange(255) / 254, abs=0.02), (
            "to the three digits that are shown"
        )
        drawn = scale.table()[scale.drawn(values).view(np.uint16)]
        assert np.abs(drawn.astype(int) - colors).max() <= 16, key


def test_titles_and_tokens_of_any_kind_stay_text(synthetic, tmp_path):
    capture = next(
        synthetic.captures(1, blocks=1, heads=2, length=12, width=12, hidden=16, period=4)
    )
    odd = ["</script><script>alert(1)</script>", "%CELLS%", "%BACKGROUND%", "<!--", "&lt;", '"'] * 2
    capture = dataclasses.replace(
        capture, probe={"length": 12, "rows": [{"kind": "text", "tokens": odd}] * 2}
    )
    renderer = Renderer(
        Series([synthetic.write_capture(tmp_path, capture)], title=odd[0] + "%CELLS%"),
        "heads",
        size="720p",
    )
    description, cells, text = page_parts(write_explorer(renderer, tmp_path / "page"))
    assert (description["title"], description["tokens"]) == (odd[0] + "%CELLS%", [odd, odd])
    assert len(cells) == 1
    assert text.count("<script") == text.count("</script") == 2, (
        "the description and the page's own"
    )


def test_a_page_without_a_timeline_roles_or_tokens_is_whole(synthetic, tmp_path):
    captures = list(
        synthetic.captures(2, blocks=1, heads=2, length=12, width=12, hidden=16, period=4)
    )
    bare = [
        dataclasses.replace(capture, probe={}, metrics={}, tokens_seen=None) for capture in captures
    ]
    series = Series([synthetic.write_capture(tmp_path, capture) for capture in bare])
    renderer = Renderer(
        series, Layout(name="bare", panels=(Weights(),), timeline=False), size="720p"
    )
    description, _, _ = page_parts(write_explorer(renderer, tmp_path / "page"))
    assert (description["timeline"], description["tokens"]) == (None, [])
    assert {shown["hidden"] for shown in description["maps"]} == {None}
    assert [readout["texts"] for readout in description["readouts"]] == [["0", "1,000"]]


def test_values_come_back_from_their_bytes_within_half_a_step():
    scale = ColorScale("x", "mako", 0.0, 1.0, "power", gamma=0.5)
    values = np.array([[0.0, 0.01, 0.25, 1.0, np.nan, np.inf]], np.float16)
    coded = encode(values, scale)
    assert coded.tolist() == [[0, 25, 127, 254, 255, 255]]


def test_a_page_that_would_be_too_large_leaves_captures_out_and_says_so(renderer, tmp_path):
    whole = write_explorer(renderer, tmp_path / "whole.html").stat().st_size
    path = write_explorer(renderer, tmp_path / "small.html", max_bytes=whole - 1000)
    description, _, _ = page_parts(path)
    assert path.stat().st_size < whole
    assert description["left"] == 6 - len(description["steps"]) > 0
    assert description["steps"][-1] == renderer.series.steps[-1]
    with pytest.raises(RenderError, match="two captures"):
        write_explorer(renderer, tmp_path / "none.html", max_bytes=1000)


@pytest.mark.chromium
def test_the_page_works_in_a_sandboxed_frame(renderer, page, tmp_path):
    page_path = write_explorer(renderer, tmp_path / "page.html")
    page.set_viewport_size({"width": 1280, "height": 800})
    errors, requests = [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_content(
        '<body style="margin:0"><iframe sandbox="allow-scripts" style="border:0;width:1280px;height:800px"></iframe>'
    )
    page.on(
        "request",
        lambda request: requests.append(request.url) if request.url.startswith("http") else None,
    )
    page.evaluate("(html) => document.querySelector('iframe').srcdoc = html", page_path.read_text())
    frame = page.frame_locator("iframe")
    frame.locator("body[data-ready=yes]").wait_for(timeout=60_000)
    frame.locator("#slider").fill("5")
    assert (
        "2,000" in frame.locator("#step").inner_text()
        or "1,000" in frame.locator("#step").inner_text()
    )
    inner = page.frames[1]
    heatmap = next(heatmap for heatmap in renderer.plan.heatmaps if heatmap.head)
    box = heatmap.box
    pixels = (
        f"picture.getContext('2d').getImageData({box.x}, {box.y}, {box.width}, {box.height}).data"
    )
    shown = np.array(inner.evaluate(f"Array.from({pixels})"), np.uint8).reshape(
        box.height, box.width, 4
    )[..., :3]
    difference = np.abs(
        shown.astype(int)
        - template.seaborn_pixels(renderer.plan, renderer.values(5))[
            box.y : box.bottom, box.x : box.right
        ]
    )
    assert difference.max() <= 6, (
        "the page's colours are the video's, to one of 255 steps of the scale"
    )
    area = frame.locator("#picture").bounding_box()
    scale = area["width"] / 1280
    at = area["x"] + (heatmap.box.x + 5) * scale, area["y"] + (heatmap.box.bottom - 5) * scale
    page.mouse.move(*at)
    values = []
    for step in range(6):
        frame.locator("#slider").fill(str(step))
        values.append(frame.locator("#tip").inner_text())
    assert all("looks at" in value for value in values)
    assert len(set(values)) > 1, "the value under the pointer is that of the step that is shown"
    page.mouse.move(0, 0)
    assert not frame.locator("#tip").is_visible()
    page.mouse.click(*at)
    assert "block 0 head 0" in frame.locator("#large b").inner_text()
    slider = frame.locator("#slider").bounding_box()
    page.mouse.click(slider["x"] + 4, slider["y"] + slider["height"] / 2)
    assert frame.locator("#large b").inner_text().endswith("step 0"), (
        "the slider works while a head is open"
    )
    frame.locator("body").press("Escape")
    assert not frame.locator("#large").is_visible()
    assert errors == []
    assert requests == []


def test_a_sweeps_title_that_reads_like_a_place_of_its_page_stays_text():
    page = in_step_page(
        "%GROUND% %DESCRIPTION% </title>", {"overview": [Player("a", "a.webm", (0, 5), (0.0, 1.0))]}
    )
    assert "<title>&#37;GROUND&#37; &#37;DESCRIPTION&#37; &lt;/title&gt;</title>" in page
    assert page.count('"starts_s"') == 1
