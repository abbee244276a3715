"""Run a forward pass in the middle of training, and leave no trace of it in the model or the
process.

What is put back, whatever happens inside: random number generators (torch CPU and the model's
devices, numpy, Python), the ``training`` flag of every single module, grad mode, autocast, buffers
that a forward pass writes, numbers and collections that modules keep as attributes (counters, lists
of losses), the attention implementation of a Hugging Face model. Compiled modules run uncompiled,
and their compiled code stays as it is. Forward hooks of the user's own run for the probe as for any
batch: some are part of the model.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import operator
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tracker_viz.capture.distributed import is_fsdp1, wrapped_to_shard
from tracker_viz.capture.offload import execution_device

# (model, input_ids int64 [probe, position]) -> anything. The camera drops the result; LossMeter
# takes logits from it.
Forward = Callable[[nn.Module, Tensor], Any]

# All kernels that torch may choose from; ERROR is a member of the enum and no kernel.
_KERNELS: list[Any] = list(SDPBackend.__members__.values())
_KERNELS.remove(SDPBackend.ERROR)

_TORCHS_OWN = frozenset(vars(nn.Module()))
# A collection of more is no loss or cache of a pass but data, and would take longer to compare than
# the pass.
_MOST_ENTRIES = 100_000
_PLAIN = (type(None), bool, int, float, str, tuple, list, dict, set, Tensor)


@contextlib.contextmanager
def isolated(
    model: nn.Module,
    *,
    autocast: torch.dtype | None = None,
    written_buffers: Mapping[str, Tensor] | None = None,
) -> Iterator[None]:
    """Make ``model`` safe to call inside the ``with``: no gradients, evaluation mode, uncompiled,
    autocast only as asked for here.

    Args:
        autocast: run under autocast to this dtype; None: without autocast, in the parameters' own
            dtypes.
        written_buffers: buffers that this model's forward pass writes (see ``buffers_written``),
            put back afterwards.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_random_states_kept(model))
        stack.enter_context(_evaluation_mode(model))
        stack.enter_context(_buffers_kept(written_buffers or {}))
        stack.enter_context(_attributes_kept(model))
        stack.enter_context(_visible_attention(model))
        # Training may insist on a kernel that does not take the probe: flash attention takes no
        # float32.
        stack.enter_context(sdpa_kernel(_KERNELS))
        stack.enter_context(torch.no_grad())
        # cache_enabled=False: weights cast here, without gradients, must not be found by a training
        # step under the same autocast.
        kind = model_device(model).type
        if torch.amp.is_autocast_available(kind):
            is_asked = autocast is not None
            stack.enter_context(
                torch.autocast(kind, dtype=autocast, enabled=is_asked, cache_enabled=False)
            )
        # Without these modules nothing is compiled, and they load slowly.
        if "torch._dynamo" in sys.modules or "torch.nn.attention.flex_attention" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def default_forward(model: nn.Module, input_ids: Tensor) -> Any:
    """Call the model the way its signature asks for: ``input_ids=`` by name where there is one,
    never with a KV cache."""
    parameters = _forward_parameters(model)
    options: dict[str, Any] = {}
    if "use_cache" in parameters:
        options["use_cache"] = False
    if "input_ids" in parameters:
        return model(input_ids=input_ids, **options)
    return model(input_ids, **options)


def copy_of_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of every buffer that has values, for ``buffers_written``."""
    copies = {}
    for name, buffer in model.named_buffers():
        if not buffer.is_meta:
            copies[name] = buffer.detach().clone()
    return copies


def buffers_written(model: nn.Module, before: Mapping[str, Tensor]) -> set[str]:
    """Return the names of buffers whose values are no longer those of ``before``: counters, caches
    kept in buffers, running statistics."""
    now = dict(model.named_buffers())
    return {name for name in before.keys() & now.keys() if not _same(before[name], now[name])}


def model_device(model: nn.Module) -> torch.device:
    """Return the device that the model runs on: that of its first parameter or buffer with values,
    else the one that its weights are loaded to from an offload, else the meta device; the CPU of a
    model without any."""
    kind = "cpu"
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        if not tensor.is_meta:
            return tensor.device
        kind = "meta"
    return execution_device(model) or torch.device(kind)


def _same(old: Tensor, new: Tensor) -> bool:
    if old.shape != new.shape or old.dtype != new.dtype:
        return False
    both_nan = (old != old) & (new != new)
    return bool(((old == new) | both_nan).all())


def _forward_parameters(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    # accelerate wraps ``forward``, and leaves ``__wrapped__``.
    forward = inspect.unwrap(wrapped_to_shard(model).forward)
    try:
        return inspect.signature(forward).parameters
    except (TypeError, ValueError):
        return {}


@contextlib.contextmanager
def _random_states_kept(model: nn.Module) -> Iterator[None]:
    devices = {tensor.device.index for tensor in model.parameters() if tensor.device.type == "cuda"}
    if torch.cuda.is_initialized():  # parameters may be offloaded to the CPU, and the pass run here
        devices.add(torch.cuda.current_device())
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - the user's own state
    cpu_state = torch.get_rng_state()
    cuda_states = [torch.cuda.get_rng_state(index) for index in devices]
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_rng_state(cpu_state)
        for index, state in zip(devices, cuda_states, strict=True):
            torch.cuda.set_rng_state(state, index)


@contextlib.contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    # Flag by flag, not model.eval(): a frozen part may have been put into evaluation mode, and
    # eval() may be overridden.
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextlib.contextmanager
def _buffers_kept(written: Mapping[str, Tensor]) -> Iterator[None]:
    copies = [(buffer, buffer.detach().clone()) for buffer in written.values()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, copy in copies:
                if buffer.is_inference():  # may be written there only
                    with torch.inference_mode():
                        buffer.copy_(copy)
                else:
                    buffer.copy_(copy)


@contextlib.contextmanager
def _attributes_kept(model: nn.Module) -> Iterator[None]:
    # FSDP1 notes in its own wrappers, at their first use, which of them is the root.
    own = [module for module in model.modules() if not is_fsdp1(module)]
    before = [(module, _plain_attributes(module)) for module in own]
    try:
        yield
    finally:
        for module, attributes in before:
            for name in _plain_attributes(module).keys() - attributes.keys():
                del vars(module)[name]
            for name, (value, contents) in attributes.items():
                # A deleted attribute gives ``attributes``, which no value is.
                if vars(module).get(name, attributes) is not value:
                    vars(module)[name] = value
                if contents is not None and not _same_things(value, contents):
                    _refill(value, contents)


def _refill(collection: Any, contents: Any) -> None:
    collection.clear()
    if isinstance(collection, list):
        collection.extend(contents)
    else:
        collection.update(contents)


def _same_things(now: Any, before: Any) -> bool:
    """Return whether two collections hold the same objects: tensors in them cannot be compared."""
    if isinstance(now, dict):
        now, before = [*now, *now.values()], [*before, *before.values()]
    return len(now) == len(before) and all(map(operator.is_, now, before))


def _plain_attributes(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """Return attributes that are numbers, text, tensors or collections, each with a copy of what a
    collection holds; torch's own left out."""
    attributes = {}
    for name, value in vars(module).items():
        if name in _TORCHS_OWN or not isinstance(value, _PLAIN):
            continue
        contents = None
        if isinstance(value, list | dict | set) and len(value) <= _MOST_ENTRIES:
            contents = value.copy()
        attributes[name] = (value, contents)
    return attributes


@contextlib.contextmanager
def _visible_attention(model: nn.Module) -> Iterator[None]:
    """Switch Hugging Face models from attention kernels that hide their probabilities (flash, flex)
    to sdpa or eager, inside the ``with``."""
    hidden = []
    for module in _outermost_switchable(model):
        implementation = module.config._attn_implementation
        if implementation in (None, "sdpa", "eager"):
            continue
        hidden.append((module, implementation))
        for visible in ("sdpa", "eager"):
            with contextlib.suppress(ValueError, ImportError):
                module.set_attn_implementation(visible)
                break
    try:
        yield
    finally:
        for module, implementation in hidden:
            module.config._attn_implementation_internal = implementation
            with contextlib.suppress(ValueError, ImportError):
                module.set_attn_implementation(implementation)


def _outermost_switchable(module: nn.Module) -> Iterator[Any]:
    """Yield the Hugging Face models, also inside another module (Lightning's). Each switches the
    models inside itself, so the search stops there."""
    if hasattr(module, "set_attn_implementation") and hasattr(
        getattr(module, "config", None), "_attn_implementation"
    ):
        yield module
        return
    for child in module.children():
        yield from _outermost_switchable(child)
