"""A plan in the making: what the modules that place things write into."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from tracker_viz.rendering.layout import Layout
from tracker_viz.rendering.measuring import Reach, measure
from tracker_viz.rendering.plan import (
    Bar,
    Box,
    Caption,
    Heatmap,
    Label,
    Plan,
    Readout,
    Roles,
    Swatch,
    Timeline,
)
from tracker_viz.rendering.scales import ColorScale
from tracker_viz.rendering.series import Series
from tracker_viz.rendering.story import NO_STORY, Story
from tracker_viz.rendering.text import text_width
from tracker_viz.rendering.theme import Theme

HEADING = 26.0  # pixels at 1080p: still to be read where the whole picture is 640 pixels wide
TITLES = 66  # at 1080p: what stands above a row of maps that is below another
_AXES = 20.0
_SMALLEST = 0.85  # of its size: what the title of a colour bar may shrink to
_SHORTER = (
    (r" since [^·]*?(?= ·|$)", ""),
    (r"^block (\d+) · head (\d+)", r"b\1 h\2"),
    (r" tokens$", ""),
    (r"^Heads with a role, then those that changed most", "Heads with a role first"),
    (r"^Heads that changed most", "Changed most"),
    (r"^Signed weight change", "Signed change"),
    (r"^Weight change", "Change"),
)


def next_even(pixel: int) -> int:
    return 2 * ((pixel + 1) // 2)


@dataclass(frozen=True, slots=True)
class Measured:
    """A colour scale whose ends follow from what is drawn in the whole run: ``options`` makes
    ColorScale's of the ``quantile``'s Reach."""

    kind: str
    quantile: float
    options: Callable[[Reach], Mapping[str, Any]]


@dataclass
class PlanBuilder:
    """``px(n)``: n pixels of a 1080p picture, at this size. Text sizes are given in pixels at 1080p
    too."""

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
    caption: Caption | None = None
    numbers_end: int = 0  # where the header's numbers end
    story: Story = NO_STORY

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

    def attempt(self) -> PlanBuilder:
        """The same so far, to try something on that leaves this one as it is."""
        attempt = copy.copy(self)
        for part in fields(self):
            if isinstance(value := getattr(self, part.name), list | dict | set):
                setattr(attempt, part.name, value.copy())
        return attempt

    def adopt(self, attempt: PlanBuilder) -> None:
        for part in fields(self):
            setattr(self, part.name, getattr(attempt, part.name))

    def text(
        self, text: str, x: float, y: float, size: float, color: str | None = None, **options: Any
    ) -> None:
        self.labels.append(Label(text, x, y, size * self.unit, color or self.theme.dim, **options))

    def heading(self, title: str, x: float, y: float, room: float, *axes: str) -> None:
        """Title of a part of the picture, in short where ``room`` asks for it, and behind it the
        first of ``axes`` for which there is room.

        ``axes``: what runs down and across the maps below, the most telling first: ``query ↓ key
        →``.
        """
        shorter = self.shorter(title)
        widths = [self.text_width(text, HEADING, True) for text in shorter]
        least = self.px(16) + min((self.text_width(text, _AXES) for text in axes), default=0)
        # What a change is since the colour bar says too: that gives way to the axes, and nothing
        # else does.
        fits = [
            text for text, width in zip(shorter[:2], widths, strict=False) if width + least <= room
        ]
        fits += [text for text, width in zip(shorter, widths, strict=True) if width <= room]
        title = fits[0] if fits else self.fitted(shorter[-1], HEADING, room, True)
        self.text(title, x, y, HEADING, self.theme.text, bold=True)
        x_axes = x + self.text_width(title, HEADING, True) + self.px(16)
        for text in axes:
            if x_axes + self.text_width(text, _AXES) <= x + room:
                self.text(text, x_axes, y, _AXES)
                break

    def shorter(self, title: str) -> list[str]:
        """A heading, and what may stand in its place where there is less and less room."""
        texts = [title]
        for pattern, short in _SHORTER:
            texts.append(re.sub(pattern, short, texts[-1]))
        return texts

    def text_width(self, text: str, size: float, bold: bool = False) -> int:
        return text_width(text, size * self.unit, bold=bold)

    def fitted(self, text: str, size: float, room: float, bold: bool = False) -> str:
        """``text``, cut with an ellipsis where it is wider than ``room``."""
        if self.text_width(text, size, bold) <= room:
            return text
        while text and self.text_width(text + "…", size, bold) > room:
            text = text[:-1]
        return text.rstrip(" ·") + "…"

    def add_scale(self, key: str, kind: str, defaults: Mapping[str, Any] | Measured) -> None:
        """A colour scale under ``key``; what the user chose for its ``kind`` wins over the
        defaults.

        ``defaults``: options of ColorScale, and ``reached``: the least and the greatest value that
            is drawn, where not the scale's ends.

        What is Measured is read off all captures when the plan is done, because it depends on what
        is placed.
        """
        if key in self.scales:
            return
        self.scales[key] = (
            defaults if isinstance(defaults, Measured) else self._scale(kind, defaults)
        )

    def _scale(self, kind: str, defaults: Mapping[str, Any]) -> ColorScale:
        options = {
            **defaults,
            **self.scale_options.get(kind, {}),
            "nonfinite": self.theme.nonfinite,
        }
        lowest, highest = options.pop("reached", (defaults["minimum"], defaults["maximum"]))
        return ColorScale(
            **options, clipped=(lowest < options["minimum"], highest > options["maximum"])
        )

    def _measured_scales(self) -> dict[str, ColorScale]:
        pending = {key: scale for key, scale in self.scales.items() if isinstance(scale, Measured)}
        wanted = {
            key: (scale.quantile, [heatmap for heatmap in self.heatmaps if heatmap.scale == key])
            for key, scale in pending.items()
            if not {"minimum", "maximum"} <= self.scale_options.get(scale.kind, {}).keys()
        }
        found = measure(self.series, wanted)
        made = {
            key: self._scale(scale.kind, scale.options(found.get(key, Reach(0.0, 0.0))))
            for key, scale in pending.items()
        }
        return {
            key: made[key] if isinstance(scale, Measured) else scale
            for key, scale in self.scales.items()
        }

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
            self.bars.append(
                Bar(Box(x, y, min(wide, self.px(460)), self.px(13)), key, 16 * self.unit)
            )
            self.barred.add(key)

    def _fitting(self, scale: ColorScale, bars: Sequence[Bar]) -> ColorScale:
        """Without what it compares with, which the maps' own title says too, where that would make
        its bar's title too small."""
        titled = [bar for bar in bars if bar.titled]
        if all(text_width(scale.label, _SMALLEST * bar.font_px) <= bar.box.width for bar in titled):
            return scale
        return replace(scale, title=re.sub(r" since [^·(]*?(?= \(|$)", "", scale.title))

    def plan(self) -> Plan:
        scales = self._measured_scales()
        return Plan(
            self.width,
            self.height,
            self.theme,
            self.layout.name,
            tuple(self.heatmaps),
            {
                key: self._fitting(scale, [bar for bar in self.bars if bar.scale == key])
                for key, scale in scales.items()
            },
            tuple(self.labels),
            tuple(self.swatches),
            tuple(self.bars),
            tuple(self.readouts),
            self.timeline,
            self.roles,
            self.mark,
            self.caption,
            self.story,
        )
