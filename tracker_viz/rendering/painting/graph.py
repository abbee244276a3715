"""Paint a graph: lines whose width and color follow their strength, disks in the colors of roles,
and the names of the strongest lines.

How far each pixel lies from each line is worked out once; a frame looks up how much of it the line
covers at its strength of now. Threads share what was worked out, and write on canvases of their
own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tracker_viz.rendering.painting.cells import Canvas
from tracker_viz.rendering.plan import Node, Plan
from tracker_viz.rendering.text import blend, glyph, text_coverage
from tracker_viz.rendering.theme import rgb
from tracker_viz.types import HeadId

_Color = tuple[int, int, int]

_THINNEST = 1.2  # at 1080p: of a line that is just above chance
_OPAQUE = (0.22, 0.95)  # of the weakest and of the strongest line
_FAINTEST = 0.02  # share of the strongest line below which none is drawn


@dataclass(frozen=True, slots=True)
class _Line:
    """The pixels near a line.

    Attributes:
        pixels: int64 [pixel], places in the flattened picture, the nearest first.
        distances: float32 [pixel], pixels from the middle of the line, rising.
    """

    pixels: NDArray[np.int64]
    distances: NDArray[np.float32]


class GraphPainter:
    """Paints the graph of a plan at any capture."""

    def __init__(self, plan: Plan) -> None:
        assert plan.graph is not None, "a plan without a graph is not painted by this"
        self._plan, self._graph = plan, plan.graph
        self._rim_px = max(1.0, 2.0 * plan.unit)
        self._lines = [self._line(*edge) for edge in self._graph.edges]

    def paint(self, canvas: Canvas, capture: int, part: float) -> None:
        """Paint ``part`` of the way from a capture to the next one; roles are those of the
        capture."""
        graph, roles = self._graph, self._plan.roles
        held: Mapping[HeadId, str] = roles.held[capture] if roles.held else {}
        shares = _between(graph.values, capture, part)
        canvas.at(*graph.box.area)  # to be cleared
        # The strongest lines lie on top.
        order = np.argsort(np.nan_to_num(shares, nan=-1.0), kind="stable").tolist()
        flat = canvas.pixels.reshape(-1, 3)
        for number in order:
            self._paint_line(flat, number, float(shares[number]), held)
        for node in graph.nodes:
            self._paint_node(canvas, node, held.get(node.head))
            self._write_note(canvas, node)
        if graph.rows:
            self._write_strongest(canvas, order[::-1][: graph.rows], capture, part, held)

    def _line(self, read: int, reader: int) -> _Line:
        """Return the pixels near a line that leaves one disk and enters another, level at both
        ends."""
        start, end = self._graph.nodes[read], self._graph.nodes[reader]
        left, right = round(start.x + start.radius), round(end.x - end.radius)
        x = np.arange(left, max(right, left + 1) + 1)
        part = (x - left) / max(right - left, 1)
        y = start.y + (end.y - start.y) * part**2 * (3 - 2 * part)
        slope = (end.y - start.y) * 6 * part * (1 - part) / max(right - left, 1)
        # A steep line is as wide across as a level one, and higher.
        stretch = np.sqrt(1 + slope**2)
        reach = self._graph.widest_px / 2 + 1 + self._rim_px
        columns, rows, distances = [], [], []
        for column, middle, stretched in zip(x, y, stretch, strict=True):
            high = np.arange(
                np.ceil(middle - reach * stretched), np.floor(middle + reach * stretched) + 1
            )
            columns.append(np.full(len(high), column))
            rows.append(high)
            distances.append(np.abs(high - middle) / stretched)
        pixels = np.concatenate(rows) * self._plan.width + np.concatenate(columns)
        distance = np.concatenate(distances).astype(np.float32)
        order = np.argsort(distance, kind="stable")
        return _Line(pixels[order].astype(np.int64), distance[order])

    def _paint_line(
        self, flat: NDArray[np.uint8], number: int, share: float, held: Mapping[HeadId, str]
    ) -> None:
        if not share > _FAINTEST:  # nor where it is NaN
            return
        line = self._lines[number]
        thinnest = _THINNEST * self._plan.unit
        half = 0.5 * (thinnest + share * max(self._graph.widest_px - thinnest, 0.0))
        weakest, strongest = _OPAQUE
        opaque = weakest + min(share, 1.0) * (strongest - weakest)
        if number in self._graph.needed:
            _stroke(flat, line, half + self._rim_px, 1.0, rgb(self._plan.theme.text))
        _stroke(flat, line, half, opaque, self._line_color(number, held))

    def _line_color(self, number: int, held: Mapping[HeadId, str]) -> _Color:
        """Return the color of the role of the head that reads; gray where it has none."""
        theme = self._plan.theme
        role = held.get(self._graph.nodes[self._graph.edges[number][1]].head)
        return rgb(theme.roles[role] if role else theme.dim)

    def _paint_node(self, canvas: Canvas, node: Node, role: str | None) -> None:
        theme = self._plan.theme
        rim, fill, ink = theme.dim, theme.panel, theme.dim
        if role:
            rim, fill, ink = theme.roles[role], theme.roles[role], _ink_on(theme.roles[role])
        ring = rgb(theme.text) if node.is_needed else None
        colors, covered = _disk(node, self._rim_px, rgb(rim), rgb(fill), rgb(ink), ring)
        reach = covered.shape[0] // 2
        rows = slice(node.y - reach, node.y + reach + 1)
        view = canvas.pixels[rows, node.x - reach : node.x + reach + 1]
        view[...] = np.rint(view + covered * (colors - view)).astype(np.uint8)

    def _write_note(self, canvas: Canvas, node: Node) -> None:
        if node.note:
            coverage = _line_of_text(node.note, self._graph.note_px)
            y = round(node.y + node.radius + 2 * self._rim_px)
            x = round(node.x - coverage.shape[1] / 2)
            _write(canvas, coverage, x, y, rgb(self._plan.theme.text))

    def _write_strongest(
        self,
        canvas: Canvas,
        strongest: list[int],
        capture: int,
        part: float,
        held: Mapping[HeadId, str],
    ) -> None:
        """Write names and numbers of the strongest lines, the colors as those of the lines."""
        graph = self._graph
        values = _between(graph.written, capture, part)
        canvas.at(*graph.listed.area)  # to be cleared
        for row, number in enumerate(strongest):
            if not graph.values[capture, number] > _FAINTEST:
                continue
            read, reader = (graph.nodes[end].head for end in graph.edges[number])
            text = f"L{read[0]}H{read[1]} → L{reader[0]}H{reader[1]}"
            y = graph.listed.y + row * graph.row_px
            color = self._line_color(number, held)
            _write(canvas, _line_of_text(text, graph.size_px), graph.listed.x, y, color)
            digits = [glyph(digit, graph.size_px)[0] for digit in f"{values[number]:.2f}"]
            x = graph.listed.right - sum(digit.shape[1] for digit in digits)
            for digit in digits:
                _write(canvas, digit, x, y, color)
                x += digit.shape[1]


@lru_cache(maxsize=4096)
def _disk(
    node: Node, rim_px: float, rim: _Color, fill: _Color, ink: _Color, ring: _Color | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the colors of a disk with its name in it, float32 [row, column, 3], and how much of
    each pixel it covers, [row, column, 1]; the disk lies in the middle, the ring around it."""
    reach = int(node.radius + 4 * rim_px) + 2
    rows, columns = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    distance = np.hypot(rows, columns).astype(np.float32)
    outer = np.clip(node.radius + 0.5 - distance, 0.0, 1.0)
    inner = np.clip(node.radius - rim_px + 0.5 - distance, 0.0, 1.0)
    pixels = np.empty((*distance.shape, 3), np.uint8)
    pixels[...] = rim
    blend(pixels, inner, 0, 0, fill)
    if node.name:
        coverage = _line_of_text(node.name, node.name_px)
        inked = np.flatnonzero(coverage.any(axis=1))
        coverage = coverage[inked[0] : inked[-1] + 1]
        left = max(0, round(reach - coverage.shape[1] / 2))
        blend(pixels, coverage, left, round(reach - coverage.shape[0] / 2), ink)
    if ring:
        around = np.clip(1.5 * rim_px + 0.5 - abs(distance - node.radius - 2.5 * rim_px), 0.0, 1.0)
        outside = distance > node.radius + 0.75 * rim_px
        pixels[outside] = ring
        outer = np.where(outside, around, outer)
    return pixels.astype(np.float32), outer[..., None]


def _stroke(
    flat: NDArray[np.uint8], line: _Line, half: float, opaque: float, color: _Color
) -> None:
    """Paint a line that reaches ``half`` pixels to both sides of its middle."""
    n_near = int(np.searchsorted(line.distances, half + 0.5))
    covered = np.clip(half + 0.5 - line.distances[:n_near], 0.0, 1.0) * np.float32(opaque)
    pixels = line.pixels[:n_near]
    under = flat.take(pixels, axis=0).astype(np.float32)
    colors = np.array(color, np.float32)
    flat[pixels] = np.rint(under + covered[:, None] * (colors - under)).astype(np.uint8)


@lru_cache(maxsize=1024)
def _line_of_text(text: str, size_px: float) -> NDArray[np.float32]:
    return text_coverage(text, size_px, bold=True)[0]


def _write(canvas: Canvas, coverage: NDArray[np.float32], x: int, y: int, color: _Color) -> None:
    blend(canvas.pixels, coverage, x, y, color)


def _between(values: NDArray[np.float32], capture: int, part: float) -> NDArray[np.float32]:
    """Return the row of a capture, or what lies ``part`` of the way to the next one."""
    here = values[capture]
    if part == 0.0:
        return here
    return here + np.float32(part) * (values[capture + 1] - here)


def _ink_on(color: str) -> str:
    """Return black or white, whichever can be read on a color (ITU-R BT.601 luma)."""
    red, green, blue = rgb(color)
    return "#0d1117" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#ffffff"
