"""Posters, key frames and animations: whole or not there at all, and the same as the video."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from tracker_viz.errors import ConfigError, RenderError
from tracker_viz.metrics import RoleEvent, strongest_event
from tracker_viz.rendering import (
    THEMES,
    Renderer,
    Series,
    poster_moments,
    storyboard,
    write_animation,
    write_key_frames,
    write_poster,
)
from tracker_viz.rendering.export import images
from tracker_viz.rendering.painting import title_card
from tracker_viz.rendering.story import Story
from tracker_viz.rendering.storyboard import Shot
from tracker_viz.rendering.text import text_width
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
        RoleEvent(steps[index - 1], steps[index], role="sink", strength=strength)
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
    # The left lower quarter, which only cells are drawn in.
    top, right = box.y + box.height // 2, box.x + box.width // 2
    assert np.array_equal(
        shown[top // 2 : box.bottom // 2, box.x // 2 : right // 2],
        drawn[top : box.bottom : 2, box.x : right : 2],
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
    monkeypatch.setattr(images, "_ATTEMPTS", ((320, 90, 4),))
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


def test_what_changes_slowly_reaches_its_color(renderer):
    """libwebp leaves pixels as they are that hardly differ from the picture before."""
    grays = [*range(100, 200, 2), 200]
    pictures = [Image.new("RGB", (64, 32), (gray, gray, gray)) for gray in grays]
    for picture, gray in zip(pictures, grays, strict=True):
        for corner in ((0, 0, 8, 8), (56, 24, 64, 32)):  # what always changes, all around
            picture.paste((255 - gray, (37 * gray) % 256, 0), corner)
    contents = images._animated(pictures, [40] * len(pictures), ".webp", 60, renderer.plan.theme)
    animation = Image.open(io.BytesIO(contents))
    animation.seek(animation.n_frames - 1)
    assert abs(int(np.array(animation.convert("RGB"))[16, 32, 0]) - 200) < 14


def test_a_gif_keeps_the_roles_colors(renderer, tmp_path):
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
    drawn, original = [], title_card.words_alone
    monkeypatch.setattr(
        title_card,
        "words_alone",
        lambda plan: drawn.append(plan) or original(plan),
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


@pytest.mark.parametrize(("layout", "shown"), [("heads", [1]), ("overview", [])])
def test_the_title_card_shows_a_role_on_its_own_row_of_the_probe_alone(small_run, layout, shown):
    plan = Renderer(Series(small_run), layout).plan
    event = RoleEvent(0, 10, heads=((0, 0),), role="previous_token_text", strength=0.9)
    with_event = dataclasses.replace(plan, story=dataclasses.replace(plan.story, events=(event,)))
    maps = title_card._strongest_maps(with_event)
    assert [heatmap.source.probe for heatmap, _ in maps] == shown
