"""Turn values into colors: one ColorScale per kind of array, fixed for the whole video.

A scale is a matplotlib norm and color map as numbers and names. Because captures hold float16, a
scale is also a table of 65,536 colors, one per bit pattern: looking a value up there gives exactly
the color that matplotlib would draw.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tracker_viz.errors import ConfigError, unknown_name
from tracker_viz.rendering import kept
from tracker_viz.rendering.theme import THEMES, Theme, fixed_style, rgb

NormName = Literal["linear", "log", "symlog", "power", "centred"]
NORMS: tuple[NormName, ...] = get_args(NormName)
SCALE_KINDS = ("attention", "mixing", "weights", "score")
_NUMBERS = ("minimum", "maximum", "gamma", "linear_within")
_CHOSEN = ("title", "cmap", "norm", *_NUMBERS)

# float16 is coarse below 2**-14 and ends at 65504: values are drawn in units of a power of two that
# brings them in between.
_LARGEST_DRAWN = 2.0**14
_SMALLEST_DRAWN = 2.0**-4

# Maps whose tables are kept: those of the themes, because nobody registers another one under the
# same name.
_LASTING: set[str] = set()
for _theme in THEMES.values():
    _LASTING |= {_theme.attention, _theme.signed, _theme.magnitude, _theme.quiet, _theme.score}
_KIND = "colormap"  # under which kept has seaborn's maps


@dataclass(frozen=True, slots=True)
class ColorScale:
    """Maps values to colors, for one kind of array.

    Attributes:
        title: what the values are, with the unit.
        cmap: a seaborn or matplotlib color map by name.
        minimum, maximum: values at the color map's ends; values beyond them take the end's color.
        norm: ``linear``, ``log`` (minimum > 0), ``symlog`` (linear within +-``linear_within``),
            ``power`` (exponent ``gamma``), or ``centred`` (linear on both sides of 0, each to its
            own end).
        clipped: (below, above): whether values beyond that end exist; the color bar says so.
    """

    title: str
    cmap: str
    minimum: float
    maximum: float
    norm: NormName = "linear"
    gamma: float = 0.5
    linear_within: float = 0.0
    nonfinite: str = "#ff2bd6"
    clipped: tuple[bool, bool] = (False, False)

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ConfigError(unknown_name("norm", str(self.norm), NORMS))
        if not -math.inf < self.minimum < self.maximum < math.inf:
            raise ConfigError(
                f"a color scale goes from a number to a larger one; got {self.minimum} to "
                f"{self.maximum} for {self.title!r}"
            )
        if self.norm == "log" and self.minimum <= 0:
            raise ConfigError(
                f"a log scale starts above 0; got {self.minimum} for {self.title!r}: use "
                "norm=symlog, or give a minimum"
            )
        if self.norm == "symlog" and self.linear_within <= 0:
            raise ConfigError(
                f"a symlog scale needs linear_within > 0; got {self.linear_within} for "
                f"{self.title!r}"
            )
        if self.norm == "centred" and not self.minimum < 0 < self.maximum:
            raise ConfigError(
                f"a centred scale has 0 between its ends; got {self.minimum} to {self.maximum} for "
                f"{self.title!r}"
            )

    @property
    def label(self) -> str:
        """Title of the color bar, with the name of the norm unless it is linear or centred."""
        if self.norm in ("linear", "centred"):
            return self.title
        spread: str = self.norm
        if self.norm == "power":
            spread = "√" if self.gamma == 0.5 else f"power {self.gamma:g}"
        return f"{self.title} · {spread} scale"

    @property
    def unit(self) -> float:
        """The power of two that values are divided by before they become float16; 1.0 unless they
        are very small or very large."""
        largest = max(abs(self.minimum), abs(self.maximum))
        if _SMALLEST_DRAWN <= largest <= _LARGEST_DRAWN:
            return 1.0
        return 2.0 ** math.floor(math.log2(largest))

    def drawn(self, values: NDArray[Any]) -> NDArray[np.float16]:
        """Return ``values`` in the scale's unit as float16, the only precision that is ever drawn;
        infinities become NaN."""
        unit = self.unit
        if values.dtype == np.float16 and unit == 1.0:
            return values
        with np.errstate(all="ignore"):
            scaled = np.asarray(values, np.float32) / np.float32(unit)
            drawn = scaled.astype(np.float16)
            if np.isfinite(drawn).all():
                return drawn
            # A finite value beyond float16's range must keep the color of the scale's end, and not
            # become infinite.
            clipped = np.clip(scaled, -65504.0, 65504.0)
            return np.where(np.isfinite(scaled), clipped, np.nan).astype(np.float16)

    def mpl_norm(self) -> Any:
        """Return the matplotlib norm of drawn (not raw) values; it clips."""
        from matplotlib import colors

        low, high = self.minimum / self.unit, self.maximum / self.unit
        match self.norm:
            case "linear":
                return colors.Normalize(low, high, clip=True)
            case "log":
                return colors.LogNorm(low, high, clip=True)
            case "symlog":
                within = self.linear_within / self.unit
                return colors.SymLogNorm(within, vmin=low, vmax=high, base=10, clip=True)
            case "power":
                return colors.PowerNorm(self.gamma, low, high, clip=True)
            case "centred":
                # TwoSlopeNorm has no clip; the color map gives values beyond the ends its end
                # colors.
                return colors.TwoSlopeNorm(0.0, low, high)

    def mpl_cmap(self) -> Any:
        """Return the matplotlib color map; values that are masked stay transparent."""
        return colormap(self.cmap)

    def positions(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return the places of values on the color bar, 0..1."""
        return np.asarray(self.mpl_norm()(np.asarray(values, np.float64) / self.unit), np.float64)

    def table(self) -> NDArray[np.uint8]:
        """Return the RGB of the float16 value with each bit pattern: uint8 [65536, 3]; NaN and
        infinities are ``nonfinite``."""
        return _table(self)


@lru_cache(maxsize=64)
def _table(scale: ColorScale) -> NDArray[np.uint8]:
    if scale.cmap not in _LASTING and not scale.cmap.startswith(_ROLE_MAP):
        return _computed_table(scale)
    key = repr(scale)
    remembered = kept.recall("table", key)
    if remembered is None:
        remembered = kept.keep("table", key, {"colors": _computed_table(scale)})
    table: NDArray[np.uint8] = remembered["colors"]
    table.flags.writeable = False
    return table


def _computed_table(scale: ColorScale) -> NDArray[np.uint8]:
    values = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    finite = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        rgba = scale.mpl_cmap()(scale.mpl_norm()(np.ma.masked_array(values, ~finite)))
    # Agg rounds; cmap(bytes=True) truncates.
    table = np.floor(rgba[:, :3] * 255.0 + 0.5).astype(np.uint8)
    table[~finite] = rgb(scale.nonfinite)
    table.flags.writeable = False
    return table


def check_scale_options(scales: Mapping[str, Mapping[str, Any]]) -> None:
    """Check changes to color scales, one of ``SCALE_KINDS`` -> options of ColorScale, before the
    values that they will show are known.

    Raises:
        ConfigError: a kind or an option does not exist, or an option has no meaning.
    """
    if not isinstance(scales, Mapping):
        raise ConfigError(
            f"scales is a mapping, like {{attention: {{cmap: viridis}}}}; got {scales!r}"
        )
    for kind, options in scales.items():
        if kind not in SCALE_KINDS:
            raise ConfigError(unknown_name("color scale", str(kind), SCALE_KINDS))
        if not isinstance(options, Mapping):
            raise ConfigError(
                f"the color scale {kind!r} is a mapping of options, like {{cmap: viridis}}; got "
                f"{options!r}"
            )
        for option, value in options.items():
            if option not in _CHOSEN:
                raise ConfigError(
                    unknown_name(f"option of the color scale {kind!r}", str(option), _CHOSEN)
                )
            _check_scale_option(kind, option, value)
        if {"minimum", "maximum"} <= options.keys():
            # Made only for its checks: the options must fit each other, too.
            ColorScale(**{"title": kind, "cmap": "mako", **options})


def _check_scale_option(kind: str, option: str, value: object) -> None:
    if option in _NUMBERS:
        if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
            raise ConfigError(f"{option} of the color scale {kind!r} is a number; got {value!r}")
        if option in ("gamma", "linear_within") and value <= 0:
            raise ConfigError(f"{option} of the color scale {kind!r} is above 0; got {value!r}")
    elif not isinstance(value, str):
        raise ConfigError(f"{option} of the color scale {kind!r} is a string; got {value!r}")
    elif option == "cmap":
        colormap(value)
    elif option == "norm" and value not in NORMS:
        raise ConfigError(unknown_name("norm", value, NORMS))


# Sizes of weights beside attention: the eye goes to attention first, so these stay near the ground.
QUIET_COLORS = {
    "tracker_viz.quiet": ("#0b0d12", "#181b26", "#2c2b40", "#4a3d5c", "#735575"),
    "tracker_viz.quiet_light": ("#ffffff", "#f3eff4", "#e0d8e4", "#c6b8cf", "#a08fb0"),
}


ROLE_LEVELS = 32
"""Shades of a role's color: one for each step of a head's margin."""

_ROLE_MAP = "tracker_viz.roles"
_FAINTEST, _NEAREST = 0.30, 0.45  # parts of the full color


_CHOICE_MAP = "tracker_viz.choice"


def choice_colormap(name: str) -> str:
    """Return the name of a color map that has two colors, those of the ends of another one."""
    return f"{_CHOICE_MAP} {name}"


def role_colormap(theme: Theme, roles: Sequence[str]) -> str:
    """Return the name of a color map of ``(len(roles) + 1) * ROLE_LEVELS`` colors: gray shades for
    heads without a role, then the shades of each role."""
    colors = [theme.panel, theme.dim, *(theme.roles[role] for role in roles)]
    return " ".join([_ROLE_MAP, *colors])


def _role_colors(panel: str, gray: str, *roles: str) -> Any:
    from matplotlib.colors import ListedColormap

    ground = np.array(rgb(panel)) / 255.0
    part = np.linspace(0.0, 1.0, ROLE_LEVELS)[:, None]
    shades = [ground + _NEAREST * part * (np.array(rgb(gray)) / 255.0 - ground)]
    for role in roles:
        full = np.array(rgb(role)) / 255.0
        shades.append(ground + (_FAINTEST + (1 - _FAINTEST) * part) * (full - ground))
    return ListedColormap(np.concatenate(shades), name=_ROLE_MAP)


def colormap(name: str) -> Any:
    """Return a seaborn or matplotlib color map by name.

    Raises:
        ConfigError: no map has this name; the message lists the near ones.
    """
    import matplotlib
    from matplotlib.colors import LinearSegmentedColormap, ListedColormap

    if name in QUIET_COLORS:
        return LinearSegmentedColormap.from_list(name, QUIET_COLORS[name])
    if name.startswith(_CHOICE_MAP):
        ends = colormap(name.removeprefix(_CHOICE_MAP).strip())([0.0, 1.0])
        return ListedColormap(ends, name)
    if name.startswith(_ROLE_MAP):
        return _role_colors(*name.split(" ")[1:])
    if name not in matplotlib.colormaps:
        remembered = kept.recall(_KIND, name)
        if remembered is not None:
            return ListedColormap(remembered["colors"], name)
        with fixed_style():
            import seaborn  # noqa: F401  registers its own maps with matplotlib
        if name not in matplotlib.colormaps:
            raise ConfigError(_unknown_colormap(name, list(matplotlib.colormaps)))
    _keep_seaborns(name)
    return matplotlib.colormaps[name]


@lru_cache
def _keep_seaborns(name: str) -> None:
    """Keep a map that is seaborn's own, so that the next process need not import seaborn for it."""
    maps = sys.modules.get("seaborn.cm")
    if hasattr(maps, name) and kept.recall(_KIND, name) is None:
        kept.keep(_KIND, name, {"colors": np.asarray(getattr(maps, name).colors, np.float64)})


def _unknown_colormap(name: str, known: list[str]) -> str:
    import difflib

    lower = {known_name.lower(): known_name for known_name in known}
    near = difflib.get_close_matches(str(name).lower(), list(lower), n=4, cutoff=0.5)
    hint = "some that fit: mako, rocket, viridis, magma, cividis, icefire, vlag."
    if near:
        hint = f"did you mean {' or '.join(repr(lower[match]) for match in near)}?"
    return f"unknown color map {name!r}; {hint} Any of seaborn's and matplotlib's names works"


def bar_ticks(scale: ColorScale, width_em: float = 20.0) -> list[tuple[float, str]]:
    """Return (position 0..1, text) of the ticks of a scale's color bar: its two ends, and between
    them those that keep apart.

    ``width_em``: how wide the bar is, in font sizes of the ticks' texts.
    """
    ticks: list[tuple[float, str]] = []
    spans: list[tuple[float, float]] = []
    for value in (scale.minimum, scale.maximum, *_inner_ticks(scale)):
        text = _tick_text(scale, value)
        position = float(np.clip(scale.positions(np.array([value]))[0], 0.0, 1.0))
        wide = 0.64 * len(text)
        left = position * width_em - wide / 2
        if position < 0.02:
            left = position * width_em
        elif position > 0.98:
            left = position * width_em - wide
        if all(left > end + 0.5 or left + wide < start - 0.5 for start, end in spans):
            spans.append((left, left + wide))
            ticks.append((position, text))
    return sorted(ticks)


def _inner_ticks(scale: ColorScale) -> list[float]:
    """Return the values between the ends of a scale, the most wanted first."""
    if scale.cmap.startswith(_CHOICE_MAP):
        return []
    low, high = scale.minimum, scale.maximum
    has_zero = low < 0 < high
    if scale.norm == "centred" or (scale.norm in ("linear", "symlog") and has_zero):
        return [0.0]
    if scale.norm == "power" and low == 0:
        return [high * part for part in (0.25, 0.5, 0.05, 0.1)]
    if scale.norm == "log":
        powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
        return [10.0**power for power in powers]
    return [low + (high - low) * 0.5]


def _tick_text(scale: ColorScale, value: float) -> str:
    below, above = scale.clipped
    if below and value == scale.minimum:
        return "≤" + short_number(value)
    if above and value == scale.maximum:
        return "≥" + short_number(value)
    return short_number(value)


def short_number(value: float) -> str:
    """Write a number with at most three significant digits: ``0.25``, ``-1.2e-5``, ``0``."""
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e4:
        text = f"{value:.3g}"
        if "e" in text:
            text = f"{value:.0f}"
        return text.replace("-", "−")
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}".replace("-", "−")
