"""Take one raw ``Capture`` of a model in the middle of its training, and bring it off the device.

Attention comes whole, as float16 (its scores need all of it); weights smaller than they are, as
float32, with the norms of the whole matrix (``<name>.norms``) and what its neurons did on the probe
(``<name>.peak``, ``<name>.spread``) beside them; of a mixture of experts what its routers chose.
The ``Recorder`` says when; scoring, which uses those up, and cutting to size come later, off the
training thread (``budget.fit``).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tracker_viz.capture import checks, distributed
from tracker_viz.capture.budget import DEFAULT_MAX_MB
from tracker_viz.capture.camera.arrays import Arrays
from tracker_viz.capture.camera.choices import chosen_heads, chosen_projections
from tracker_viz.capture.camera.weight_reader import WeightReader
from tracker_viz.capture.discover.adapters import without_unreadable
from tracker_viz.capture.discover.blocks import attend, discover
from tracker_viz.capture.discover.limits import check_parameters, context_length
from tracker_viz.capture.discover.model_info import ModelStructure, describe
from tracker_viz.capture.isolation import (
    Forward,
    buffers_written,
    copy_of_buffers,
    default_forward,
    isolated,
    model_device,
)
from tracker_viz.capture.probe import Probe, check_probe
from tracker_viz.capture.routing.by_block import Choices, choices_by_block, router_modules
from tracker_viz.capture.routing.routers import RouterWatch
from tracker_viz.capture.signals.chosen import chosen_signals
from tracker_viz.capture.signals.not_finite import (
    are_finite,
    description_of,
    first_not_finite,
)
from tracker_viz.capture.signals.probe_pass import ProbePass
from tracker_viz.capture.signals.signal import SignalArray
from tracker_viz.capture.weights.matrices import Pooling, Projection
from tracker_viz.capture.weights.neurons import NeuronWatch, down_layers, linear_layers
from tracker_viz.errors import CaptureError, ConfigError
from tracker_viz.types import Capture

log = logging.getLogger("tracker_viz.capture")

# Attention weights of a capture, over all rows, up to which hidden rows are run: 16 rows of 128
# tokens for 1,024 heads, 0.5 GB on the device, and some seconds of a core to score. Rows that are
# drawn are never left out.
MAX_SCORED_ENTRIES = 1 << 28


class Camera:
    """Take captures of one model on one probe: call ``explore`` once, then ``take``. For a sharded
    model call both on every process; only the main process gets arrays.

    Args:
        model: any decoder, without its wrappers (``distributed.unwrapped``).
        max_mb: size of a capture; weights are made smaller to fit before they are copied.
        blocks: module names of the decoder blocks, or a pattern; found automatically if None.
        only_blocks: keep these blocks, by number; all if None.
        only_heads: keep the attention of these heads, by number: of every block, or block -> heads
            (the others keep none); all if None.
        projections: keep only weights with these names or patterns (``mlp.w_gate``, ``mlp.*``); all
            that are found if None. A mapping says by hand where each is: ``{"attn.w_q":
            "mixer.query.weight"}``, parameter names within a block.
        pooling: how weights become smaller: ``sample``, ``mean`` or ``rms`` (see
            ``weights.Pooling``), or pattern of a name -> one of them (``{"mlp.*": "rms"}``, the
            others are sampled).
        max_experts: experts of a mixture that are captured one by one, besides their mean.
        signals: names of what is measured beside attention and weights (``signals.chosen``); those
            that cost little if None.
        forward: how to call the model on [probe, position] ids; found from its signature by
            default.
        autocast: run the probe under autocast to this dtype.

    Raises:
        CaptureError, ProbeError, ConfigError: from ``explore``: the model, the probe or an option
            cannot be used.
    """

    def __init__(
        self,
        model: nn.Module,
        probe: Probe,
        *,
        max_mb: float = DEFAULT_MAX_MB,
        blocks: str | Sequence[str] | None = None,
        only_blocks: Collection[int] | None = None,
        only_heads: Collection[int] | Mapping[int, Collection[int]] | None = None,
        projections: Collection[str] | Mapping[str, str] | None = None,
        pooling: Pooling | Mapping[str, Pooling] = "sample",
        max_experts: int = 4,
        signals: Collection[str] | None = None,
        forward: Forward | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.model = model
        self.probe = probe
        self.model_info: dict[str, Any] = {}
        self.sharded = distributed.is_sharded(model)
        self.main = distributed.is_main_process()
        self._max_mb = checks.positive("max_mb", max_mb, "the size of a capture in megabytes")
        self._max_experts = checks.whole("max_experts", max_experts, 0)
        self._wanted_signals = checks.signals(signals)
        self._blocks, self._only_blocks, self._only_heads = blocks, only_blocks, only_heads
        self._wanted, self._named = checks.projection_names(projections)
        self._pooling = checks.pooling_by_name(pooling)
        self._forward, self._autocast = forward or default_forward, autocast
        checks.numbers("only_blocks", only_blocks)
        checks.heads(only_heads)
        checks.dtype("autocast", autocast)
        if not callable(self._forward):
            raise ConfigError(
                "forward must be a function that calls the model: lambda model, "
                f"input_ids: ...; got {forward!r}"
            )
        # What ``explore`` finds out.
        self._structure: ModelStructure
        self._input_ids: Tensor
        self._weights: WeightReader
        self._signature: tuple[tuple[str, tuple[int, ...]], ...]
        # Modules to follow so that the routers of a mixture are seen.
        self._router_modules: list[tuple[str, nn.Module]] = []
        # Block -> its router's decisions in the pass that is being developed.
        self._choices = Choices()
        # What signals measured in that pass.
        self._signal_arrays: list[SignalArray] = []
        self._missing_signals: list[str] = []
        # The first module whose output is not finite.
        self._not_finite: str | None = None

    @property
    def takes_part(self) -> bool:
        """True if this process runs the probe. A model that is whole on every process is captured
        by the main one alone."""
        return self.main or self.sharded

    @property
    def structure(self) -> ModelStructure:
        """The structure that ``explore`` found in the model."""
        return self._structure

    @property
    def projections(self) -> tuple[Projection, ...]:
        """The weights that are captured, of those that were found."""
        return self._weights.projections

    @property
    def device(self) -> torch.device:
        """The model's current device: it may be moved after ``explore``."""
        return model_device(self.model)

    def explore(self, step: int, tokens_seen: int | None) -> Capture:
        """Discover the model's structure, and return the capture that was taken on the way.

        Args:
            step: finished optimizer steps.
            tokens_seen: training tokens so far; None if not known.
        """
        check_parameters(self.model)
        check_probe(self.probe, vocab_size=None, context_length=context_length(self.model))
        before = copy_of_buffers(self.model)
        self._written: set[str] = set()
        with isolated(
            self.model, autocast=self._autocast, written_buffers=dict(self.model.named_buffers())
        ):
            attention = self._discover()
            self._written = buffers_written(self.model, before)
        distributed.put_away(self.model)
        return self._developed(attention, step, tokens_seen, {})

    def take(self, step: int, tokens_seen: int | None, metrics: Mapping[str, float]) -> Capture:
        """Run the probe, and return the raw capture of ``step``. A model whose parameters were
        renamed or reshaped is explored again.

        Raises:
            CaptureError: the model was sharded since ``explore``, or its attention was not seen.
        """
        if distributed.is_sharded(self.model) != self.sharded:
            raise CaptureError(
                "the model was sharded after watch() inspected it, so other "
                "processes would not join the probe's forward pass; call watch "
                "after fully_shard (accelerator.prepare)"
            )
        self._input_ids = self._input_ids.to(self.device)
        written = {}
        for name, buffer in self.model.named_buffers():
            if name in self._written:
                written[name] = buffer
        with isolated(self.model, autocast=self._autocast, written_buffers=written):
            if _signature(self.model) == self._signature:
                self._neurons = NeuronWatch(self._input_ids.numel(), self._n_drawn_tokens)
                with self._neurons.following(down_layers(self.model, self.projections)):
                    attention = self._attend(self._input_ids)
            else:
                log.warning(
                    "the model's parameters were replaced (step %d): inspecting it again",
                    step,
                )
                attention = self._discover()
        distributed.put_away(self.model)
        return self._developed(attention, step, tokens_seen, metrics)

    @property
    def _n_drawn_tokens(self) -> int:
        return self.probe.n_drawn * self.probe.length

    def _attend(self, input_ids: Tensor) -> list[Tensor]:
        mixing: dict[int, Tensor] = {}
        routers = RouterWatch(input_ids.shape, dtype=torch.float16)
        watching: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if self._router_modules:
            watching = routers.following(self._router_modules)
        signals = chosen_signals(self._wanted_signals, self.probe, self._structure)
        blocks = list(filter(self._is_kept, range(len(self._structure.blocks))))
        seen = ProbePass(self._structure, input_ids, signals, blocks)
        with watching, seen.following(self.model):
            attention = attend(
                self.model,
                input_ids,
                self._structure,
                forward=seen.calling(self._forward),
                dtype=torch.float16,
                mixing=mixing,
                logits=seen.logits,
                max_logits=seen.max_logits,
            )
        self._signal_arrays = list(seen.arrays(attention))
        self._not_finite = None
        is_broken = not are_finite(self._signal_arrays)
        if self.sharded:
            # Every process takes part in the pass that looks for the module.
            is_broken = distributed.any_of(is_broken)
        if is_broken:
            self._not_finite = first_not_finite(
                self.model, input_ids, self._forward, sharded=self.sharded
            )
        self._missing_signals = seen.missing
        self._mixing = mixing
        self._choices = choices_by_block(routers, self._structure)
        return attention

    def _discover(self) -> list[Tensor]:
        drawn = self.probe.with_score_rows(0)
        drawn_ids = drawn.input_ids.to(self.device)
        self._neurons = NeuronWatch(drawn_ids.numel(), self._n_drawn_tokens)
        routers = RouterWatch(drawn_ids.shape, dtype=torch.float16)
        self._mixing = {}
        named = [(name, module) for name, module in self.model.named_modules() if name]
        with self._neurons.following(linear_layers(self.model)), routers.following(named):
            self._structure, attention = discover(
                self.model,
                drawn_ids,
                forward=self._forward,
                blocks=self._blocks,
                projections=self._named,
                max_experts=self._max_experts,
                dtype=torch.float16,
                mixing=self._mixing,
            )
        self._structure, readable = without_unreadable(
            self._structure, self.model, sharded=self.sharded
        )
        self._choices = choices_by_block(routers, self._structure)
        self._router_modules = router_modules(self.model, self._choices.modules)
        described_choices = self._choices.description()
        attention = self._with_hidden_rows(attention)
        self._described_probe = self.probe.description()
        self._heads = chosen_heads(self._structure.n_heads, self._only_blocks, self._only_heads)
        chosen = chosen_projections(
            self.model, self._structure, self._wanted, by_hand=self._named is not None
        )
        kept = [each for each in chosen if self._is_kept(each.block)]
        self._weights = WeightReader(
            self.model, kept, readable.asked_for, pooling=self._pooling, max_mb=self._max_mb
        )
        self._signature = _signature(self.model)
        self.model_info = describe(self._structure, self.model)
        self.model_info |= described_choices
        if self._missing_signals:
            self.model_info["missing_signals"] = self._missing_signals
        if self._weights.is_pooled:
            self.model_info["pooling"] = self._pooling
        return attention

    def _is_kept(self, block: int) -> bool:
        return self._only_blocks is None or block in self._only_blocks

    def _with_hidden_rows(self, drawn: list[Tensor]) -> list[Tensor]:
        """Return the attention of all rows, and leave out of the probe the hidden ones that are too
        many for this model, or that it does not take.

        Args:
            drawn: the attention of the rows that are drawn.
        """
        maps = [*drawn, *self._mixing.values()]
        per_row = sum(each.numel() for each in maps) / self.probe.n_drawn
        self._leave_out_rows(max(int(MAX_SCORED_ENTRIES / per_row) - self.probe.n_drawn, 0))
        self._input_ids = self.probe.input_ids.to(self.device)
        if not self.probe.n_hidden:
            return self._with_signals(drawn)
        try:
            return self._attend(self._input_ids)
        except Exception as error:  # noqa: BLE001
            # A forward of the user's own may be made for just the rows that they gave.
            log.warning(
                "the model cannot run more than the %d drawn rows of the probe "
                "(%s: %s), so heads are scored on these only; score_rows=0 "
                "avoids this attempt",
                self.probe.n_drawn,
                type(error).__name__,
                error,
            )
            self.probe = self.probe.with_score_rows(0)
            self._input_ids = self.probe.input_ids.to(self.device)
            return self._with_signals(drawn)

    def _with_signals(self, drawn: list[Tensor]) -> list[Tensor]:
        """Return the attention of the rows that are drawn, and measure the signals: that takes a
        pass of its own, because blocks are not known while they are discovered."""
        return self._attend(self._input_ids) if self._wanted_signals else drawn

    def _leave_out_rows(self, most: int) -> None:
        """Keep at most ``most`` hidden rows, and say so once."""
        wanted = self.probe.n_hidden
        if wanted <= most:
            return
        self.probe = self.probe.with_hidden(most)
        if self.main:
            log.warning(
                "heads are scored on %d of %d hidden rows of the probe: all of "
                "them would need more than %d million attention weights per "
                "capture; use shorter rows to score more",
                self.probe.n_hidden,
                wanted,
                MAX_SCORED_ENTRIES // 1_000_000,
            )

    def _developed(
        self,
        attention: Sequence[Tensor],
        step: int,
        tokens_seen: int | None,
        metrics: Mapping[str, float],
    ) -> Capture:
        held = Arrays(self.probe)
        for block, pattern in enumerate(attention):
            held.add_attention(block, pattern, self._heads[block])
        held.add_choices(self._choices, self._is_kept)
        for block in filter(self._is_kept, self._structure.mixing.blocks):
            held.add_mixing(block, self._mixing[block], self._structure.mixing.channels[block])
        self._weights.add_to(held)
        held.add_activity(self._neurons.activity(self.model, self._structure.projections))
        held.add_signals(self._signal_arrays)
        self._choices, self._signal_arrays = Choices(), []
        arrays = held.on_host() if self.main else {}
        return Capture(
            step=step,
            arrays=self._weights.with_norms(arrays),
            axes=held.axes,
            labels=held.labels,
            tokens_seen=tokens_seen,
            metrics=metrics,
            model=self.model_info | description_of(self._not_finite),
            probe=self._described_probe,
        )


def _signature(model: nn.Module) -> tuple[tuple[str, tuple[int, ...]], ...]:
    # Sorted: an adapter's merging puts a parameter back in another place.
    return tuple(
        sorted((name, tuple(parameter.shape)) for name, parameter in model.named_parameters())
    )
