"""Define the colors and fonts of pictures. A theme is chosen by name or made by the user; every
other module of rendering reads it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from tracker_viz.errors import ConfigError, unknown_name
from tracker_viz.rendering.backend import MPL_LOCK

# What a head does. Hues as of Okabe and Ito (2008), their lightness spread until color-blind eyes
# tell every two apart as well; a test holds that. The accent has no hue, so that the loss is not
# taken for a role. A role on text has the hue of the same one among repeats, darker or lighter.
_ROLE_COLORS = {
    "previous_token": "#4ad1ff",
    "induction": "#f7a21b",
    "duplicate_token": "#e13ca2",
    "current_token": "#f6ee9a",
    "sink": "#2c9a5c",
    "previous_token_text": "#0063de",
    "current_token_text": "#82780c",
    "sink_text": "#a0d5a7",
}
_ROLE_COLORS_LIGHT = {
    "previous_token": "#3851ee",
    "induction": "#d25b06",
    "duplicate_token": "#9c1f8c",
    "current_token": "#4b3c19",
    "sink": "#009f6b",
    "previous_token_text": "#190098",
    "current_token_text": "#906230",
    "sink_text": "#245f57",
}

# Lightness of the runs' curves, in turn.
_RUN_LIGHTNESS = (0.61, 0.45, 0.28)
_RUN_LIGHTNESS_DARK = (0.86, 0.70, 0.53)
# Families with letters that DejaVu lacks, as Linux, macOS and Windows have them. Color
# emoji are left out: matplotlib draws outlines only.
_OTHER_SCRIPTS = (
    *(
        "Noto Sans CJK SC",
        "Noto Sans CJK JP",
        "Source Han Sans SC",
        "WenQuanYi Zen Hei",
        "WenQuanYi Micro Hei",
        "Droid Sans Fallback",
    ),
    *(
        "PingFang SC",
        "Hiragino Sans GB",
        "Hiragino Sans",
        "Apple SD Gothic Neo",
        "Microsoft YaHei",
        "Yu Gothic",
        "Malgun Gothic",
    ),
    *(
        "Noto Sans Arabic",
        "Noto Sans Devanagari",
        "Noto Sans Thai",
        "Noto Emoji",
        "Symbola",
        "Segoe UI Emoji",
        "Arial Unicode MS",
    ),
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Theme:
    """Colors as ``#rrggbb``.

    Attributes:
        ground, panel: behind everything; behind a box, and where attention can not look.
        text, dim, faint: titles and numbers; labels; lines of a grid.
        accent: the loss curve and the playhead's dot.
        nonfinite: cells that are NaN or infinite.
        attention, signed, magnitude, quiet, score: color maps by name: 0..1 probabilities; values
            around 0; sizes from 0 up; 0..1 scores.
        roles: color of each role that a head can have.
    """

    ground: str = "#0d1117"
    panel: str = "#161b22"
    text: str = "#f0f3f6"
    dim: str = "#9aa4af"
    faint: str = "#2b323b"
    accent: str = "#e3e8ee"
    nonfinite: str = "#ff2bd6"
    attention: str = "mako"
    signed: str = "icefire"
    magnitude: str = "magma"
    quiet: str = "tracker_viz.quiet"
    score: str = "rocket"
    roles: Mapping[str, str] = field(default_factory=lambda: dict(_ROLE_COLORS))


THEMES = {
    "dark": Theme(),
    "light": Theme(
        ground="#ffffff",
        panel="#eef0f3",
        text="#14181d",
        dim="#57606a",
        faint="#d4d9df",
        accent="#24292f",
        nonfinite="#ff00c8",
        attention="mako_r",
        signed="vlag",
        magnitude="magma_r",
        quiet="tracker_viz.quiet_light",
        score="rocket_r",
        roles=_ROLE_COLORS_LIGHT,
    ),
}


def theme(name: str | Theme) -> Theme:
    """Return a theme by name, ``dark`` or ``light``; a Theme is returned as it is.

    Raises:
        ConfigError: no theme has this name.
    """
    if isinstance(name, Theme):
        return name
    if name not in THEMES:
        raise ConfigError(unknown_name("theme", str(name), THEMES))
    return THEMES[name]


@contextmanager
def fixed_style() -> Iterator[None]:
    """Use matplotlib's defaults inside the ``with``, whatever a matplotlibrc or style of the user
    says, so that the same input gives the same pixels. One thread at a time; may be nested."""
    global _is_fixed
    import matplotlib

    with MPL_LOCK:
        if _is_fixed:
            yield
            return
        # The methods of dict skip the checks of RcParams, and rc_context's copy by its own: for 300
        # values they take longer than measuring a line of text.
        parameters: Any = matplotlib.rcParams
        before = {name: dict.__getitem__(parameters, name) for name in _style()}
        dict.update(parameters, _style())
        _is_fixed = True
        try:
            with warnings.catch_warnings():
                # Once for each letter and drawing; say_what_has_no_glyph says it once.
                warnings.filterwarnings("ignore", r"Glyph \d+ ")
                yield
        finally:
            _is_fixed = False
            dict.update(parameters, before)


_is_fixed = False  # True inside fixed_style; guarded by MPL_LOCK


@cache
def _style() -> dict[str, Any]:
    """Return matplotlib's default parameters with our fonts, checked once."""
    import matplotlib

    # Not ours to set; deprecated in matplotlib 3.11.
    left_out = ("backend", "interactive", "text.hinting_factor")
    style: dict[str, Any] = {
        key: value for key, value in matplotlib.rcParamsDefault.items() if key not in left_out
    }
    style |= {"font.family": font_families(), "figure.dpi": 100.0}
    style |= {"text.hinting": "force_autohint"}
    checked: Any = matplotlib.RcParams(style)
    return dict(checked)


@cache
def font_families(*, mono: bool = False) -> list[str]:
    """Return DejaVu, then the families for other scripts that are installed. DejaVu comes with
    matplotlib and is first, so that what it can write looks the same everywhere."""
    from matplotlib.font_manager import fontManager, weight_dict

    here = []  # matplotlib warns of each family that is not
    for family in _OTHER_SCRIPTS:
        if faces := [font for font in fontManager.ttflist if font.name == family]:
            here.append(family)
            weights = {weight_dict.get(str(face.weight), face.weight) for face in faces}
            # It would warn of each text in a weight that the family lacks, too.
            fontManager.ttflist += [
                replace(faces[0], weight=weight) for weight in (400, 700) if weight not in weights
            ]
    return ["DejaVu Sans Mono" if mono else "DejaVu Sans", *here]


def say_what_has_no_glyph(text: str) -> None:
    """Warn once in a process if letters of ``text`` are in no font here, so that boxes are drawn
    for them."""
    if _said_once.cache_info().currsize:
        return
    if missing := letters_without_glyph(text):
        _said_once(missing)


@cache
def letters_without_glyph(text: str) -> str:
    """Return the letters of ``text`` that are in no font here."""
    if text.isascii():
        return ""
    from matplotlib.font_manager import findfont, get_font

    fonts = [get_font(findfont(family)) for family in font_families()]
    missing = ""
    for letter in dict.fromkeys(text):
        if not any(font.get_char_index(ord(letter)) for font in fonts):
            missing += letter
    return missing


@cache
def _said_once(letters: str) -> None:
    import matplotlib

    log.warning(
        "no installed font has %s, so they appear as boxes. On Debian and "
        "Ubuntu, install fonts-noto-cjk (Chinese, Japanese, Korean), "
        "fonts-symbola (emoji) or fonts-noto-core (others); then delete "
        "%s/fontlist*.json, matplotlib's list of fonts",
        letters,
        matplotlib.get_cachedir(),
    )


def rgb(color: str) -> tuple[int, int, int]:
    """Return ``#rrggbb`` as three integers 0..255.

    Raises:
        ConfigError: it has another form.
    """
    if len(color) != 7 or color[0] != "#":
        raise ConfigError(f"a theme's color looks like '#0d1117'; got {color!r}")
    try:
        return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
    except ValueError:
        raise ConfigError(f"a theme's color looks like '#0d1117'; got {color!r}") from None


def on_color(color: str) -> str:
    """Return the color of words on a ground, black or white: the one with more contrast by the
    luminance of WCAG 2 (https://www.w3.org/TR/WCAG22/#dfn-relative-luminance)."""
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (channel / 255 for channel in rgb(color))
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if luminance > 0.179 else "#ffffff"


def run_colors(n_runs: int, theme: Theme) -> tuple[str, ...]:
    """Return one color for each run, as far apart as so many can be.

    Neighbors differ in lightness as well, because color-blind eyes do not tell all hues apart.
    """
    import seaborn

    is_dark = sum(rgb(theme.ground)) < 3 * 128
    saturation, lightness = 0.85, _RUN_LIGHTNESS
    if is_dark:
        saturation, lightness = 0.72, _RUN_LIGHTNESS_DARK
    by_lightness = {}
    for each in lightness:
        by_lightness[each] = seaborn.husl_palette(n_runs, h=0.02, s=saturation, l=each)
    colors = []
    for run in range(n_runs):
        color = by_lightness[lightness[run % len(lightness)]][run]
        red, green, blue = (round(255 * part) for part in color)
        colors.append(f"#{red:02x}{green:02x}{blue:02x}")
    return tuple(colors)
