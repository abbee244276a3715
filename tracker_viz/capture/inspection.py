"""Say which parameter of a model is captured as what, and what is left out and why. For
``pipeline.inspect``, after a camera has looked at the model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from tracker_viz.capture.camera import Camera
from tracker_viz.capture.discover.naming.matrix import SKIPPED_NAMES
from tracker_viz.capture.probe import Probe
from tracker_viz.capture.weights.matrices import Projection

VECTOR = "a vector (norm, bias)"
_TOKENS_SHOWN = 12


@dataclass(frozen=True, slots=True)
class InspectedBlock:
    """One decoder block.

    Attributes:
        name: the module's name in the model.
        n_heads, n_kv_heads: query heads and key/value heads; 0 where it does not attend.
        projections: name of a captured weight -> its parameter within the block, and which part of
            it: ``{"attn.w_q": "qkv.weight, rows 0 to 63"}``.
    """

    name: str
    n_heads: int
    n_kv_heads: int
    projections: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A parameter, or a call of attention, that no capture shows.

    Attributes:
        name: the parameter's name in the model; empty for attention.
        shape: as it is stored; empty for attention.
    """

    name: str
    shape: tuple[int, ...]
    reason: str


def inspected_blocks(camera: Camera) -> list[InspectedBlock]:
    """Return every block of the model, with the weights of it that are captured."""
    structure = camera.structure
    blocks = []
    for index, name in enumerate(structure.blocks):
        of_block = [each for each in camera.projections if each.block == index]
        projections = {each.name: _source(each, name) for each in of_block}
        heads, kv_heads = structure.n_heads[index], structure.n_kv_heads[index]
        blocks.append(InspectedBlock(name, heads, kv_heads, projections))
    return blocks


def left_out(camera: Camera) -> list[LeftOut]:
    """Return attention that could not be shown, then every parameter that is not captured."""
    found = [LeftOut("", (), reason) for reason in camera.structure.left_out]
    captured = _parameters_of(camera.projections)
    known = _parameters_of(camera.structure.projections)
    modules = dict(camera.model.named_modules())
    for name, parameter in camera.model.named_parameters(remove_duplicate=False):
        if name in captured:
            continue
        if name in known:
            reason = "not asked for (projections=, only_blocks=)"
        else:
            owner = modules[name.rpartition(".")[0]]
            reason = _reason(name, parameter, owner, camera.structure.blocks)
        found.append(LeftOut(name, tuple(parameter.shape), reason))
    return found


def probe_in_words(probe: Probe) -> str:
    """Return one line for a person: the rows, their length, and the hidden rows."""
    rows = []
    for row in probe.rows[: probe.n_drawn]:
        if row.kind == "repeated" and row.period:
            n_copies = (probe.length - (row.start or 0)) / row.period
            rows.append(f"{n_copies:.3g} copies of {row.period} tokens")
        else:
            shown = " ".join(row.tokens[:_TOKENS_SHOWN])
            rows.append(f"the text {shown!r} ...")
    beside = f", and {probe.n_hidden} rows for the scores alone" if probe.n_hidden else ""
    return f"{len(rows)} x {probe.length} tokens: {'; '.join(rows)}{beside}"


def _parameters_of(projections: Iterable[Projection]) -> set[str]:
    names: set[str] = set()
    for projection in projections:
        names.update(projection.parameters)
    return names


def _source(projection: Projection, block: str) -> str:
    first, *others = (name.removeprefix(f"{block}.") for name in projection.parameters)
    parts = [first]
    if others:
        parts = [f"the mean of {1 + len(others)} parameters, {first} to {others[-1]}"]
    if projection.expert is not None:
        parts.append(f"expert {projection.expert}")
    if projection.rows is not None and projection.stride > 1:
        first_row = projection.rows[0][0]
        parts.append(f"rows {first_row}, {first_row + projection.stride}, ...")
    elif projection.rows is not None:
        (begin, end), *more = projection.rows
        rows = f"rows {begin} to {end - 1}"
        if more:
            rows += f" and {len(more)} more groups"
        parts.append(rows)
    if projection.transposed:
        parts.append("transposed")
    return ", ".join(parts)


def _reason(name: str, parameter: Tensor, owner: nn.Module, blocks: Iterable[str]) -> str:
    around = [block for block in blocks if name.startswith(f"{block}.")]
    if not around:
        return "outside the blocks"
    if not parameter.is_floating_point():
        return "not floating point"
    if isinstance(owner, nn.Embedding):
        return "an embedding"
    convolutions: Any = nn.modules.conv._ConvNd
    if isinstance(owner, convolutions) and parameter.ndim > 1:
        return "a convolution"
    if parameter.ndim < 2 or min(parameter.shape[-2:]) < 2:
        return VECTOR
    if SKIPPED_NAMES.search(name.removeprefix(f"{around[0]}.").removesuffix(".weight")):
        return "its name says norm, embedding, router, convolution or LoRA"
    return (
        "not recognized as a projection: it was not seen to feed an attention or to be a "
        "feed-forward part; projections={'mlp.w_in': '...'} names it"
    )
