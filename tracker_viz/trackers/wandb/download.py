"""Download what W&B keeps, as many bytes of it as were promised and no more. The client's own
download takes whatever comes, in a process that nobody can stop."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import wandb
from wandb.sdk.lib import wbauth

from tracker_viz.errors import TrackerError
from tracker_viz.trackers.bounded import write_bounded
from tracker_viz.trackers.wandb.service import API_TIMEOUT_S, WandbService


def download(service: WandbService, file: Any, target: Path, *, max_bytes: int, what: str) -> None:
    """Download a file of W&B's to ``target``. Call it within ``translated``.

    Args:
        file: as the client's public API lists it.
        max_bytes: how many it may have.
        what: what messages call it.

    Raises:
        TooManyBytesError: it has more.
        TrackerError: it came compressed.
    """
    url = urljoin(service.base_url, file.url)
    key = None
    if _origin(url) == _origin(service.base_url):
        found = service.require_credentials()
        if not isinstance(found, wbauth.AuthApiKey):
            # A log-in by tokens, which the client renews.
            file.download(root=str(target.parent), replace=True).close()
            (target.parent / file.name).replace(target)
            return
        key = ("api", found.api_key)
    headers = {**(wandb.setup().settings.x_extra_http_headers or {}), "Accept-Encoding": "identity"}
    with requests.get(url, auth=key, headers=headers, stream=True, timeout=API_TIMEOUT_S) as answer:
        answer.raise_for_status()
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise TrackerError(f"{what} came compressed, unasked: not unpacked")
        read = partial(answer.raw.read, decode_content=False)
        write_bounded(read, target, max_bytes=max_bytes, what=what)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port
