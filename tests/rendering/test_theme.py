"""The roles' colors are told apart by everybody, on both grounds, and from the loss curve; a theme
of one's own is checked."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tracker_viz.errors import ConfigError
from tracker_viz.metrics import ROLES
from tracker_viz.rendering import THEMES
from tracker_viz.rendering.theme import rgb

# Machado, Oliveira and Fernandes (2009), severity 1.0, on linear RGB.
EYES = {
    "normal": np.eye(3),
    "protanope": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranope": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanope": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def linear(color):
    value = np.array(rgb(color)) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(light):
    """CIELAB under D65 of linear RGB; distances of 10 are seen at a glance."""
    xyz = (
        np.array(
            [
                [0.4124564, 0.3575761, 0.1804375],
                [0.2126729, 0.7151522, 0.0721750],
                [0.0193339, 0.1191920, 0.9503041],
            ]
        )
        @ light
    )
    x, y, z = (
        np.cbrt(t) if t > 0.008856 else 7.787 * t + 16 / 116 for t in xyz / [0.95047, 1.0, 1.08883]
    )
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("eyes", EYES)
def test_roles_look_different_to_every_eye(theme, eyes):
    colors = THEMES[theme].roles
    assert set(colors) == {role.name for role in ROLES}
    seen = {
        role: lab(np.clip(np.array(EYES[eyes]) @ linear(color), 0, 1))
        for role, color in colors.items()
    }
    for one, other in itertools.combinations(seen, 2):
        # Roles on text stand beside those among repeats in summaries alone.
        least = 18 if "_text" in one + other else 25
        assert np.linalg.norm(seen[one] - seen[other]) > least, (
            f"{one} and {other} look alike to a {eyes} eye"
        )


@pytest.mark.parametrize("theme", THEMES.values(), ids=THEMES)
def test_roles_and_numbers_stand_out_from_the_ground(theme):
    def contrast(one, other):  # WCAG 2.1, 1.4.11: at least 3 for what is drawn, 4.5 for small text
        light, dark = sorted(
            (
                float(np.dot([0.2126, 0.7152, 0.0722], linear(color))) + 0.05
                for color in (one, other)
            ),
            reverse=True,
        )
        return light / dark

    assert all(contrast(color, theme.ground) > 3 for color in theme.roles.values())
    assert min(contrast(theme.text, theme.ground), contrast(theme.dim, theme.ground)) > 4.5


def test_a_color_that_is_none_says_how_one_is_written():
    with pytest.raises(ConfigError, match="#0d1117"):
        rgb("orange")
