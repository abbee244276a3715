"""Check the arguments of Schedule, Recorder and Camera before training starts.

Every function here raises a ConfigError that says what was expected and what came.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping
from typing import Any

import torch

from tracker_viz.capture.signals.chosen import DEFAULT_SIGNALS, SIGNALS
from tracker_viz.capture.weights.matrices import POOLINGS
from tracker_viz.errors import ConfigError, unknown_name
from tracker_viz.metrics import WEIGHT_NAME


def whole(name: str, value: Any, least: int) -> int:
    """Return ``value`` as an int: any whole number will do (numpy's, a 0-d integer tensor), but no
    float."""
    try:
        number = operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise ConfigError(f"{name} must be a whole number of at least {least}; got {value!r}")
    return number


def positive(name: str, value: Any, what: str) -> float:
    """Return ``value``, a number above 0; ``what`` says in the error what it is."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ConfigError(f"{name} is {what}, greater than 0; got {value!r}")
    return value


def projection_names(projections: Any) -> tuple[set[str] | None, dict[str, str] | None]:
    """Return the names of the weights to keep (None: all), and the parameter of each where the user
    gave it."""
    if projections is None:
        return None, None
    if not _is_collection_of(str, projections):
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
    """Check numbers of blocks or heads; None: all."""
    if value is not None and not _is_collection_of(int, value):
        raise ConfigError(f"{name} is a list of numbers, counted from 0; got {value!r}")


def _is_collection_of(kind: type, value: Any) -> bool:
    if isinstance(value, str) or not isinstance(value, Collection):
        return False
    return all(isinstance(each, kind) for each in value)


def heads(value: Any) -> None:
    """Check numbers of heads, or block -> numbers of its heads; None: all."""
    if not isinstance(value, Mapping):
        numbers("only_heads", value)
        return
    for block, kept in value.items():
        numbers(f"only_heads of block {block}", kept)


def pooling_by_name(value: Any) -> dict[str, Any]:
    """Return pattern of a name -> how weights of that name become smaller."""
    by_name = {"*": value}
    if isinstance(value, Mapping):
        by_name = dict(value)
    if not all(how in POOLINGS for how in by_name.values()):
        raise ConfigError(
            f"pooling must be one of {', '.join(POOLINGS)}, or pattern of a name -> one of them; "
            f"got {value!r}"
        )
    return by_name


def signals(value: Any) -> tuple[str, ...]:
    """Return names of signals; None: those that cost little."""
    if value is None:
        return DEFAULT_SIGNALS
    if not _is_collection_of(str, value):
        raise ConfigError(f"signals is a list of {', '.join(SIGNALS)}; got {value!r}")
    for name in value:
        if name not in SIGNALS:
            raise ConfigError(unknown_name("signal", name, SIGNALS))
    return tuple(value)


def dtype(name: str, value: Any) -> None:
    """Check that ``value`` is a torch dtype, or None."""
    if value is not None and not isinstance(value, torch.dtype):
        raise ConfigError(f"{name} is a torch dtype, like torch.bfloat16; got {value!r}")
