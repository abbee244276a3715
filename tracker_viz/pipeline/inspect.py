"""``tv.inspect``: a dry run of ``watch``, before hours of training. Nothing is recorded."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tracker_viz import capture_file, notebook
from tracker_viz.errors import ConfigError
from tracker_viz.pipeline.recording.arguments import checked_model, chosen_probe, chosen_schedule
from tracker_viz.pipeline.scoring import Scores

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from tracker_viz.capture import (
        CostLimit,
        Decode,
        Forward,
        InspectedBlock,
        LeftOut,
        Pooling,
        Probe,
        Schedule,
    )

# Captures are counted for trainings of these lengths where ``total_steps`` is not passed.
_LENGTHS = (100, 1_000, 10_000, 100_000)
_TAKES = 3


@dataclass(frozen=True, slots=True)
class CaptureCost:
    """The cost of one capture on this machine.

    Attributes:
        first_look_s: the first capture, before training, which discovers the model's structure.
        training_s: each later capture, on the training thread.
        background_s: scoring and writing a capture, on another thread; uploading is not measured.
        counted_s: the part that counts against the limit: both, if training leaves other threads no
            core.
        megabytes: size of the file.
    """

    first_look_s: float
    training_s: float
    background_s: float
    counted_s: float
    megabytes: float


@dataclass(frozen=True, slots=True)
class Inspection:
    """The findings of ``inspect``. ``print`` it.

    Attributes:
        model: as in ``Capture.model``: ``name``, ``n_blocks``, ``d_model``, ...
        blocks: the decoder blocks with the parameters that are captured.
        left_out: parameters that no capture shows, and why.
        probe: a description of the probe batch.
        cut: what is dropped to fit ``max_mb``, as in ``Capture.model["cut"]``; empty: nothing.
        cost: of one capture on this machine.
        captures: (training steps, captures) for the given length, or for several lengths.
        limit: on the cost of captures; None: no limit.
        step_s: seconds per training step, if given; None: captures are counted as if the limit
            skipped none.
    """

    model: Mapping[str, Any]
    blocks: tuple[InspectedBlock, ...]
    left_out: tuple[LeftOut, ...]
    probe: str
    cut: Mapping[str, Any]
    cost: CaptureCost
    captures: tuple[tuple[int, int], ...]
    limit: CostLimit | None
    step_s: float | None

    def __str__(self) -> str:
        return "\n".join(
            [
                *_model_lines(self),
                *_left_out_lines(self),
                f"probe: {self.probe}",
                *_cost_lines(self),
                *_captures_lines(self),
            ]
        )

    def __repr__(self) -> str:
        name = self.model.get("name", "model")
        cost = f"{self.cost.megabytes:.1f} MB and {1000 * self.cost.training_s:.0f} ms a capture"
        blocks = notebook.count(len(self.blocks), "block")
        return f"Inspection({name}: {blocks}, {cost}; print it for all findings)"

    def _repr_html_(self) -> str:
        """Show the findings in a notebook, as ``print`` does."""
        return f'<pre style="white-space: pre-wrap">{notebook.text(self)}</pre>'


def inspect(
    model: nn.Module,
    *,
    probe: Probe | Tensor | Sequence[Any] | None = None,
    decode: Decode | Any | None = None,
    schedule: Schedule | None = None,
    every: int | None = None,
    total_steps: int | None = None,
    captures: int = 100,
    max_overhead: float | None = None,
    free_s: float = 30.0,
    step_s: float | None = None,
    max_mb: float = 10.0,
    blocks: str | Sequence[str] | None = None,
    only_blocks: Collection[int] | None = None,
    only_heads: Collection[int] | Mapping[int, Collection[int]] | None = None,
    projections: Collection[str] | Mapping[str, str] | None = None,
    pooling: Pooling | Mapping[str, Pooling] = "sample",
    max_experts: int = 4,
    score_rows: int = 4,
    signals: Collection[str] | None = None,
    forward: Forward | None = None,
    autocast: torch.dtype | None = None,
) -> Inspection | None:
    """List what ``watch`` would capture of a model, and measure the cost on this machine. Nothing
    is recorded, and no tracker is contacted.

    Args:
        step_s: seconds per training step, if you know them: the number of captures then takes the
            limit into account.

    The other arguments are those of ``watch``. Call this on every process for a sharded model.

    Returns:
        The findings; None on processes other than the main one.

    Raises:
        UnsupportedModelError, ProbeError: the model or the probe cannot be captured.
        ConfigError: an option has an invalid value.
    """
    from tracker_viz.capture import (
        Camera,
        CaptureOptions,
        inspected_blocks,
        left_out,
        probe_in_words,
        unwrapped,
    )

    model = unwrapped(checked_model(model))
    options = CaptureOptions(
        captures=captures,
        every=every,
        max_overhead=max_overhead,
        free_s=free_s,
        max_mb=max_mb,
        blocks=blocks,
        only_blocks=only_blocks,
        only_heads=only_heads,
        projections=projections,
        pooling=pooling,
        max_experts=max_experts,
        score_rows=score_rows,
        signals=signals,
    )
    if step_s is not None and not step_s > 0:
        raise ConfigError(f"step_s must be a number of seconds above 0; got {step_s!r}")
    chosen = chosen_schedule(schedule, options.every, total_steps, options.captures)
    limit = options.limit(steps_are_chosen=schedule is not None or every is not None)
    batch = chosen_probe(model, probe, decode, options.score_rows)

    camera = Camera(model, batch, forward=forward, autocast=autocast, **options.for_camera())
    if not camera.takes_part:
        return None
    cost, kept_model = _measured(camera, options.max_mb)
    if not camera.main:
        return None
    counts = []
    for length in _LENGTHS if chosen.total is None else (chosen.total,):
        counts.append((length, _n_captures(chosen, length, limit, cost, step_s)))
    return Inspection(
        model=camera.model_info,
        blocks=tuple(inspected_blocks(camera)),
        left_out=tuple(left_out(camera)),
        probe=probe_in_words(batch),
        cut=kept_model.get("cut", {}),
        cost=cost,
        captures=tuple(counts),
        limit=limit,
        step_s=step_s,
    )


def _measured(camera: Any, max_mb: float) -> tuple[CaptureCost, Mapping[str, Any]]:
    """Take a few captures and throw them away; return their cost, and the model's description as a
    capture stores it."""
    from tracker_viz.capture import cores_are_busy

    started_s = time.perf_counter()
    capture = camera.explore(0, 0)
    first_look_s = time.perf_counter() - started_s
    # The least of a few takes: the first ones warm up allocators and kernels.
    takes_s = []
    for step in range(1, 1 + _TAKES):
        started_s = time.perf_counter()
        capture = camera.take(step, None, {})
        takes_s.append(time.perf_counter() - started_s)

    if not camera.main:
        return CaptureCost(first_look_s, min(takes_s), 0.0, min(takes_s), 0.0), {}
    started_s = time.perf_counter()
    kept = Scores(max_mb).score_and_cut(capture)
    contents = capture_file.to_bytes(kept)
    background_s = time.perf_counter() - started_s
    counted_s = min(takes_s)
    if cores_are_busy(camera.device):
        counted_s += background_s
    cost = CaptureCost(first_look_s, min(takes_s), background_s, counted_s, len(contents) / 1e6)
    return cost, kept.model


def _n_captures(
    schedule: Schedule,
    length: int,
    limit: CostLimit | None,
    cost: CaptureCost,
    step_s: float | None,
) -> int:
    """Count the captures of a training of ``length`` steps, step 0 and the last among them; without
    ``step_s`` as if the limit left out none."""
    from tracker_viz.capture import Governor

    governor = Governor(schedule, limit)
    n_captures, step = 1, 0
    due = schedule.next_due(0)
    while due is not None and due <= length:
        if step_s is not None:
            governor.add_training(due - step, (due - step) * step_s)
            governor.add_capture(cost.counted_s)
        n_captures, step = n_captures + 1, due
        due, _ = governor.next_step(step)
    return n_captures + (step < length)


# -- in words --------------------------------------------------------------------------------------


def _model_lines(found: Inspection) -> list[str]:
    model = found.model
    lines = [
        f"{model['name']}: {model['n_parameters'] / 1e6:.3g} M parameters, {model['d_model']} "
        f"wide, attention by {' and '.join(model['found']['attention'])}"
    ]
    alike: list[list[InspectedBlock]] = []
    for block in found.blocks:
        is_same = bool(alike) and _layout(alike[-1][0]) == _layout(block)
        if is_same:
            alike[-1].append(block)
        else:
            alike.append([block])
    for group in alike:
        first, last = group[0], group[-1]
        names = first.name
        if len(group) > 1:
            names = f"{first.name} to {last.name.rpartition('.')[2]}"
        heads = "no attention"
        if first.n_heads:
            n_kv_heads = notebook.count(first.n_kv_heads, "key/value head")
            heads = f"{notebook.count(first.n_heads, 'head')}, {n_kv_heads}"
        lines.append(f"{names}: {heads}")
        width = max(map(len, first.projections), default=0)
        lines += [f"  {name:<{width}}  {source}" for name, source in first.projections.items()]
        if not first.projections:
            lines.append("  no weights")
    return lines


def _layout(block: InspectedBlock) -> tuple[Any, ...]:
    return block.n_heads, block.n_kv_heads, block.projections


def _left_out_lines(found: Inspection) -> list[str]:
    from tracker_viz.capture import VECTOR

    if not found.left_out:
        return ["left out: nothing"]
    n_vectors = 0
    counted: Counter[str] = Counter()
    for each in found.left_out:
        if each.reason == VECTOR:
            n_vectors += 1
            continue
        name = _name_in_any_block(each.name, found.blocks) or "attention"
        shape = " x ".join(map(str, each.shape))
        counted[f"{name} {shape}".rstrip() + f": {each.reason}"] += 1
    lines = ["left out:"]
    for text, count in counted.items():
        if count > 1:
            text += f" ({count} of these)"
        lines.append(f"  {text}")
    if n_vectors:
        lines.append(f"  {n_vectors} x {VECTOR}")
    return lines


def _name_in_any_block(name: str, blocks: Sequence[InspectedBlock]) -> str:
    for block in blocks:
        if name.startswith(f"{block.name}."):
            container = block.name.rpartition(".")[0]
            return f"{container}.*{name.removeprefix(block.name)}".removeprefix(".")
    return name


def _cost_lines(found: Inspection) -> list[str]:
    cost = found.cost
    lines = [
        f"one capture: {cost.megabytes:.3g} MB, {1000 * cost.training_s:.0f} ms on the training "
        f"thread and {1000 * cost.background_s:.0f} ms in the background; the first one takes "
        f"{cost.first_look_s:.2g} s"
    ]
    if found.cut:
        whole = found.cut.get("of", {})
        kept = []
        for name, value in found.cut.items():
            if name in whole:
                kept.append(f"{name} {value} of {whole[name]}")
            elif name != "of":
                kept.append(f"{name} {value}")
        lines.append(f"  cut to fit max_mb: {', '.join(kept)}")
    return lines


def _captures_lines(found: Inspection) -> list[str]:
    counts = ", ".join(f"{n} in {steps:,} steps" for steps, n in found.captures)
    lines = [f"captures: {counts}"]
    steps, most = found.captures[-1]
    each_s, limit = found.cost.counted_s, found.limit
    if limit is None:
        lines.append(f"  always captured, here {most * each_s:.2g} s in {steps:,} steps")
    elif limit.max_overhead >= 1 or found.step_s is not None:
        lines.append(f"  {limit}")
    elif most * each_s <= limit.free_s:
        lines.append(f"  {most * each_s:.2g} s in total, within free_s={limit.free_s:g} s")
    else:
        needed_ms = 1000 * limit.paid_after_s(most * each_s) / steps
        lines.append(
            f"  free_s={limit.free_s:g} s is enough for {limit.free_s / each_s:.0f}; {most} take "
            f"{100 * limit.max_overhead:.3g} % if a step takes {needed_ms:.2g} ms or more, else "
            "due steps are skipped"
        )
    return lines
