"""What seaborn drew once is the same when it comes from the disk, and the disk may lose it."""

from __future__ import annotations

import functools
import gc
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from tracker_viz.rendering import LAYOUTS, Renderer, Series, kept, scales
from tracker_viz.rendering.painting import template as templates
from tracker_viz.rendering.painting.template import make_template
from tracker_viz.rendering.plan import Box, Curve
from tracker_viz.rendering.scales import ColorScale, colormap
from tracker_viz.rendering.text import (
    KnownTexts,
    known_texts,
)

# In a process of its own: this one has imported seaborn.
PROGRAM = """
import sys
import numpy as np
from tracker_viz.rendering import Renderer, Series
from tracker_viz.rendering.scales import ColorScale
from tracker_viz.types import CapturePath, CaptureRef
from pathlib import Path

paths = sorted(Path(sys.argv[1]).glob("*.safetensors"))
captures = [
    CapturePath(CaptureRef(int(path.stem[-8:]), path.name, 1, "0" * 64), path) for path in paths
]
renderer = Renderer(Series(captures), "overview", size="720p")
frame = renderer.frame(3).pixels
loaded = [name for name in ("seaborn", "matplotlib") if name in sys.modules]
table = ColorScale("", "icefire_r", -1.0, 1.0, "centred").table()
np.savez(sys.argv[2], frame=frame, table=table, loaded=np.array(loaded, str))
"""


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKER_VIZ_CACHE", str(tmp_path / "cache"))
    scales._keep_seaborns.cache_clear()
    scales._table.cache_clear()


def assert_equal(one, other):
    assert np.array_equal(one.background, other.background)
    assert np.array_equal(one.played, other.played)
    assert one.cell_maps.keys() == other.cell_maps.keys()
    for name, cell_map in one.cell_maps.items():
        assert np.array_equal(cell_map.cells, other.cell_maps[name].cells), name
        assert cell_map.cells.dtype == other.cell_maps[name].cells.dtype
        assert cell_map.replication == other.cell_maps[name].replication
        assert cell_map.blended == other.cell_maps[name].blended


@pytest.mark.parametrize("layout", [*LAYOUTS])
def test_a_template_from_the_disk_equals_a_fresh_one(small_run, layout, monkeypatch):
    """Bit for bit, for maps that are masked, have lines or cells of broken pixels, or overlap."""
    plan = Renderer(Series(small_run), layout, size="720p").plan
    first = plan.heatmaps[0]
    odd = replace(first, box=Box(first.box.x, first.box.y, 131, 97), line_px=1.5)
    over = replace(first, name="over", box=Box(first.box.x + 40, first.box.y + 40, 150, 97))
    plans = [plan, replace(plan, heatmaps=(odd, over, *plan.heatmaps[1:]))]
    fresh = [make_template(each) for each in plans]
    assert any(cell_map.blended for cell_map in fresh[1].cell_maps.values())

    assert kept.fonts(), "matplotlib has no list of fonts here"
    monkeypatch.setattr(templates, "_learned", None)
    monkeypatch.setattr(templates, "_drawn_around", None)
    for each, expected in zip(plans, fresh, strict=True):
        assert_equal(make_template(each), expected)


def test_where_boxes_lie_and_how_they_look_make_a_template_of_its_own(small_run):
    plan = Renderer(Series(small_run), "overview", size="720p").plan
    first, *others = plan.heatmaps
    keys = {templates._places(plan)}
    for change in (
        {"box": replace(first.box, x=first.box.x + 2)},
        {"mask": np.zeros(first.source.shape, bool)},
        {"line_px": 2.0},
        {"line_color": "#123456"},
    ):
        keys.add(templates._places(replace(plan, heatmaps=(replace(first, **change), *others))))
    keys.add(templates._places(replace(plan, width=plan.width + 2)))
    keys.add(templates._places(replace(plan, theme=replace(plan.theme, panel="#123456"))))
    assert len(keys) == 7


@pytest.mark.parametrize(
    "change",
    [
        {"labels": ()},
        {"swatches": ()},
        {"bars": ()},
        {"timeline": None},
        {"width": 1300},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_stands_around_the_maps_is_drawn_anew_where_it_differs(small_run, change):
    plan = Renderer(Series(small_run), "overview", size="720p").plan
    assert templates._surroundings(replace(plan, **change)) != templates._surroundings(plan)


def test_one_point_of_a_long_curve_makes_a_picture_of_its_own(small_run):
    plan = Renderer(Series(small_run), "overview", size="720p").plan
    curve = np.stack([np.linspace(100.0, 900.0, 5000), np.full(5000, 640.0)], 1)
    other = curve.copy()
    other[2500, 1] += 0.25
    one, two = (
        replace(plan, timeline=replace(plan.timeline, curves=(Curve(points, "red", "gray"),)))
        for points in (curve, other)
    )
    assert templates._surroundings(one) != templates._surroundings(two)


def test_texts_are_kept_but_for_letters_that_no_font_here_has(monkeypatch):
    for text in ("kept · √", "not kept \U0001fffe"):
        known_texts().add_width((text, 20.0, False, False), 123)
        known_texts().add_drawing((text, 20.0, True, False), np.full((30, 9), 7, np.uint8))
    known_texts().keep()
    again = KnownTexts()
    assert again.widths["kept · √", 20.0, False, False] == 123
    assert (again.drawn["kept · √", 20.0, True, False] == 7).all()
    assert again.drawn["kept · √", 20.0, True, False].shape == (30, 9)
    assert not [key for key in (*again.widths, *again.drawn) if key[0].startswith("not kept")]


def forget_what_this_process_remembers():
    """Empty every ``functools.cache`` of rendering: what it holds is not asked of the disk."""
    caches = [each for each in gc.get_objects() if isinstance(each, functools._lru_cache_wrapper)]
    for cache in caches:
        if cache.__module__.startswith("tracker_viz.rendering"):
            cache.cache_clear()


def test_the_next_process_draws_the_same_without_seaborn_and_matplotlib(small_run, tmp_path):
    forget_what_this_process_remembers()
    renderer = Renderer(Series(small_run), "overview", size="720p")
    renderer.frame(3)
    known_texts().keep()
    colormap("icefire_r")
    directory = small_run[0].path.parent
    subprocess.run([sys.executable, "-c", PROGRAM, directory, tmp_path / "drawn.npz"], check=True)
    drawn = np.load(tmp_path / "drawn.npz")
    assert drawn["loaded"].tolist() == [], "imported for what is known"
    assert np.array_equal(drawn["frame"], renderer.frame(3).pixels)
    assert np.array_equal(drawn["table"], ColorScale("", "icefire_r", -1.0, 1.0, "centred").table())


def test_what_is_damaged_is_learned_anew(small_run):
    plan = Renderer(Series(small_run), "overview", size="720p").plan
    fresh = make_template(plan)
    for cut in (0, 10, 1000):
        for path in kept.directory().glob("boxes-*.npz"):
            path.write_bytes(path.read_bytes()[:cut])
        assert_equal(make_template(plan), fresh)


def test_what_was_used_longest_ago_goes_first(monkeypatch):
    noise = np.random.default_rng(0).integers(0, 255, 10_000).astype(np.uint8)
    monkeypatch.setattr(kept, "MOST_BYTES", 25_000)
    for number, key in enumerate(("a", "b")):
        kept.keep("test", key, {"noise": noise})
        os.utime(kept._path("test", key), (number, number))
    assert kept.recall("test", "a") is not None
    kept.keep("test", "c", {"noise": noise})
    found = {key for key in "abc" if kept.recall("test", key) is not None}
    assert found == {"a", "c"}


def test_a_disk_that_takes_nothing_is_no_reason_to_fail(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRACKER_VIZ_CACHE", str(tmp_path / "file"))
    assert kept.keep("test", "a", {"one": np.ones(2)})["one"].sum() == 2
    assert kept.recall("test", "a") is None
