"""Describe a picture in whole pixels: a Plan is made from a Layout; the template, the
painter and the explorer read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tracker_viz.rendering.scales import ColorScale
from tracker_viz.rendering.sources import Source
from tracker_viz.rendering.story import NO_STORY, Story
from tracker_viz.rendering.theme import Theme
from tracker_viz.types import HeadId


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels; x and y are its left upper corner, y grows downwards."""

    x: int
    y: int
    width: int
    height: int

    @property
    def right(self) -> int:
        return self.x + self.width

    @property
    def bottom(self) -> int:
        return self.y + self.height

    @property
    def area(self) -> tuple[slice, slice]:
        """Its rows and columns: ``pixels[box.area]``."""
        return slice(self.y, self.bottom), slice(self.x, self.right)


@dataclass(frozen=True, slots=True)
class Heatmap:
    """One box of cells.

    Attributes:
        name: says what it is, uniquely: ``block 0 · head 3``.
        scale: key of its ColorScale in the plan.
        mask: bool [rows, columns], True where a cell shows the panel instead of a value; the same
            in every frame.
        line_px, line_color: lines between the cells, as seaborn's ``linewidths`` and ``linecolor``.
        head: (block, head) when it shows one head, so that it can be framed in the color of the
            head's role.
        corner: the head's name, written into the upper right corner, where attention is masked.
    """

    name: str
    source: Source
    box: Box
    scale: str
    mask: NDArray[np.bool_] | None = None
    line_px: float = 0.0
    line_color: str = "#000000"
    head: tuple[int, int] | None = None
    corner: str = ""


@dataclass(frozen=True, slots=True)
class Label:
    """Text that never changes, anchored at x, y. ``size_px`` is the font size."""

    text: str
    x: float
    y: float
    size_px: float
    color: str
    bold: bool = False
    mono: bool = False
    align: Literal["left", "center", "right"] = "left"
    baseline: Literal["baseline", "center", "top", "bottom"] = "baseline"
    rotation: float = 0.0


@dataclass(frozen=True, slots=True)
class Swatch:
    """A small filled square that explains a color."""

    box: Box
    color: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A color bar; its title and tick labels stand above and below ``box``."""

    box: Box
    scale: str
    font_px: float
    titled: bool = True


@dataclass(frozen=True, slots=True)
class Readout:
    """A number that changes with the capture, from ``x`` on to the right, in digits of equal width
    so that it does not jump.

    Attributes:
        quantity: ``step``, ``tokens``, the name of a metric, or that of an array of one score.
        width_chars: characters that the value may need over the whole run.
    """

    quantity: str
    x: int
    baseline: int
    size_px: float
    width_chars: int

    @property
    def is_score(self) -> bool:
        """Whether it stands among the scores, and not in the header."""
        return self.quantity.startswith("scores.")


@dataclass(frozen=True, slots=True)
class Caption:
    """Place of the sentence about the event that happens: one line from ``x``, no wider than
    ``room`` pixels."""

    x: int
    baseline: int
    size_px: float
    room: int


@dataclass(frozen=True, slots=True)
class Timeline:
    """The run along x, and a playhead on it.

    Attributes:
        box: the curve's own area; its left and right edge are the run's ``first_step`` and
            ``last_step``.
        curve: float64 [point, (x, y)]: the metric in pixels of the picture; y is NaN where the
            curve breaks; empty where the run has none.
    """

    box: Box
    first_step: int
    last_step: int
    curve: NDArray[np.float64]

    def x(self, step: float) -> float:
        """Pixel column of a step."""
        return self.box.x + (self.box.width - 1) * (step - self.first_step) / max(
            1, self.last_step - self.first_step
        )


@dataclass(frozen=True, slots=True)
class Roles:
    """Borders around the heads' boxes in the color of what a head does.

    Attributes:
        names: roles that the captures score.
        states: int8 [capture, block, head]: index into ``names``, or -1.
        margins: float32 [capture, block, head]: how far above uniform attention, 0..1, in that role
            or, without one, in the nearest; NaN where there is no such head.
        held: for every capture, (block, head) -> its role, of the heads that have one; as
            ``metrics.head_roles`` says.
        held_on: kind of probe row -> the same for the roles that speak about this kind.
        row_kinds: kind of each row of the probe; empty where the captures do not say.
        line_px, blink_px: how thick the borders are, and those of heads that take a role now.
    """

    names: tuple[str, ...] = ()
    states: NDArray[np.int8] = field(default_factory=lambda: np.zeros((0, 0, 0), np.int8))
    margins: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0, 0), np.float32))
    held: Sequence[Mapping[HeadId, str]] = ()
    held_on: Mapping[str, Sequence[Mapping[HeadId, str]]] = field(default_factory=dict)
    row_kinds: tuple[str, ...] = ()
    line_px: int = 3
    blink_px: int = 3

    @property
    def held_on_first_row(self) -> Sequence[Mapping[HeadId, str]]:
        """``held``, of the roles that speak about the first row of the probe."""
        kind = self.row_kinds[0] if self.row_kinds else ""
        return self.held_on.get(kind, self.held)

    def row_kind(self, heatmap: Heatmap) -> str:
        """Kind of the probe row whose attention a box shows; empty where nobody knows."""
        row = getattr(heatmap.source, "probe", None) or 0
        return self.row_kinds[row] if row < len(self.row_kinds) else ""

    def border(self, heatmap: Heatmap, index: int) -> tuple[str, bool] | None:
        """Return the role that the border around a box says at a capture, and whether the head has
        it on the row that the box shows; None without a border.

        On a row where the head has no role, the border says what it does on other rows.
        """
        if heatmap.head is None or not self.held:
            return None
        anywhere = self.held[index].get(heatmap.head)
        kind = self.row_kind(heatmap)
        here = self.held_on[kind][index].get(heatmap.head) if kind in self.held_on else anywhere
        if here:
            return here, True
        return (anywhere, False) if anywhere else None


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole picture. ``mark`` is what an interpolated frame says of itself."""

    width: int
    height: int
    theme: Theme
    layout: str
    heatmaps: tuple[Heatmap, ...]
    scales: Mapping[str, ColorScale]
    labels: tuple[Label, ...] = ()
    swatches: tuple[Swatch, ...] = ()
    bars: tuple[Bar, ...] = ()
    readouts: tuple[Readout, ...] = ()
    timeline: Timeline | None = None
    roles: Roles = field(default_factory=Roles)
    mark: Label | None = None
    caption: Caption | None = None
    story: Story = NO_STORY

    @property
    def unit(self) -> float:
        """Pixels of this picture for one of a 1080p picture: what lines and texts are measured
        in."""
        return min(self.height / 1080, self.width / 1280)
