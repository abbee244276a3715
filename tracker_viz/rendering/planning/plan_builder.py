"""Collect the parts of a picture while it is planned. Every module that places something writes
into the same ``PlanBuilder``."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from tracker_viz.rendering.layout import Layout
from tracker_viz.rendering.measuring import ValueRange, measure
from tracker_viz.rendering.plan import (
    Bar,
    Box,
    Caption,
    Graph,
    Heatmap,
    Label,
    Plan,
    Readout,
    Ribbon,
    Roles,
    Swatch,
    Timeline,
    WordMap,
)
from tracker_viz.rendering.scales import ColorScale
from tracker_viz.rendering.series import Series
from tracker_viz.rendering.story import NO_STORY, Story
from tracker_viz.rendering.subject import Subject
from tracker_viz.rendering.text import text_width
from tracker_viz.rendering.theme import Theme

HEADING = 26.0  # pixels at 1080p: still to be read where the whole picture is 640 pixels wide
TITLES = 66  # at 1080p: what stands above a row of maps that is below another
_AXES = 20.0
# At 1080p: from one color bar to the next below it, how wide one should be and may be, its words.
BAR_PITCH, BAR_WIDTH, _WIDEST_BAR, _BAR_TEXT = 68, 300, 640, 20.0
# What the title of a color bar leaves out where it has less and less room.
_SHORTER_BAR = (r" since [^·(]*?(?= \(|$)", r" \(RMS\)$", r" probability$")
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
    """Round up to an even pixel, where chroma samples of video begin."""
    return 2 * ((pixel + 1) // 2)


def whole_cell_px(cell_px: int) -> int:
    """Round a large cell down to an even number of pixels.

    Chroma in video has half the resolution and keeps the colors of such cells exactly. Small cells
    would lose too much of their size.
    """
    if cell_px >= 7:
        return cell_px - cell_px % 2
    return cell_px


def number_spacing(cell_px: float, least_px: float) -> int:
    """Return the smallest power of two that keeps numbers of every so many cells apart."""
    spacing = 1
    while spacing * cell_px < least_px:
        spacing *= 2
    return spacing


@dataclass(frozen=True, slots=True)
class Measured:
    """A color scale whose ends follow from the values that are drawn over the whole run.

    Attributes:
        kind: one of ``SCALE_KINDS``, by which users change its options.
        quantile: 0..1, of the values of one capture; see ``measuring.ValueRange``.
        options: range that was measured -> options of ColorScale.
    """

    kind: str
    quantile: float
    options: Callable[[ValueRange], Mapping[str, Any]]


@dataclass
class PlanBuilder:
    """Collects the parts of a picture, until ``plan`` makes a Plan of them.

    ``px(n)`` turns n pixels of a 1080p picture into those of this size. Sizes of text are given in
    pixels at 1080p too.
    """

    layout: Layout
    subject: Subject
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
    run_roles: list[Roles] = field(default_factory=lambda: [Roles()])
    ribbons: list[Ribbon] = field(default_factory=list)
    mark: Label | None = None
    caption: Caption | None = None
    numbers_end: int = 0  # where the header's numbers end
    clauses: list[str] = field(default_factory=list)  # before the subtitle, on what is shown
    story: Story = NO_STORY
    graph: Graph | None = None
    words: list[WordMap] = field(default_factory=list)

    @property
    def series(self) -> Series:
        """Return the captures of the first run, which is the only one of most pictures."""
        return self.subject.runs[0].series

    @property
    def roles(self) -> Roles:
        """Return the roles of the first run's heads."""
        return self.run_roles[0]

    @property
    def unit(self) -> float:
        return min(self.height / 1080, self.width / 1280)

    @property
    def is_narrow(self) -> bool:
        return self.width < 1.35 * self.height

    @property
    def margin(self) -> int:
        return self.px(36)

    @property
    def page(self) -> Box:
        """Return the picture between its left and its right margin."""
        return Box(self.margin, 0, self.width - 2 * self.margin, self.height)

    def px(self, pixels: float) -> int:
        """Turn pixels of a 1080p picture into whole pixels of this one, at least 1."""
        return max(1, round(pixels * self.unit))

    def even(self, pixels: float) -> int:
        """Turn pixels of a 1080p picture into an even number of this one's, at least 2."""
        return max(2, 2 * round(pixels * self.unit / 2))

    def attempt(self) -> PlanBuilder:
        """Copy this builder, to try something that leaves the original as it is."""
        attempt = copy.copy(self)
        for part in fields(self):
            if isinstance(value := getattr(self, part.name), list | dict | set):
                setattr(attempt, part.name, value.copy())
        return attempt

    def adopt(self, attempt: PlanBuilder) -> None:
        """Take over everything that was placed in ``attempt``."""
        for part in fields(self):
            setattr(self, part.name, getattr(attempt, part.name))

    def text(
        self, text: str, x: float, y: float, size: float, color: str | None = None, **options: Any
    ) -> None:
        self.labels.append(Label(text, x, y, size * self.unit, color or self.theme.dim, **options))

    def text_within(
        self,
        room: float,
        text: str,
        x: float,
        y: float,
        size: float,
        color: str | None = None,
        *,
        bold: bool = False,
        **options: Any,
    ) -> None:
        """Write ``text``, cut with an ellipsis where it is wider than ``room``."""
        fitted = self.fitted(text, size, room, bold)
        self.text(fitted, x, y, size, color, bold=bold, **options)

    def text_left_of(
        self,
        x: float,
        text: str,
        middle: float,
        size: float,
        color: str | None = None,
        *,
        bold: bool = False,
    ) -> None:
        """Write ``text`` so that it ends at ``x``, with its middle at the height ``middle``."""
        self.text(text, x, middle, size, color, bold=bold, align="right", baseline="center")

    def square(self, x: int, y: int, side: int, color: str) -> None:
        self.swatches.append(Swatch(Box(x, y, side, side), color))

    def heading(
        self, title: str, x: float, y: float, room: float, *axes: str, needed: str = ""
    ) -> None:
        """Write the title of a part of the picture, shortened where ``room`` asks for it, and
        behind it the first of ``axes`` for which there is room.

        Args:
            axes: what runs down and across the maps below, the most telling first: ``query ↓ key
                →``.
            needed: said where there is room for none of them, even if the title is cut for it.
        """
        titles, gap = self.shorter(title), self.px(16)
        offers = [*axes, needed] if needed else axes
        # The title gives way to what is said behind it, as far as it has shorter forms.
        for behind, shown in itertools.product(offers, titles):
            title_px = self.text_width(shown, HEADING, True)
            if title_px + gap + self.text_width(behind, _AXES) <= room:
                self.text(shown, x, y, HEADING, self.theme.text, bold=True)
                self.text(behind, x + title_px + gap, y, _AXES)
                return

        if needed:
            left = room - gap - self.text_width(needed, _AXES)
            shown = self._least_title(titles[-1], left)
            self.text(shown, x, y, HEADING, self.theme.text, bold=True)
            self.text(needed, x + self.text_width(shown, HEADING, True) + gap, y, _AXES)
            return

        fitting = (text for text in titles if self.text_width(text, HEADING, True) <= room)
        shown = next(fitting, "") or self._least_title(titles[-1], room)
        self.text(shown, x, y, HEADING, self.theme.text, bold=True)

    def _least_title(self, title: str, room: float) -> str:
        """Return as many of the last clauses of a title as ``room`` has room for, which tell it
        from its neighbors; cut where not even one has."""
        clauses = title.split(" · ")
        while len(clauses) > 1 and self.text_width(" · ".join(clauses), HEADING, True) > room:
            clauses.pop(0)
        shown = " · ".join(clauses)
        return self.fitted(shown[:1].upper() + shown[1:], HEADING, room, True)

    def shorter(self, title: str) -> list[str]:
        """Return a heading, and what may stand in its place where there is less and less room."""
        texts = [title]
        for pattern, short in _SHORTER:
            texts.append(re.sub(pattern, short, texts[-1]))
        return texts

    def text_width(self, text: str, size: float, bold: bool = False) -> int:
        """Return the width of a text in pixels of this picture; ``size`` is at 1080p."""
        return text_width(text, size * self.unit, bold=bold)

    def widest(self, texts: Iterable[str], size: float, bold: bool = False) -> int:
        """Return the width of the widest of some texts; 0 if there are none."""
        return max((self.text_width(text, size, bold) for text in texts), default=0)

    def fitted(self, text: str, size: float, room: float, bold: bool = False) -> str:
        """Return ``text``, cut with an ellipsis where it is wider than ``room``."""
        if self.text_width(text, size, bold) <= room:
            return text
        while text and self.text_width(text + "…", size, bold) > room:
            text = text[:-1]
        return text.rstrip(" ·") + "…"

    def shrunk(
        self, text: str, sizes: Sequence[float], room: float, between: str = "; "
    ) -> tuple[str, float]:
        """Return ``text`` and the first of ``sizes`` in which it fits; without its last clauses
        where it fits in none. Empty where not even the first clause does."""
        clauses = text.split(between)
        while clauses:
            shown = between.join(clauses)
            for size in sizes:
                if self.text_width(shown, size) <= room:
                    return shown, size
            clauses.pop()
        return "", sizes[-1]

    def add_scale(self, key: str, kind: str, defaults: Mapping[str, Any] | Measured) -> None:
        """Add a color scale under ``key``; what the user chose for its ``kind`` wins over the
        defaults.

        ``defaults``: options of ColorScale, and ``reached``: the least and the greatest value that
            is drawn, where these are not the scale's ends.

        A Measured scale is read off all captures when the plan is done, because it depends on what
        is placed.
        """
        if key in self.scales:
            return
        if isinstance(defaults, Measured):
            self.scales[key] = defaults
        else:
            self.scales[key] = self._scale(kind, defaults)

    def _scale(self, kind: str, defaults: Mapping[str, Any]) -> ColorScale:
        options = {
            **defaults,
            **self.scale_options.get(kind, {}),
            "nonfinite": self.theme.nonfinite,
        }
        lowest, highest = options.pop("reached", (defaults["minimum"], defaults["maximum"]))
        clipped = (lowest < options["minimum"], highest > options["maximum"])
        return ColorScale(**options, clipped=clipped)

    def _measured_scales(self) -> dict[str, ColorScale]:
        """Return all scales, those that are Measured with the ends that the captures give them.

        Where the user chose both ends the captures are read all the same: the color bar says what
        lies beyond an end.
        """
        wanted = {}
        for key, scale in self.scales.items():
            if isinstance(scale, Measured):
                shown = [heatmap for heatmap in self.heatmaps if heatmap.scale == key]
                wanted[key] = (scale.quantile, shown)
        found = measure(self.series, wanted)

        made = {}
        for key, scale in self.scales.items():
            if isinstance(scale, Measured):
                scale = self._scale(scale.kind, scale.options(found[key]))
            made[key] = scale
        return made

    def place_bars(self, box: Box) -> None:
        """Place color bars for all scales that have none yet, in rows from the top of ``box``."""
        keys = [key for key in self.scales if key not in self.barred]
        down = max(1, min(len(keys), box.height // self.px(BAR_PITCH)))
        across = -(-len(keys) // down)
        gap = self.px(36)
        wide = (box.width - (across - 1) * gap) // max(1, across)
        for index, key in enumerate(keys):
            x = box.x + index // down * (wide + gap)
            y = box.y + index % down * self.px(BAR_PITCH) + self.px(26)
            bar = Box(x, y, min(wide, self.px(_WIDEST_BAR)), self.px(13))
            self.bars.append(Bar(bar, key, _BAR_TEXT * self.unit))
            self.barred.add(key)

    def _fitting(self, key: str, scale: ColorScale) -> ColorScale:
        """Shorten the title of a scale that is wider than one of its bars: the maps' own title says
        too what they are compared with."""
        bars = [bar for bar in self.bars if bar.scale == key and bar.titled]
        for pattern in _SHORTER_BAR:
            if all(text_width(scale.label, bar.font_px) <= bar.box.width for bar in bars):
                break
            scale = replace(scale, title=re.sub(pattern, "", scale.title))
        return scale

    def plan(self) -> Plan:
        """Return the finished plan. Reads every capture if a scale is Measured."""
        scales = self._measured_scales()
        return Plan(
            self.width,
            self.height,
            self.theme,
            self.layout.name,
            tuple(self.heatmaps),
            {key: self._fitting(key, scale) for key, scale in scales.items()},
            tuple(self.labels),
            tuple(self.swatches),
            tuple(self.bars),
            tuple(self.readouts),
            self.timeline,
            tuple(self.run_roles),
            self.mark,
            self.caption,
            self.story,
            tuple(self.ribbons),
            self.graph,
            tuple(self.words),
        )
