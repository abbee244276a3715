"""Show a picture file in a notebook: itself where it is small, else a small copy, and words on
where the whole one is."""

from __future__ import annotations

import io
import logging
from functools import lru_cache
from pathlib import Path

from tracker_viz.errors import TrackerVizError
from tracker_viz.notebook import MOST_BYTES, box, film, link, page, picture, text

# A third is added when bytes become text; the rest is for the words.
MOST_EMBEDDED_BYTES = (MOST_BYTES - 40_000) * 3 // 4
_WIDTHS_PX = (960, 640, 400)

log = logging.getLogger(__name__)


def picture_markup(path: Path, *, url: str | None = None, notice: str = "") -> str:
    """Return markup that shows a film, an animation, a page or a still picture, at most
    ``notebook.MOST_BYTES`` of it.

    Args:
        url: where it is in a run.
        notice: for the viewer.
    """
    if not path.exists():
        return box([f"<code>{text(path)}</code> is no longer there", _where(path, url)])
    if path.suffix in (".webm", ".mp4", ".mkv"):
        return film_markup(path, url=url, notice=notice)
    if path.suffix == ".html":
        shown, note = _page(path)
    else:
        shown, note = _still(path)
    return box([shown, note, text(notice), _where(path, url)])


def film_markup(path: Path, *, url: str | None = None, notice: str = "") -> str:
    """Return markup that plays the film, or a small copy of one that is too big for a notebook."""
    megabytes = path.stat().st_size / 1e6
    note = ""
    if path.stat().st_size <= MOST_EMBEDDED_BYTES and path.suffix in (".webm", ".mp4"):
        shown = film(path.read_bytes(), path.suffix[1:])
    else:
        copy = _small_copy(path, path.stat().st_mtime_ns)
        if copy is None:
            shown = ""
            note = f"The film has {megabytes:.1f} MB, too much for a notebook."
        else:
            contents, width_px = copy
            shown = film(contents, "webm")
            note = f"A small copy, {width_px} pixels wide; the film has {megabytes:.1f} MB."
    return box([shown, text(note), text(notice), _where(path, url)])


@lru_cache(maxsize=4)
def _small_copy(path: Path, mtime_ns: int) -> tuple[bytes, int] | None:
    """Return ``video.small_copy``; None as well where none can be made here. It takes seconds, and
    a notebook may show a result several times."""
    from tracker_viz.video import small_copy

    try:
        return small_copy(path, max_bytes=MOST_EMBEDDED_BYTES)
    except TrackerVizError as error:
        log.warning("no small copy of %s can be shown: %s", path, error)
        return None


def _page(path: Path) -> tuple[str, str]:
    framed = page(path.read_text(encoding="utf-8"))
    if len(framed.encode()) <= MOST_BYTES - 10_000:
        return framed, ""
    megabytes = path.stat().st_size / 1e6
    return "", f"The page has {megabytes:.1f} MB, too much for a notebook: open it in a browser."


def _still(path: Path) -> tuple[str, str]:
    """Return the picture, as a smaller WebP where its own file is too big, and a note on that."""
    if path.stat().st_size <= MOST_EMBEDDED_BYTES // 4:
        return picture(path.read_bytes(), path.suffix[1:], path.stem), ""
    from PIL import Image

    with Image.open(path) as opened:
        first = opened.convert("RGB")
    for width_px in _WIDTHS_PX:
        small = first.copy()
        small.thumbnail((width_px, 4 * width_px))
        file = io.BytesIO()
        small.save(file, "WEBP", quality=80)
        if len(file.getvalue()) <= MOST_EMBEDDED_BYTES // 4:
            break
    megabytes = path.stat().st_size / 1e6
    note = f"A small copy, {small.width} pixels wide; the picture has {megabytes:.1f} MB."
    return picture(file.getvalue(), "webp", path.stem), note


def _where(path: Path, url: str | None) -> str:
    """Say where the file is: in the run, where that has a page, and on this machine."""
    here = f"<code>{text(path)}</code>"
    if url is None or not url.startswith("http"):
        return here
    return f"{link(url, 'in the run')} · {here}"
