"""Find the mixing maps that a panel of attention shows beside it: those of blocks whose token mixer
has no softmax, signed, on a scale with 0 in its middle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from tracker_viz.rendering.layout import Attention
from tracker_viz.rendering.measuring import ValueRange
from tracker_viz.rendering.planning.content import (
    Heads,
    Matrices,
    block_of,
    head_numbers,
    probe_rows,
)
from tracker_viz.rendering.planning.plan_builder import Measured, PlanBuilder
from tracker_viz.rendering.sources import HeadMap

# Share of the cells of any capture that stay within the scale: a few large entries would leave the
# others dark.
_WITHIN = 0.995


def resolve_mixing(builder: PlanBuilder, panel: Attention) -> list[Heads]:
    """Return one Heads for every probe row that the panel shows; none without mixing maps."""
    series, layout = builder.series, builder.layout.name
    names = sorted(series.names("blocks.*.mixer.mixing"), key=block_of)
    if not names:
        return []
    arrays = [series.require(name, layout) for name in names]
    length = arrays[0].shape[-1]
    indices = [(block_of(name), head_numbers(series, name)) for name in names]
    since = {
        "value": "",
        "step": " · change since the previous capture",
        "change": f" · change since step {series.steps[0]:,}",
    }[panel.show]
    scale = f"mixing_{panel.show}"
    of_channels = any("channel" in array.axes for array in arrays)
    notes = ("each map one of many channels",) if of_channels else ()
    found = []
    for probe, label in probe_rows(builder, panel.probe, arrays[0].shape[0]):
        blocks = []
        for name, array in zip(names, arrays, strict=True):
            maps = range(array.shape[-3])
            blocks.append([HeadMap(name, probe, head, length, show=panel.show) for head in maps])
        parts = [f"Mixing{since}", *([label] if label else [])]
        title = " · ".join(parts)
        found.append(Heads(title, scale, blocks, indices, length, True, notes, is_mixing=True))
    options = partial(_options, builder, since)
    builder.add_scale(scale, "mixing", Measured("mixing", _WITHIN, options))
    return found


def _options(builder: PlanBuilder, since: str, reach: ValueRange) -> dict[str, Any]:
    largest = reach.quantile or 1.0
    if since:
        return {
            "title": f"mixing weight{since}",
            "cmap": builder.theme.magnitude,
            "minimum": 0.0,
            "maximum": largest,
            "reached": (0.0, reach.maximum),
        }
    return {
        "title": "mixing weight",
        "cmap": builder.theme.signed,
        "minimum": -largest,
        "maximum": largest,
        "reached": (-reach.maximum, reach.maximum),
    }


@dataclass(frozen=True)
class Strand:
    """Maps that share the columns of a panel: attention, mixing maps or, where each block has only
    one of them, both. Hybrids fill the whole panel so.

    Attributes:
        parts: all have the same blocks, and are empty where a block is another's.
    """

    parts: tuple[Heads, ...]

    @cached_property
    def columns(self) -> int:
        return max(part.columns for part in self.parts)

    @property
    def block_numbers(self) -> tuple[int, ...]:
        return self.parts[0].block_numbers

    @property
    def length(self) -> int:
        return self.parts[0].length

    @property
    def causal(self) -> bool:
        return all(part.causal for part in self.parts)

    @cached_property
    def indices(self) -> list[tuple[int, tuple[int, ...]]]:
        """Return for each block its number and the numbers of its heads."""
        found = []
        for each in zip(*(part.indices for part in self.parts), strict=True):
            found.append(max(each, key=lambda index: len(index[1])))
        return found

    @property
    def numbers(self) -> tuple[int, ...] | None:
        """Numbers of the heads by column; None where a column holds different heads of different
        blocks."""
        longest = max((numbers for _, numbers in self.indices), key=len)
        if any(numbers != longest[: len(numbers)] for _, numbers in self.indices):
            return None
        return longest


def aligned(
    heads: Sequence[Heads], matrices: Sequence[Matrices]
) -> tuple[list[Strand], list[Matrices]]:
    """Return panels whose rows are the same blocks, empty where a panel has nothing of a block."""
    panels: list[Heads | Matrices] = [*heads, *matrices]
    numbers = sorted({number for panel in panels for number in panel.block_numbers})
    strands: list[Strand] = []
    for each in heads:
        group = each.of(numbers)
        place = next((n for n, strand in enumerate(strands) if _can_share(strand, group)), None)
        if place is None:
            strands.append(Strand((group,)))
        else:
            strands[place] = Strand((*strands[place].parts, group))
    return strands, [each.of(numbers) for each in matrices]


def _can_share(strand: Strand, group: Heads) -> bool:
    """Return whether no block has maps of both, and both are of the same row of the probe."""
    probes = {part.probe for part in (*strand.parts, group)}
    if len(probes) > 1 or strand.length != group.length or strand.causal != group.causal:
        return False
    pairs = zip(strand.indices, group.indices, strict=True)
    return not any(one and other for (_, one), (_, other) in pairs)
