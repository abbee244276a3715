"""Write the HTML of an output: text in, markup out.

An output is part of the user's page. So colors and fonts are those around it, every style is on the
element itself, and a page of our own comes in a frame.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

# One output with all that is embedded in it. A notebook is a JSON file that people put into git,
# and each of its outputs is sent again whenever it is opened.
MOST_BYTES = 1_000_000

_PAGE_HEIGHT_PX = 640
_CELL = "text-align: left; padding: 1px 14px 1px 0; vertical-align: top;"


def text(value: object) -> str:
    """Return the text of ``value`` with every character of HTML's own escaped."""
    return html.escape(str(value))


def link(address: str, words: str) -> str:
    """Return a link. Only ``http:`` and ``https:`` can be followed from a notebook: of others, such
    as a file's, it has the words alone."""
    if not address.startswith(("http://", "https://")):
        return f"<code>{text(words)}</code>"
    return f'<a href="{text(address)}" target="_blank" rel="noopener">{text(words)}</a>'


def box(parts: Iterable[str]) -> str:
    """Return the parts below each other, empty ones left out."""
    inside = "".join(f"<div>{part}</div>" for part in parts if part)
    return f'<div style="max-width: 100%; line-height: 1.5;">{inside}</div>'


def count(n: int, noun: str) -> str:
    """Return ``1 capture``, ``2 captures``."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def lines(items: Iterable[str]) -> str:
    """Return a list of pieces of markup; empty where there are none."""
    inside = "".join(f"<li>{item}</li>" for item in items)
    if not inside:
        return ""
    return f'<ul style="margin: 4px 0; padding-left: 20px;">{inside}</ul>'


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table of plain texts."""
    cells = "".join(f'<th style="{_CELL}">{text(name)}</th>' for name in head)
    parts = [f"<tr>{cells}</tr>"]
    for row in rows:
        cells = "".join(f'<td style="{_CELL}">{text(value)}</td>' for value in row)
        parts.append(f"<tr>{cells}</tr>")
    style = "border-collapse: collapse; font-size: 90%; margin: 4px 0;"
    return f'<div style="overflow-x: auto"><table style="{style}">{"".join(parts)}</table></div>'


def picture(contents: bytes, kind: str, words: str) -> str:
    """Return a picture that is part of the output.

    Args:
        kind: ``png``, ``webp``, ``gif`` or ``jpeg``.
        words: describe it to who cannot see it.
    """
    style = "max-width: 100%; height: auto; margin: 4px 0;"
    return f'<img src="{_data(contents, f"image/{kind}")}" alt="{text(words)}" style="{style}">'


def film(contents: bytes, kind: str) -> str:
    """Return a film that is part of the output, with the browser's controls.

    Args:
        kind: ``webm`` or ``mp4``.
    """
    style = "width: 100%; max-width: 960px; height: auto; margin: 4px 0;"
    source = _data(contents, f"video/{kind}")
    return f'<video controls loop muted playsinline src="{source}" style="{style}"></video>'


def page(whole: str) -> str:
    """Return a whole HTML page in a frame of its own.

    Neither one's style reaches the other. The page's scripts run, and without the origin of the
    notebook: they cannot read it.
    """
    inside = whole.replace("&", "&amp;").replace("'", "&#39;")
    style = "width: 100%; border: 0; color-scheme: normal;"
    return (
        f"<iframe sandbox='allow-scripts allow-downloads' style='{style}' "
        f"height='{_PAGE_HEIGHT_PX}' srcdoc='{inside}'></iframe>"
    )


def sparkline(values: Sequence[float], *, width_px: int = 160, height_px: int = 24) -> str:
    """Return a curve of these finite values, evenly spaced, in the color of the text around it;
    empty for fewer than two."""
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    points = []
    for index, value in enumerate(values):
        x = 1 + (width_px - 2) * index / (len(values) - 1)
        y = 2 + (height_px - 4) * (high - value) / span
        points.append(f"{x:.1f},{y:.1f}")
    return (
        f'<svg width="{width_px}" height="{height_px}" style="vertical-align: middle">'
        f'<polyline points="{" ".join(points)}" fill="none" stroke="currentColor" '
        'stroke-width="1.5"/></svg>'
    )


def _data(contents: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(contents).decode()}"
