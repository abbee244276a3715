"""Learn from a watched pass what parameters' names do not tell: how each is multiplied, and where
fused ones split.

Filled by ``AttentionWatch`` during the one exploring pass, read by
``discover.naming.projections``. Everything here is observed, not looked up: a parameter that is
seen as ``x @ W`` is stored [in, out]; rows of a fused projection whose outputs turn up, bit for
bit, as the values of the attention are its value rows; outputs that go through the activation are
the gate.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracker_viz.capture.distributed import is_dtensor
from tracker_viz.capture.tracing.functions import ACTIVATIONS, WEIGHT_ARGUMENT
from tracker_viz.capture.tracing.origins import Origins

# Outputs of so many latest products are kept to be recognized: a block's q, k, v or gate, up
# follow each other closely.
_KEPT_OUTPUTS = 8


@dataclass(slots=True)
class ParameterTrace:
    """Observations by parameter name.

    Attributes:
        transposed: stored [in, out].
        value_rows: rows of [out, in] that make the attention's values, ascending.
        gate_rows: rows of [out, in] that go through the activation, ascending.
        origins: which weights tensors of the pass came from.
    """

    n_rows: int
    length: int
    modules: Mapping[str, nn.Module]
    transposed: dict[str, bool] = field(default_factory=dict)
    value_rows: dict[str, np.ndarray] = field(default_factory=dict)
    gate_rows: dict[str, np.ndarray] = field(default_factory=dict)
    origins: Origins = field(init=False)
    _outputs: deque[tuple[str, Tensor]] = field(default_factory=lambda: deque(maxlen=_KEPT_OUTPUTS))

    def __post_init__(self) -> None:
        self.origins = Origins(self.modules)

    def saw(self, func: Any, args: Sequence[Any], output: Any, running: Sequence[str]) -> None:
        """Note a torch function that was called with ``args``, inside the modules ``running``."""
        position = WEIGHT_ARGUMENT.get(func)
        if position is not None and len(args) > position and isinstance(output, Tensor):
            self._saw_product(func, args[position], output, running)
        elif func in ACTIVATIONS and args and isinstance(args[0], Tensor):
            self._saw_activation(args[0])

    def saw_layer(self, name: str, entering: Any, output: Any) -> None:
        """Note what a layer returned that is no plain product with a parameter: an adapter's, or a
        quantized one's, whose matrix is read by ``name``."""
        if isinstance(entering, Tensor) and isinstance(output, Tensor):
            self._outputs.append((name, output))
            self.origins.saw_layer(name, entering, output)

    def saw_values(self, value: Tensor) -> None:
        """Find the projection, and the rows of it, that made the values of an attention: [..., key,
        channel], probe rows first."""
        n_tokens = self.n_rows * self.length
        if value.ndim < 2:
            return
        if value.numel() % n_tokens or value.shape[-2] != self.length:
            return
        # The first row of the probe is enough to recognize them: [channel, key].
        first_row = value.detach().reshape(self.n_rows, -1, *value.shape[-2:])[0]
        channels = first_row.transpose(-2, -1).reshape(-1, self.length)
        for name, output in reversed(self._outputs):
            is_of_probe = output.numel() == n_tokens * output.shape[-1]
            if not is_of_probe or not _rows_first(output, self.n_rows, self.length):
                continue
            outputs = output.detach().reshape(self.n_rows, self.length, -1)[0]
            rows = _find(channels, outputs.t())
            if rows is not None:
                self.value_rows[name] = rows
                return

    def _saw_product(self, func: Any, weight: Any, output: Tensor, running: Sequence[str]) -> None:
        if not isinstance(weight, Tensor) or weight.ndim < 2:
            return
        if is_dtensor(weight):  # each process sees a part of what comes out
            return
        found = self._parameter(weight, running)
        copied = None if found is not None else self._copied(weight, running)
        if found is not None:
            name, parameter = found
            as_out_in = weight if func is F.linear else weight.transpose(-2, -1)
            self.transposed[name] = as_out_in.stride(-1) != parameter.stride(-1)
        elif copied is not None:
            name, is_turned = copied
            self.transposed[name] = is_turned == (func is F.linear)
        else:
            return
        self._outputs.append((name, output))

    def _saw_activation(self, entering: Tensor) -> None:
        if not entering.ndim:  # a gate that was learned for all channels
            return
        width = entering.shape[-1]
        for name, output in reversed(self._outputs):
            is_twice_as_wide = output.shape[-1] == 2 * width
            if not is_twice_as_wide or output.numel() != 2 * entering.numel():
                continue
            if name in self.gate_rows:
                continue
            gates = entering.detach().reshape(-1, width)
            gates_and_ups = output.detach().reshape(-1, 2 * width)
            rows = _find(gates.t(), gates_and_ups.t())
            if rows is not None:
                self.gate_rows[name] = rows
            return

    def _parameter(self, weight: Tensor, running: Sequence[str]) -> tuple[str, Tensor] | None:
        # By memory, in the modules that are running: a sharded model puts its gathered parameters
        # there for the time of the call.
        try:
            pointer = weight.untyped_storage().data_ptr()
            for module in running[-2:]:
                for name, parameter in self.modules[module].named_parameters(recurse=False):
                    if parameter.untyped_storage().data_ptr() == pointer and parameter.ndim >= 2:
                        return f"{module}.{name}".strip("."), parameter
        except (RuntimeError, NotImplementedError):  # tensors without storage of their own
            pass
        return None

    def _copied(self, weight: Tensor, running: Sequence[str]) -> tuple[str, bool] | None:
        """Return the parameter that a matrix is a copy of, and whether the copy is turned:
        ``weight.T.contiguous()``."""
        if weight.ndim != 2:
            return None
        for module in running[-2:]:
            for name, parameter in self.modules[module].named_parameters(recurse=False):
                if parameter.ndim != 2 or parameter.device != weight.device:
                    continue
                # Types are compared, too: float8 is not promoted to another.
                if parameter.dtype != weight.dtype:
                    continue
                full_name = f"{module}.{name}".strip(".")
                if torch.equal(parameter, weight):
                    return full_name, False
                if torch.equal(parameter, weight.t()):
                    return full_name, True
        return None


def _rows_first(output: Tensor, n_rows: int, length: int) -> bool:
    return output.ndim == 2 or tuple(output.shape[:2]) == (n_rows, length)


def _find(wanted: Tensor, among: Tensor) -> np.ndarray | None:
    """Return the indices of the rows of ``among`` that equal, bit for bit, the rows of ``wanted``;
    None unless each is found exactly once."""
    if wanted.dtype != among.dtype:
        return None
    rows = _rows_as_bytes(among)
    index = dict(zip(rows, range(len(rows)), strict=True))
    if len(index) < len(rows):
        return None  # equal rows (weights that start at zero) prove nothing
    found = set()
    for row in _rows_as_bytes(wanted):
        if row not in index:
            return None
        found.add(index[row])
    return np.array(sorted(found), dtype=np.int64)


def _rows_as_bytes(matrix: Tensor) -> list[bytes]:
    return [row.tobytes() for row in matrix.float().cpu().contiguous().numpy()]
