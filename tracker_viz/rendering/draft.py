"""A plan in the making: what the modules that place things write into."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tracker_viz.errors import ConfigError, unknown_name
from tracker_viz.rendering.layout import Layout
from tracker_viz.rendering.measuring import Reach, measure
from tracker_viz.rendering.plan import Bar, Box, Heatmap, Label, Plan, Readout, Roles, Swatch, Timeline
from tracker_viz.rendering.scales import ColorScale
from tracker_viz.rendering.series import Series
from tracker_viz.rendering.template import text_width
from tracker_viz.rendering.theme import Theme

_SCALE_OPTIONS = ("title", "cmap", "minimum", "maximum", "norm", "gamma", "linear_within")
HEADING = 24.0  # pixels at 1080p: still to be read where the whole picture is 640 pixels wide
SCALE_KINDS = ("attention", "weights", "score")


@dataclass(frozen=True, slots=True)
class Measured:
    """A colour scale whose ends follow from what is drawn in the whole run: ``options`` makes ColorScale's of the ``quantile``'s Reach."""

    kind: str
    quantile: float
    options: Callable[[Reach], Mapping[str, Any]]


@dataclass
class Draft:
    """``px(n)``: n pixels of a 1080p picture, at this size. Text sizes are given in pixels at 1080p too."""

    layout: Layout
    series: Series
    width: int
    height: int
    theme: Theme
    scale_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    heatmaps: list[Heatmap] = field(default_factory=list)
    scales: dict[str, ColorScale | Measured] = field(default_factory=dict)
    labels: list[Label] = field(default_factory=list)
    swatches: list[Swatch] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    barred: set[str] = field(default_factory=set)
    readouts: list[Readout] = field(default_factory=list)
    timeline: Timeline | None = None
    roles: Roles = field(default_factory=Roles)
    mark: Label | None = None

    def __post_init__(self) -> None:
        for kind in self.scale_options:
            if kind not in SCALE_KINDS:
                raise ConfigError(unknown_name("colour scale", kind, SCALE_KINDS))

    @property
    def unit(self) -> float:
        return min(self.height / 1080, self.width / 1280)

    @property
    def is_narrow(self) -> bool:
        return self.width < 1.35 * self.height

    @property
    def margin(self) -> int:
        return self.px(36)

    def px(self, pixels: float) -> int:
        return max(1, round(pixels * self.unit))

    def even(self, pixels: float) -> int:
        return max(2, 2 * round(pixels * self.unit / 2))

    def text(self, text: str, x: float, y: float, size: float, color: str | None = None, **options: Any) -> None:
        self.labels.append(Label(text, x, y, size * self.unit, color or self.theme.dim, **options))

    def heading(self, text: str, x: float, y: float) -> None:
        """Title of a part of the picture."""
        self.text(text, x, y, HEADING, self.theme.text, bold=True)

    def text_width(self, text: str, size: float, bold: bool = False) -> int:
        return text_width(text, size * self.unit, bold=bold)

    def fitted(self, text: str, size: float, room: float, bold: bool = False) -> str:
        """``text``, cut with an ellipsis where it is wider than ``room``."""
        if self.text_width(text, size, bold) <= room:
            return text
        while text and self.text_width(text + "…", size, bold) > room:
            text = text[:-1]
        return text.rstrip(" ·") + "…"

    def fitted_title(self, title: str, room: float, *more: str) -> str:
        """The first of ``more``, ``title``, and the title without what it compares with, that is no wider than ``room``; else it is cut."""
        texts = (*more, title, re.sub(r" since [^·]*?(?= ·|$)", "", title))
        return next((text for text in texts if self.text_width(text, HEADING, True) <= room), self.fitted(texts[-1], HEADING, room, True))

    def add_scale(self, key: str, kind: str, defaults: Mapping[str, Any] | Measured) -> None:
        """A colour scale under ``key``; what the user chose for its ``kind`` wins over the defaults.

        ``defaults``: options of ColorScale, and ``reached``: the least and the greatest value that is drawn, where not the scale's ends.

        What is Measured is read off all captures when the plan is done, because it depends on what is placed.
        """
        if key in self.scales:
            return
        for option in self.scale_options.get(kind, {}):
            if option not in _SCALE_OPTIONS:
                raise ConfigError(unknown_name(f"option of the colour scale {kind!r}", option, _SCALE_OPTIONS))
        self.scales[key] = defaults if isinstance(defaults, Measured) else self._scale(kind, defaults)

    def _scale(self, kind: str, defaults: Mapping[str, Any]) -> ColorScale:
        options = {**defaults, **self.scale_options.get(kind, {}), "nonfinite": self.theme.nonfinite}
        lowest, highest = options.pop("reached", (defaults["minimum"], defaults["maximum"]))
        return ColorScale(**options, clipped=(lowest < options["minimum"], highest > options["maximum"]))

    def _measured_scales(self) -> dict[str, ColorScale]:
        pending = {key: scale for key, scale in self.scales.items() if isinstance(scale, Measured)}
        wanted = {
            key: (scale.quantile, [heatmap for heatmap in self.heatmaps if heatmap.scale == key])
            for key, scale in pending.items()
            if not {"minimum", "maximum"} <= self.scale_options.get(scale.kind, {}).keys()
        }
        found = measure(self.series, wanted)
        made = {key: self._scale(scale.kind, scale.options(found.get(key, Reach(0.0, 0.0)))) for key, scale in pending.items()}
        return {key: made[key] if isinstance(scale, Measured) else scale for key, scale in self.scales.items()}

    def place_bars(self, box: Box) -> None:
        """Colour bars for all scales that have none yet, in rows from the top of ``box``."""
        keys = [key for key in self.scales if key not in self.barred]
        down = max(1, min(len(keys), box.height // self.px(58)))
        pitch = min(self.px(64), box.height // down)
        across = -(-len(keys) // down)
        gap = self.px(36)
        wide = (box.width - (across - 1) * gap) // max(1, across)
        for index, key in enumerate(keys):
            x, y = box.x + index // down * (wide + gap), box.y + index % down * pitch + self.px(24)
            self.bars.append(Bar(Box(x, y, min(wide, self.px(460)), self.px(13)), key, 16 * self.unit))
            self.barred.add(key)

    def plan(self) -> Plan:
        return Plan(
            self.width,
            self.height,
            self.theme,
            self.layout.name,
            tuple(self.heatmaps),
            self._measured_scales(),
            tuple(self.labels),
            tuple(self.swatches),
            tuple(self.bars),
            tuple(self.readouts),
            self.timeline,
            self.roles,
            self.mark,
        )
