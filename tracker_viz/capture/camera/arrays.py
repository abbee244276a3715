"""Put the arrays of a capture together, each with its axes and labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tracker_viz.capture.probe import Probe
from tracker_viz.capture.routing.by_block import Choices
from tracker_viz.capture.signals.signal import SignalArray


@dataclass(slots=True)
class Arrays:
    """The arrays of a capture while it is put together, still on their device.

    Attributes:
        probe: names its rows, and spells tokens.
        labels: of what an array holds: axis or array -> the name of each entry.
        tensors: by their stored names.
        axes: array -> names of its axes.
    """

    probe: Probe
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    axes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    # Names of those that are ids of tokens.
    _tokens: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.labels["probe"] = self.probe.labels

    def add_attention(self, block: int, pattern: Tensor, heads: Sequence[int]) -> None:
        """Add the maps of some heads of one block.

        Args:
            pattern: [probe, head, query, key], of all its heads.
            heads: numbers of those that are kept.
        """
        if not heads:
            return
        if len(heads) < pattern.shape[1]:
            pattern = pattern[:, list(heads)]
            self.labels[f"blocks.{block}.head"] = tuple(map(str, heads))
        name = f"blocks.{block}.attn.pattern"
        self.tensors[name] = pattern.to(torch.float16)
        self.axes[name] = ("probe", "head", "query", "key")

    def add_mixing(self, block: int, mixing: Tensor, channels: Sequence[int]) -> None:
        """Add the mixing maps of one block: [probe, head or channel, query, key].

        Args:
            channels: numbers of the channels, for a mixer that has no heads.
        """
        name = f"blocks.{block}.mixer.mixing"
        self.tensors[name] = mixing
        self.axes[name] = ("probe", "channel" if channels else "head", "query", "key")
        if channels:
            self.labels[f"blocks.{block}.mixing_channel"] = tuple(map(str, channels))

    def add_choices(self, choices: Choices, is_kept: Callable[[int], bool]) -> None:
        """Add what routers and indexers chose, in the blocks that are kept."""
        for name, values, axes in choices.arrays(is_kept):
            self.tensors[name], self.axes[name] = values, axes

    def add_activity(self, activity: Mapping[str, Tensor]) -> None:
        """Add what neurons did, ``<weight>.peak`` and so on, of the weights that are held."""
        for name, values in activity.items():
            if name.rpartition(".")[0] in self.tensors:
                self.tensors[name] = values

    def add_signals(self, measured: Iterable[SignalArray]) -> None:
        """Add what signals measured."""
        for each in measured:
            self.tensors[each.name], self.axes[each.name] = each.values, each.axes
            if each.is_tokens:
                self._tokens.append(each.name)

    def on_host(self) -> dict[str, np.ndarray]:
        """Return the arrays, and label those that are ids of tokens with their text."""
        arrays = _on_host(self.tensors)
        for name in self._tokens:
            self.labels[name] = self._spelled(arrays[name])
        return arrays

    def _spelled(self, ids: np.ndarray) -> tuple[str, ...]:
        """Return the text of every token id; empty where it is NaN."""
        texts = []
        for token in ids.reshape(-1).tolist():
            texts.append("" if np.isnan(token) else self.probe.spell(int(token)))
        return tuple(texts)


def _on_host(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Return the tensors as arrays. From a GPU all copies are queued into page-locked memory, and
    waited for once."""
    copies = {}
    for name, tensor in tensors.items():
        copies[name] = tensor.to("cpu", non_blocking=tensor.is_cuda)
    for device in {tensor.device for tensor in tensors.values() if tensor.is_cuda}:
        torch.cuda.current_stream(device).synchronize()
    return {name: copy.numpy() for name, copy in copies.items()}
