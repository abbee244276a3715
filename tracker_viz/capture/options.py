"""What a user chose -> the same, known to be right. Called where a Schedule, a Recorder and a
Camera begin, before any training.

Raises:
    ConfigError: from every function here: what was expected, and what came.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping
from typing import Any

import torch

from tracker_viz.errors import ConfigError
from tracker_viz.metrics.weight_scores import WEIGHT_NAME


def whole(name: str, value: Any, least: int) -> int:
    """A whole number of any type that is one (numpy's, a 0-d integer tensor); a float is none."""
    try:
        number = operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise ConfigError(f"{name} must be a whole number of at least {least}; got {value!r}")
    return number


def positive(name: str, value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ConfigError(f"{name} is {what}, greater than 0; got {value!r}")
    return value


def projection_names(projections: Any) -> tuple[set[str] | None, dict[str, str] | None]:
    """Names of the weights to keep (None: all), and where each is, if that was said by hand."""
    if projections is None:
        return None, None
    if (
        isinstance(projections, str)
        or not isinstance(projections, Collection)
        or not all(isinstance(name, str) for name in projections)
    ):
        raise ConfigError(
            "projections is a list of names, like ['mlp.w_in', 'mlp.w_out'], or name -> its "
            f"parameter within a block; got {projections!r}"
        )
    if not isinstance(projections, Mapping):
        return set(projections), None
    for name, pattern in projections.items():
        if not WEIGHT_NAME.fullmatch(f"blocks.0.{name}") or not isinstance(pattern, str):
            raise ConfigError(
                "projections maps names like 'attn.w_q' or 'mlp.w_in' to parameters' names; got "
                f"{name!r}: {pattern!r}"
            )
    return set(projections), dict(projections)


def numbers(name: str, value: Any) -> None:
    """Numbers of blocks or heads; None: all."""
    if value is not None and (
        isinstance(value, str)
        or not isinstance(value, Collection)
        or not all(isinstance(each, int) for each in value)
    ):
        raise ConfigError(f"{name} is a list of numbers, counted from 0; got {value!r}")


def heads(value: Any) -> None:
    for block, kept in value.items() if isinstance(value, Mapping) else [("", value)]:
        numbers(f"only_heads{f' of block {block}' if isinstance(value, Mapping) else ''}", kept)


def dtype(name: str, value: Any) -> None:
    if value is not None and not isinstance(value, torch.dtype):
        raise ConfigError(f"{name} is a torch dtype, like torch.bfloat16; got {value!r}")
