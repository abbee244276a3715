"""Names, values and batches as MLflow's API accepts them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MAX_METRICS_A_CALL = 1000
MAX_PARAMS_A_CALL = 100
MAX_PARAM_CHARACTERS = 6000
MAX_TAG_CHARACTERS = 8000
MAX_NAME_CHARACTERS = 250


def legal_name(name: str) -> str:
    """Return a name as MLflow accepts it for parameters, metrics and tags: letters, digits and
    ``_-. :/``, a plain relative path."""
    name = re.sub(r"[^\w.\- :/]", "_", str(name))[:MAX_NAME_CHARACTERS]
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    name = "/".join(parts)
    return name if name.strip() else "_"


def as_params(flat: Mapping[str, Any]) -> dict[str, str]:
    """Return names and values as MLflow accepts them. If two names become one, the first keeps its
    value."""
    params: dict[str, str] = {}
    for name, value in flat.items():
        params.setdefault(legal_name(name), str(value)[:MAX_PARAM_CHARACTERS])
    return params


def batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]
