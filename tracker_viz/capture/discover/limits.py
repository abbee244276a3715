"""Find out what a model takes without running it: its vocabulary, its context, and whether its
parameters have values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from tracker_viz.capture import distributed
from tracker_viz.capture.offload import is_offloaded
from tracker_viz.errors import CaptureError, UnsupportedModelError


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
    table, or None.

    Of several tables it is the one with as many rows as the last linear layer, which makes the
    logits, has outputs.
    """
    configured = _configured(model, "vocab_size", "padded_vocab_size")
    if configured is not None:
        return configured
    if hasattr(model, "get_input_embeddings"):
        table: Any = model.get_input_embeddings
        weight = getattr(table(), "weight", None)
        if weight is not None:  # an embedding of one's own may have no num_embeddings
            return int(weight.shape[0])
    tables = _embedding_tables(model)
    if len(tables) == 1:
        return tables[0]
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if linear and linear[-1].out_features in tables:
        return linear[-1].out_features
    return None


def learned_positions(model: nn.Module) -> int | None:
    """Return the positions in the table that a model with two has beside that of its tokens, or
    None."""
    tables, n_tokens = _embedding_tables(model), vocab_size(model)
    if len(tables) != 2 or n_tokens not in tables:
        return None
    tables.remove(n_tokens)
    return tables[0]


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
    """Yield the module's configuration, then its part about text where it has one."""
    config: Any = getattr(module, "config", None)
    yield config
    text: Any = getattr(config, "get_text_config", None)
    if callable(text):
        yield text()


def _setting(config: Any, name: str) -> Any:
    if isinstance(config, Mapping):
        return config.get(name)
    return getattr(config, name, None)


def check_parameters(model: nn.Module) -> None:
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
