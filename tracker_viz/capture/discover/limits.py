"""What a model takes, as far as it can be known without running it: its vocabulary, its context,
parameters with values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from tracker_viz.capture import distributed
from tracker_viz.errors import CaptureError, UnsupportedModelError


def context_length(model: nn.Module) -> int | None:
    """Most tokens that the model takes, from its configuration; None where that says nothing."""
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
    """Number of tokens that the model knows: of its configuration, else of its embedding table;
    None where neither tells.

    Of several tables it is the one with as many rows as the last linear layer, which makes the
    logits, has outputs.
    """
    configured = _configured(model, "vocab_size", "padded_vocab_size")
    if configured is not None:
        return configured
    if hasattr(model, "get_input_embeddings"):
        table: Any = model.get_input_embeddings
        return int(table().num_embeddings)
    tables = _embedding_tables(model)
    if len(tables) == 1:
        return tables[0]
    n_logits = [module.out_features for module in model.modules() if isinstance(module, nn.Linear)][
        -1:
    ]
    return n_logits[0] if n_logits and n_logits[0] in tables else None


def learned_positions(model: nn.Module) -> int | None:
    """Positions of the table that a model with two has beside that of its tokens; None without
    one."""
    tables, n_tokens = _embedding_tables(model), vocab_size(model)
    if len(tables) != 2 or n_tokens not in tables:
        return None
    tables.remove(n_tokens)
    return tables[0]


def _embedding_tables(model: nn.Module) -> list[int]:
    return [module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding)]


def _configured(model: nn.Module, *names: str) -> int | None:
    """The first of ``names`` that a configuration says: the model's own, or that of a part of it (a
    LightningModule has a model)."""
    for module in distributed.unwrapped(model).modules():
        config: Any = getattr(module, "config", None)
        text: Any = getattr(config, "get_text_config", None)
        for source in (config, text() if callable(text) else None):
            for name in names:
                value = (
                    source.get(name) if isinstance(source, Mapping) else getattr(source, name, None)
                )
                if isinstance(value, int) and value > 0:
                    return value
    return None


def check_parameters(model: nn.Module) -> None:
    empty = True
    for name, parameter in model.named_parameters():
        empty = False
        if parameter.is_meta:
            raise UnsupportedModelError(
                f"parameter {name} is on the meta device, so the model has no values yet; "
                "watch it after its weights are loaded or initialised"
            )
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise UnsupportedModelError(
                f"parameter {name} is not initialised yet (a lazy module); run one batch through "
                "the model first"
            )
    if empty:
        raise CaptureError(f"{type(model).__name__} has no parameters: nothing to capture")
