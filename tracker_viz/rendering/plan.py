"""Describe a picture in whole pixels: ``planning`` makes a Plan from a Layout; the template, the
painter and the explorer read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
        corner: the head's name, written into the upper right corner, where attention is masked,
            ``corner_px`` high.
        run: index of the run that it shows.
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
    corner_px: float = 0.0
    run: int = 0

    def is_blank_at(self, capture: int) -> bool:
        """Return whether it compares with the previous capture, and there is none."""
        return capture == 0 and self.source.compares == "previous"


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
    """A number that changes with the capture, in digits of equal width so that it does not jump.

    Attributes:
        quantity: ``step``, ``tokens``, ``progress``, the name of a metric, that of an array of one
            score, ``holders.<role>``: how many heads hold a role, or ``run``: what is said beside
            the name of one of several runs.
        x: where it begins or, aligned to the right, ends.
        width_chars: characters that the value may need over the whole run.
        run: index of the run whose number it is.
    """

    quantity: str
    x: int
    baseline: int
    size_px: float
    width_chars: int
    run: int = 0
    align: Literal["left", "right"] = "left"

    @property
    def is_score(self) -> bool:
        """True if it is shown among the scores, not in the header."""
        return self.quantity.startswith("scores.")

    @property
    def role(self) -> str:
        """The role whose holders it counts; empty for other quantities."""
        _, is_count, role = self.quantity.partition("holders.")
        return role if is_count else ""

    @property
    def is_in_header(self) -> bool:
        """True if it is one of the numbers beside the clock."""
        return not self.is_score and not self.role and self.quantity != "run"


@dataclass(frozen=True, slots=True)
class Caption:
    """Place of the sentence about the event that happens: up to ``n_lines`` lines from ``x``, the
    first at ``baseline``, none wider than ``room`` pixels."""

    x: int
    baseline: int
    size_px: float
    room: int
    n_lines: int = 1


@dataclass(frozen=True, slots=True)
class Curve:
    """The metric of one run on the timeline.

    Attributes:
        points: float64 [capture, (x, y)] in pixels of the picture; y is NaN where the curve breaks.
        color: of the part that was played.
        ahead_color: of the part that was not, drawn faintly.
    """

    points: NDArray[np.float64]
    color: str
    ahead_color: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """Time along x, and a playhead on it.

    Attributes:
        box: its left and right edge are the points of time ``first`` and ``last``.
        plot: the part of it that holds the curves, above the lanes.
        curves: of the runs that have the metric.
        beside: thinner curves on the same scale: what the loss is on the probe's copies.
        marks: of the lanes; those that were not reached are faint.
    """

    box: Box
    plot: Box
    first: float
    last: float
    curves: tuple[Curve, ...] = ()
    beside: tuple[Curve, ...] = ()
    marks: tuple[Swatch, ...] = ()

    def x(self, place: float) -> float:
        """Return the pixel column of a point of time."""
        share = (self.box.width - 1) * (place - self.first) / ((self.last - self.first) or 1.0)
        return self.box.x + share


@dataclass(frozen=True, slots=True)
class RibbonLine:
    """The roles of one head over time: its role at each capture, empty where it has none."""

    head: HeadId
    box: Box
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ribbon:
    """The roles of a run's heads over time, in their colors, from the first point of time to the
    last: one line per head, in the order of its maps."""

    run: int
    box: Box
    lines: tuple[RibbonLine, ...]


@dataclass(frozen=True, slots=True, eq=False)
class WordMap:
    """Words in the cells of a map, which change with the capture.

    Attributes:
        box: of the map whose cells these are.
        texts: of each capture, row by row, a text for each cell; empty: none.
        scale: key of the map's color scale.
        values: float16 [capture, row, column], as the map shows them: words are dark on bright
            cells.
        marked: bool [capture, row, column]: cells that get a border.
        size_px: of the words; longer ones are smaller, and cut off where that does not help.
    """

    box: Box
    scale: str
    texts: tuple[tuple[tuple[str, ...], ...], ...]
    values: NDArray[np.float16]
    marked: NDArray[np.bool_]
    size_px: float


@dataclass(frozen=True, slots=True)
class Node:
    """One head of a graph: a disk around (x, y), with the head's name in it where it has room.

    Attributes:
        is_needed: without the head the model loses; the disk has a ring.
        note: by how much, written below the disk where there is room.
    """

    head: HeadId
    x: int
    y: int
    radius: float
    name: str = ""
    name_px: float = 0.0
    is_needed: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Heads as nodes, and what they read of each other as lines.

    Attributes:
        box: everything that changes with the capture lies in it.
        edges: for each line the indices of the node that is read, and of the one that reads.
        values: float32 [capture, edge]: 0 and less is what random matrices give, 1 the most of the
            whole run; NaN where a line is not known.
        widest_px: of a line of value 1.
        listed: place of the names of the strongest lines, ``rows`` of them; none without rows.
        written: float32 [capture, edge]: the numbers beside these names.
        needed: numbers of the lines without whose two heads the model loses; they have an outline.
        note_px: size of the nodes' notes.
    """

    box: Box
    nodes: tuple[Node, ...]
    edges: tuple[tuple[int, int], ...]
    values: NDArray[np.float32]
    widest_px: float
    listed: Box
    rows: int
    row_px: int
    size_px: float
    written: NDArray[np.float32]
    needed: frozenset[int] = frozenset()
    note_px: float = 0.0


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
        n_holders: int64 [capture, role]: heads that hold each role on the rows that it is about.
        row_kinds: kind of each row of the probe; empty where the captures do not say.
        line_px, blink_px: how thick the borders are, and those of heads that take a role now.
    """

    names: tuple[str, ...] = ()
    states: NDArray[np.int8] = field(default_factory=lambda: np.zeros((0, 0, 0), np.int8))
    margins: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0, 0), np.float32))
    held: Sequence[Mapping[HeadId, str]] = ()
    held_on: Mapping[str, Sequence[Mapping[HeadId, str]]] = field(default_factory=dict)
    n_holders: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    row_kinds: tuple[str, ...] = ()
    line_px: int = 3
    blink_px: int = 3

    @property
    def held_on_first_row(self) -> Sequence[Mapping[HeadId, str]]:
        """``held``, of the roles that speak about the first row of the probe."""
        kind = self.row_kinds[0] if self.row_kinds else ""
        return self.held_on.get(kind, self.held)

    def at(self, captures: Sequence[int]) -> Roles:
        """Return the roles at some of the captures only."""
        if not self.held:
            return self
        return replace(
            self,
            states=self.states[captures],
            margins=self.margins[captures],
            n_holders=self.n_holders[captures],
            held=[self.held[index] for index in captures],
            held_on={
                kind: [held[index] for index in captures] for kind, held in self.held_on.items()
            },
        )

    def row_kind(self, heatmap: Heatmap) -> str:
        """Return the kind of the probe row whose attention a box shows; empty if unknown."""
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
    """A whole picture of one run or of several.

    Attributes:
        mark: the words that mark an interpolated frame.
        run_roles: the roles of each run's heads.
    """

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
    run_roles: tuple[Roles, ...] = (Roles(),)
    mark: Label | None = None
    caption: Caption | None = None
    story: Story = NO_STORY
    ribbons: tuple[Ribbon, ...] = ()
    graph: Graph | None = None
    words: tuple[WordMap, ...] = ()

    @property
    def roles(self) -> Roles:
        """Return the roles of the first run, which is the only one of most pictures."""
        return self.run_roles[0]

    @property
    def unit(self) -> float:
        """Pixels of this picture for one pixel of a 1080p picture; the unit of lines and texts."""
        return min(self.height / 1080, self.width / 1280)
