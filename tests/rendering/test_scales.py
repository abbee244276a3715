"""Colors and ticks of a scale, against matplotlib's norms of the values themselves."""

from __future__ import annotations

import itertools

import matplotlib
import numpy as np
import pytest
from matplotlib import colors

from tracker_viz.errors import ConfigError
from tracker_viz.rendering.scales import ColorScale, bar_ticks, short_number


def scales(largest):
    """(scale up to ``largest``, matplotlib's norm of the values as they are)"""
    low = largest / 300
    yield ColorScale("", "mako", 0.0, largest), colors.Normalize(0.0, largest, clip=True)
    yield ColorScale("", "mako", low, largest, norm="log"), colors.LogNorm(low, largest, clip=True)
    yield (
        ColorScale("", "mako", 0.0, largest, norm="power", gamma=0.25),
        colors.PowerNorm(0.25, 0.0, largest, clip=True),
    )
    # fmt: off
    yield (ColorScale("", "icefire", -largest / 2, largest, norm="symlog", linear_within=low),
           colors.SymLogNorm(low, vmin=-largest / 2, vmax=largest, base=10, clip=True))
    # fmt: on
    yield (
        ColorScale("", "icefire", -largest / 4, largest, norm="centred"),
        colors.TwoSlopeNorm(0.0, -largest / 4, largest),
    )


@pytest.mark.parametrize("largest", [3e-9, 0.04, 0.9, 5.0, 1.6e4, 7e4, 2e12])
def test_values_of_any_size_have_the_color_and_the_place_that_matplotlib_gives_them(largest):
    for scale, norm in scales(largest):
        values = np.linspace(scale.minimum, scale.maximum, 97)
        assert scale.positions(values) == pytest.approx(norm(values), abs=1e-6)
        found = scale.table()[scale.drawn(values).view(np.uint16)].astype(int)
        # half a step of float16 may carry a value into the neighboring one of the map's 256
        # colors
        table = np.floor(
            matplotlib.colormaps[scale.cmap](np.arange(256))[:, :3] * 255 + 0.5
        ).astype(int)
        index = np.minimum(norm(values) * 256, 255).astype(int)
        near = np.stack([table[np.clip(index + step, 0, 255)] for step in (-1, 0, 1)])
        assert (near == found).all(2).any(0).all(), scale


def test_values_beyond_the_ends_take_the_ends_colors_and_nan_its_own():
    for scale, _ in scales(0.5):
        ends = scale.table()[np.array([scale.minimum, scale.maximum], np.float16).view(np.uint16)]
        beyond = scale.table()[scale.drawn(np.array([-6e4, 6e4, np.nan, np.inf])).view(np.uint16)]
        assert np.array_equal(beyond, [*ends, (255, 43, 214), (255, 43, 214)]), scale.norm


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        (ColorScale("", "mako", 0.0, 1.0), [(0.0, "0"), (0.5, "0.5"), (1.0, "1")]),
        (
            ColorScale("", "mako", 2.0, 4.0, clipped=(True, True)),
            [(0.0, "≤2"), (0.5, "3"), (1.0, "≥4")],
        ),
        (ColorScale("", "icefire", -1.0, 3.0), [(0.0, "−1"), (0.25, "0"), (1.0, "3")]),
        (
            ColorScale("", "icefire", -1.0, 3.0, norm="centred", clipped=(False, True)),
            [(0.0, "−1"), (0.5, "0"), (1.0, "≥3")],
        ),
        (
            ColorScale("", "mako", 0.0, 1.0, norm="power"),
            [(0.0, "0"), (0.05**0.5, "0.05"), (0.5, "0.25"), (0.5**0.5, "0.5"), (1.0, "1")],
        ),
        (
            ColorScale("", "mako", 0.05, 20.0, norm="log"),
            [(0.0, "0.05"), (0.115689, "0.1"), (0.5, "1"), (0.884311, "10"), (1.0, "20")],
        ),
    ],
)
def test_a_bar_names_its_ends_and_what_lies_between_where_it_lies(scale, expected):
    found = bar_ticks(scale, 40.0 if scale.norm == "log" else 24.0)
    assert [text for _, text in found] == [text for _, text in expected]
    assert [position for position, _ in found] == pytest.approx(
        [position for position, _ in expected], abs=1e-6
    )


def test_ticks_stay_on_the_bar_and_apart_however_narrow_it_is():
    for (scale, _), width_em in itertools.product(
        [*scales(0.5), *scales(3e-9)], np.linspace(7, 40, 67)
    ):
        ticks = bar_ticks(scale, width_em)
        assert ticks[0] == (0.0, short_number(scale.minimum)), "the lower end is always named"
        spans = []
        for position, text in ticks:
            wide = 0.64 * len(text)
            left = (
                0.0
                if position < 0.02
                else width_em - wide
                if position > 0.98
                else position * width_em - wide / 2
            )
            spans.append((left, left + wide))
        gaps = [start - end for (_, end), (start, _) in itertools.pairwise(spans)]
        assert min(gaps, default=1.0) > 0.45, (scale, width_em, ticks)
        assert spans[-1][1] <= width_em + 1e-9, (scale, width_em, ticks)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (0.25, "0.25"), (-0.5, "−0.5"), (1 / 3, "0.333"), (1e-3, "0.001"),
        (9.99e-4, "1e−3"), (-1.23e-5, "−1.2e−5"), (1234.0, "1234"),
        (9999.0, "9999"), (1e4, "1e4"), (2.5e6, "2.5e6"),
    ],
)  # fmt: skip
def test_numbers_are_short(value, text):
    assert short_number(value) == text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"minimum": 1.0, "maximum": 1.0}, "larger"),
        ({"minimum": 2.0, "maximum": 1.0}, "larger"),
        ({"minimum": float("nan")}, "larger"),
        ({"maximum": float("inf")}, "larger"),
        ({"norm": "logg"}, "did you mean 'log'"),
        ({"norm": "log"}, "above 0"),
        ({"norm": "symlog"}, "linear_within > 0"),
        ({"norm": "centred"}, "0 between its ends"),
        ({"norm": "centred", "minimum": -1.0, "maximum": 0.0}, "0 between its ends"),
    ],
)
def test_a_scale_without_a_meaning_is_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        ColorScale(**{"title": "mine", "cmap": "mako", "minimum": 0.0, "maximum": 1.0, **options})


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("virdis", "did you mean 'viridis'"),
        ("Mako", "did you mean 'mako'"),
        ("qqqq", "some that fit: mako"),
    ],
)
def test_an_unknown_color_map_names_the_near_ones(name, says):
    with pytest.raises(ConfigError, match=says):
        ColorScale("mine", name, 0.0, 1.0).table()
