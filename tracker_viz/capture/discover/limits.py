"""Find out what a model takes without running it: its vocabulary, its context, and whether its
parameters have values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from tracker_viz.capture import distributed
from tracker_viz.capture.offload import is_offloaded
from tracker_viz.errors import CaptureError, UnsupportedModelError

# Names of rotary caches (litgpt, nanochat, Meta's Llama, torchtitan), and of masks (nanoGPT).
_ROTATIONS = re.compile(r"(^|_)(cos|sin)(_|$)|freqs?_c|rope_cache", re.IGNORECASE)
_MASK = re.compile(r"(^|_)(bias|mask|tril)$", re.IGNORECASE)
# A shorter table is no cache of positions.
_LEAST_CACHED = 8


def context_length(model: nn.Module) -> int | None:
    """Return the most tokens that the model takes, from its configuration, or None."""
    return _configured(
        model,
        "max_position_embeddings",
        "n_positions",
        "n_ctx",
        "block_size",
        "context_length",
        "max_seq_len",
        "max_seq_length",
    )


def vocab_size(model: nn.Module) -> int | None:
    """Return how many tokens the model knows: from its configuration, else from its embedding
    table, else from its head, or None.

    Of several tables, take the one with as many rows as the last linear layer (which makes the
    logits) has outputs.
    """
    configured = _configured(model, "vocab_size", "padded_vocab_size", "d_vocab")
    if configured is not None:
        return configured
    n_input = _input_embeddings(model)
    if n_input is not None:
        return n_input
    tables = _embedding_tables(model)
    if len(tables) == 1:
        return tables[0]
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    n_logits = linear[-1].out_features if linear else None
    # A table that is looked up by hand is no nn.Embedding.
    if n_logits in (tables or _rows_of_parameters(model, beside=linear)):
        return n_logits
    return None


def cached_positions(model: nn.Module) -> int | None:
    """Return the fewest positions that a model keeps rotations or a causal mask for, or None. It
    may take more: some models rebuild them when they are too short."""
    lengths = []
    for module in model.modules():
        for name, tensor in (*module._buffers.items(), *vars(module).items()):
            if isinstance(tensor, Tensor) and tensor.ndim >= 2:
                lengths.append(_length_of_cache(name, tuple(tensor.shape)))
    return min((length for length in lengths if length >= _LEAST_CACHED), default=None)


def learned_positions(model: nn.Module) -> int | None:
    """Return the positions in the table that a model with two has beside that of its tokens, or
    None."""
    tables, n_tokens = _embedding_tables(model), vocab_size(model)
    if len(tables) != 2 or n_tokens not in tables:
        return None
    tables.remove(n_tokens)
    return tables[0]


def _length_of_cache(name: str, shape: tuple[int, ...]) -> int:
    """Return the positions that a cache is for, 0 where the name says that it is none."""
    if _ROTATIONS.search(name):
        return max(shape[:-1])  # [position, width], with or without axes of rows and heads
    if _MASK.search(name) and shape[-1] == shape[-2]:
        return shape[-1]
    return 0


def _input_embeddings(model: Any) -> int | None:
    """Return the rows of the table that a Hugging Face model says its ids are looked up in."""
    try:
        table = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    rows = getattr(table, "num_embeddings", None)
    weight = getattr(table, "weight", None)
    if rows is None and isinstance(weight, Tensor) and weight.ndim == 2:
        rows = weight.shape[0]
    return rows if isinstance(rows, int) else None


def _rows_of_parameters(model: nn.Module, *, beside: Iterable[nn.Linear]) -> set[int]:
    """Return the rows of all matrices that are not those of linear layers."""
    linear = {id(layer.weight) for layer in beside}
    matrices = (each for each in model.parameters() if each.ndim == 2 and id(each) not in linear)
    return {matrix.shape[0] for matrix in matrices}


def _embedding_tables(model: nn.Module) -> list[int]:
    return [module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding)]


def _configured(model: nn.Module, *names: str) -> int | None:
    """Return the first of ``names`` that a configuration has: the model's own, or that of a part of
    it (a LightningModule has a model)."""
    for module in distributed.unwrapped(model).modules():
        for config in _configurations(module):
            for name in names:
                value = _setting(config, name)
                if isinstance(value, int) and value > 0:
                    return value
    return None


def _configurations(module: nn.Module) -> Iterator[Any]:
    """Yield the module's configuration, then its part about text where it has one; TransformerLens
    and others call it ``cfg``."""
    config: Any = getattr(module, "config", None)
    yield config
    yield getattr(module, "cfg", None)
    text: Any = getattr(config, "get_text_config", None)
    if callable(text):
        yield text()


def _setting(config: Any, name: str) -> Any:
    if isinstance(config, Mapping):
        return config.get(name)
    return getattr(config, name, None)


def check_parameters(model: nn.Module) -> None:
    """Check that the model has parameters, and that all of them have values.

    Raises:
        UnsupportedModelError: a parameter is on the meta device, or not initialized yet.
        CaptureError: there are no parameters.
    """
    empty = True
    for name, parameter in model.named_parameters():
        empty = False
        if parameter.is_meta and not is_offloaded(model, name):
            raise UnsupportedModelError(
                f"parameter {name} is on the meta device, so the model has no values yet; "
                "watch it after its weights are loaded or initialized"
            )
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise UnsupportedModelError(
                f"parameter {name} is not initialized yet (a lazy module); run one batch through "
                "the model first"
            )
    if empty:
        raise CaptureError(f"{type(model).__name__} has no parameters: nothing to capture")
