"""Shared by the operations on runs and on artifacts: the state, addresses, pages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from wandb_server.state import Run

if TYPE_CHECKING:
    from wandb_server.httpd import WandbServer

Variables = Mapping[str, Any]


class Operations:
    """Methods called ``on_<operation>`` take its variables and give its ``data``."""

    def __init__(self, server: WandbServer) -> None:
        self.server, self.state, self.entity = server, server.state, server.entity

    def _run(self, variables: Variables, name_key: str) -> Run | None:
        return self.state.runs.get(
            f"{variables['entity']}/{variables['project']}/{variables[name_key]}"
        )

    def _url(self, *parts: str) -> str:
        return "/".join(
            [self.server.base_url, "storage", *(quote(part, safe="") for part in parts)]
        )


def one_page(
    items: Iterable[Any], cursor: str | None, limit: int | None
) -> tuple[list[tuple[int, Any]], dict[str, Any]]:
    """One page after ``cursor``, each item with its own cursor, and the pageInfo."""
    numbered = list(enumerate(items, start=1))
    start = int(cursor or 0)
    page = numbered[start : start + (limit or 50)]
    end = page[-1][0] if page else start
    return page, {
        "__typename": "PageInfo",
        "endCursor": str(end),
        "hasNextPage": end < len(numbered),
    }
