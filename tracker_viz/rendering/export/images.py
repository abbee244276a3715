"""Write the pictures beside a video: a poster of three moments, the last picture, key frames, and
an animated GIF or WebP small enough for a README."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tracker_viz.errors import ConfigError, RenderError
from tracker_viz.files import write_atomically
from tracker_viz.metrics import strongest_event
from tracker_viz.rendering.painting.renderer import Renderer
from tracker_viz.rendering.storyboard import Shot
from tracker_viz.rendering.theme import Theme, rgb

_KEY_FRAME_WIDTH = 1920
# (width in pixels, WebP quality, most pictures): tried in this order, until the file is small
# enough.
_ATTEMPTS = (
    (960, 75, 120),
    (800, 55, 120),
    (720, 50, 120),
    (640, 45, 80),
    (560, 40, 60),
    (480, 35, 40),
)


def poster_moments(renderer: Renderer) -> tuple[int, ...]:
    """Return the indices of the first and the last capture, and of that of the strongest event
    between them; of the middle one where there is no event."""
    last = len(renderer) - 1
    event = strongest_event(renderer.plan.story.events)
    middle = renderer.series.steps.index(event.last_step) if event else last // 2
    return tuple(sorted({0, middle, last}))


def write_poster(renderer: Renderer, path: Path | str) -> Path:
    """Write a PNG of three moments below each other; return its path, which ends in ``.png``."""
    path = with_suffix(path, (".png",))
    pictures = [renderer.frame(index).pixels for index in poster_moments(renderer)]
    return write_whole(png(np.concatenate(pictures)), path)


def write_last_picture(renderer: Renderer, path: Path | str) -> Path:
    """Write a PNG of the end of the film: all curves played, and what came out as the caption.

    Return its path, which ends in ``.png``.
    """
    end = renderer.draw(Shot(len(renderer) - 1, 0.0, 0.0, "end"))
    return write_whole(png(end.pixels), with_suffix(path, (".png",)))


def write_key_frames(
    renderer: Renderer, directory: Path | str, n: int = 12
) -> list[tuple[int, Path]]:
    """Write PNGs of ``n`` captures spread evenly over the run, the first and the last among them,
    for a tracker's own step slider.

    Wider than 1080p they are reduced by a whole number, so that cells stay sharp in a panel and the
    files stay small.

    Returns:
        (step, path) in the order of the steps; of every capture where there are no more than ``n``.

    Raises:
        ConfigError: ``n`` is below 1.
    """
    if n < 1:
        raise ConfigError(f"key frames are at least one picture; got {n}")
    last = len(renderer) - 1
    reduce_by = -(-renderer.plan.width // _KEY_FRAME_WIDTH)
    written = []
    for index in np.unique(
        np.linspace(last if n == 1 else 0, last, min(n, last + 1)).round().astype(int)
    ).tolist():
        picture = Image.fromarray(renderer.frame(index).pixels)
        if reduce_by > 1:
            picture = picture.reduce(reduce_by)
        step = renderer.series.steps[index]
        written.append(
            (step, write_whole(png(np.asarray(picture)), Path(directory) / f"step_{step:08d}.png"))
        )
    return written


def write_animation(
    renderer: Renderer, shots: Sequence[Shot], path: Path | str, *, max_bytes: int = 4 << 20
) -> Path:
    """Write a GIF or WebP (by the path's suffix) that loops, as large as ``max_bytes`` allows and
    at most 960 pixels wide; return its path.

    Pictures are left out evenly where there are more than 120 or they need too much; those that
    stay are shown for longer.

    Raises:
        RenderError: it cannot be made small enough.
    """
    path = with_suffix(path, (".webp", ".gif"))
    film = renderer.film(shots := _without_repeats(shots))
    largest = _animation_size(renderer, _ATTEMPTS[0][0])
    smallest = 0
    # Reduced at once to the size of the first attempt: a thousand whole frames are gigabytes.
    drawn: dict[int, Image.Image] = {}
    for width, quality, most in _ATTEMPTS:
        kept, durations_s = _thinned(shots, most)
        for number in kept:
            if number not in drawn:
                drawn[number] = _reduced(film(number).pixels, largest)
        size = _animation_size(renderer, width)
        pictures = [drawn[number] for number in kept]
        if size != largest:
            pictures = [picture.resize(size, Image.Resampling.BOX) for picture in pictures]
        durations_ms = [max(20, round(1000 * duration_s)) for duration_s in durations_s]
        contents = _animated(
            pictures, durations_ms, path.suffix.lower(), quality, renderer.plan.theme
        )
        if len(contents) <= max_bytes:
            return write_whole(contents, path)
        smallest = len(contents)
    raise RenderError(
        f"{path.name} would have {smallest / 2**20:.1f} MiB at its smallest and may have "
        f"{max_bytes / 2**20:.1f}: "
        "use fewer captures, .webp in place of .gif, or allow more"
    )


def _animation_size(renderer: Renderer, width: int) -> tuple[int, int]:
    return width, 2 * round(width * renderer.plan.height / renderer.plan.width / 2)


def _without_repeats(shots: Sequence[Shot]) -> list[Shot]:
    """Merge shots of the same picture: a capture that rests at an event is several shots, which
    differ only in whether the heads' borders blink."""
    merged: list[Shot] = []
    for shot in shots:
        duration_s = shot.duration_s
        if merged and _is_same_picture(merged[-1], shot):
            duration_s += merged.pop().duration_s
        merged.append(Shot(shot.index, shot.part, duration_s, shot.kind))
    return merged


def _is_same_picture(one: Shot, other: Shot) -> bool:
    return (one.index, one.part, one.kind) == (other.index, other.part, other.kind)


def _thinned(shots: Sequence[Shot], most: int) -> tuple[list[int], list[float]]:
    """Return the numbers of at most ``most`` shots spread evenly, and the seconds each stays."""
    starts = np.unique(np.linspace(0, len(shots) - 1, most).round().astype(int)).tolist()
    durations_s = []
    for start, end in itertools.pairwise([*starts, len(shots)]):
        durations_s.append(sum(shot.duration_s for shot in shots[start:end]))
    return starts, durations_s


def _reduced(pixels: NDArray[np.uint8], size: tuple[int, int]) -> Image.Image:
    """Return the picture at ``size``. By a whole number, ``reduce`` gives the same in half the
    time."""
    picture = Image.fromarray(pixels)
    across, rest = divmod(picture.width, size[0])
    if not rest and (size[0] * across, size[1] * across) == picture.size:
        return picture.reduce(across)
    return picture.resize(size, Image.Resampling.BOX)


def _animated(
    pictures: Sequence[Image.Image],
    durations_ms: Sequence[int],
    suffix: str,
    quality: int,
    theme: Theme,
) -> bytes:
    contents = io.BytesIO()
    if suffix == ".gif":
        palette = _palette(pictures, theme)
        pictures = [
            picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures
        ]
        options: dict[str, Any] = {"format": "GIF", "optimize": False}
    else:
        # Without key frames nothing is encoded twice, and the file is smaller: it only ever plays
        # from its start. Slower methods save a tenth of the size for three times the time.
        options = {"format": "WEBP", "quality": quality, "method": 1, "kmin": 0, "kmax": 0}
        pictures = _held(pictures, quality)
    pictures[0].save(
        contents,
        save_all=True,
        append_images=pictures[1:],
        duration=list(durations_ms),
        loop=0,
        **options,
    )
    return contents.getvalue()


def _held(pictures: Sequence[Image.Image], quality: int) -> list[Image.Image]:
    """Return the pictures with every pixel held until it differs by more than libwebp ignores.

    libwebp keeps a pixel that hardly differs from the picture before (``QualityToMaxDiff`` of its
    ``anim_encode.c``), so what changes slowly would keep its first color to the end.
    """
    kept = (quality / 100) ** 0.5
    ignored = round(31 * (1 - kept) + kept)
    held, shown = [pictures[0]], np.array(pictures[0], np.int16)
    for picture in pictures[1:]:
        now = np.array(picture, np.int16)
        differs = (np.abs(now - shown) > ignored).any(-1, keepdims=True)
        shown = np.where(differs, now, shown)
        held.append(Image.fromarray(shown.astype(np.uint8)))
    return held


def _palette(pictures: Sequence[Image.Image], theme: Theme) -> Image.Image:
    """Return one palette of 256 colors for all pictures, so that a color means the same in each.

    The roles' colors, also half blended with the ground as in thin borders, have fixed places: they
    cover too few pixels for the median cut to keep them.
    """
    ground = np.array(rgb(theme.ground))
    meant = []
    for color in theme.roles.values():
        for part in (1.0, 0.8, 0.6, 0.4):
            meant.append(ground + (np.array(rgb(color)) - ground) * part)
    meant += [
        np.array(rgb(color)) for color in (theme.ground, theme.panel, theme.text, theme.nonfinite)
    ]
    sample = Image.new("RGB", (pictures[0].width, pictures[0].height * 3))
    for row, index in enumerate((0, len(pictures) // 2, len(pictures) - 1)):
        sample.paste(pictures[index], (0, row * pictures[0].height))
    n_free = 256 - len(meant)
    free = (sample.quantize(n_free, method=Image.Quantize.MEDIANCUT).getpalette() or [])[
        : 3 * n_free
    ]
    palette = Image.new("P", (1, 1))
    palette.putpalette([*np.rint(np.concatenate(meant)).astype(int).tolist(), *free])
    return palette


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode uint8 [height, width, 3] RGB as a PNG.

    Written by hand because cells are flat: without the filters that Pillow tries on each row it is
    as small, in a quarter of the time.
    """
    height, width, _ = pixels.shape
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each begins with 0: no filter
    rows[:, 1:] = pixels.reshape(height, -1)
    eight_bit_rgb = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", eight_bit_rgb), (b"IDAT", zlib.compress(rows.tobytes(), 3)), (b"IEND", b""))
    chunks = [
        struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part))
        for name, part in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def with_suffix(path: Path | str, suffixes: tuple[str, ...]) -> Path:
    """Return the path with the first of ``suffixes`` added, unless it ends in one of them.

    Raises:
        ConfigError: it ends in the suffix of another kind of picture, video or page.
    """
    path = Path(path)
    if path.suffix.lower() in suffixes:
        return path
    if path.suffix.lower() in (".png", ".gif", ".webp", ".jpg", ".jpeg", ".webm", ".mp4", ".html"):
        raise ConfigError(
            f"{path.name} cannot be written: this one is a {' or '.join(suffixes)} file; name it "
            "so, or leave the suffix out"
        )
    return path.with_name(path.name + suffixes[0])


def write_whole(contents: bytes, path: Path) -> Path:
    """Write the file whole or not at all, and return its path.

    Raises:
        RenderError: it cannot be written.
    """
    try:
        write_atomically(contents, path)
    except OSError as error:
        raise RenderError(f"{path} cannot be written: {error}; choose another output") from error
    return path
