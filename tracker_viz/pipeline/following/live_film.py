"""The film of a run that goes on: new captures are drawn, encoded and put behind the frames that it
has. Its files are those of ``film_store``.

A plan needs the run's history: scores for the roles, the loss for the timeline. At most
``MOST_KEPT`` captures, spread evenly, stand for it, so that an update costs the same whether the
run has a hundred captures or ten thousand. For the same reason the film has at most
``MOST_FRAMES`` frames, and fewer where its file would grow too large: then every second one is
left out, of those that come, too. The others are decoded and encoded again, once each time that
the run has doubled, so that this costs each capture a fixed share.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tracker_viz import capture_file
from tracker_viz.errors import RenderError, VideoError
from tracker_viz.pipeline.following.captures import NearCaptures
from tracker_viz.pipeline.following.film_store import FilmStore
from tracker_viz.pipeline.following.held_scales import HeldScales
from tracker_viz.pipeline.options import PictureOptions
from tracker_viz.pipeline.results.delivering import Picture
from tracker_viz.stored import FollowFile
from tracker_viz.trackers import Run
from tracker_viz.types import CapturePath, CaptureRef, Frame

if TYPE_CHECKING:
    from tracker_viz.rendering import Layout, Renderer, Shot

log = logging.getLogger(__name__)

MOST_KEPT = 128
MOST_FRAMES = 1440
AT_ONCE = 48  # captures that are here at a time beside those that are kept
_MOST_DAMAGED = 100


@dataclass(frozen=True, slots=True)
class Version:
    """A version of the film.

    Attributes:
        pictures: the film and what else was asked for, on this machine.
        step: the last one that it shows.
        n_captures: how many captures it shows.
        renderer: drew its last frames.
    """

    pictures: tuple[Picture, ...]
    step: int
    n_captures: int
    renderer: Renderer


class LiveFilm:
    """One run's film in ``directory``, which belongs to it; continued if it is there already."""

    def __init__(
        self, directory: Path, run: Run, layout: Layout, options: PictureOptions, title: str
    ) -> None:
        self._layout, self._options, self._title = layout, options, title
        self._near = NearCaptures(run, directory)
        self._store = FilmStore(
            directory,
            self._near,
            made_by=_fingerprint(layout, options, title),
            encoder=options.video.encoder,
        )
        self._renderer: Renderer | None = None
        # The captures of that renderer, which may read them until there is another.
        self._in_use: set[CaptureRef] = set()
        self._store.remove_leftovers(self._in_use)

    @property
    def has_news(self) -> bool:
        """Whether frames were drawn since a version was put into the run."""
        return bool(self._state.drawn) and self._state.put_step != self._state.drawn[-1].step

    def note_put(self, version: Version) -> None:
        self._store.change(put_at=time.time(), put_step=version.step)

    def new(self, listed: Sequence[CaptureRef]) -> list[CaptureRef]:
        """Return the captures that are not in the film yet, in order; where some that are in it
        were replaced, as by a training that went back to a checkpoint, these too."""
        drawn = {ref.step: ref for ref in self._state.drawn}
        replaced = [ref.step for ref in listed if drawn.get(ref.step, ref) != ref]
        if replaced:
            self._rewind(replaced[0])
        seen = self._state.seen_step
        return [ref for ref in listed if seen is None or ref.step > seen]

    def draw(self, refs: Sequence[CaptureRef]) -> None:
        """Put new captures behind the film; of a film that has become long, one of ``stride``.

        Raises:
            TrackerError: the run cannot be read; what was drawn until then stays.
            LayoutError: captures lack what the layout shows.
            VideoError: the film cannot be written.
        """
        for start in range(0, len(refs), AT_ONCE):
            batch = refs[start : start + AT_ONCE]
            numbered = enumerate(batch, self._state.n_seen)
            wanted = [ref for number, ref in numbered if number % self._state.stride == 0]
            self._append(wanted)
            self._store.change(n_seen=self._state.n_seen + len(batch), seen_step=batch[-1].step)
            if len(self._state.drawn) > MOST_FRAMES or self._is_large():
                self._thin()

    def write(self, paths: Sequence[Path]) -> Version:
        """Write the film and the other pictures as they are now.

        Args:
            paths: of each of the options' formats.

        Raises:
            RenderError: nothing was drawn yet.
        """
        if not self._state.drawn:
            raise RenderError("no capture was drawn yet")
        from tracker_viz.rendering import write_explorer

        pictures = []
        for format, path in zip(self._options.format, paths, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            if format == "html":
                page = write_explorer(self._current_renderer(), path)
                pictures.append(Picture(format, page))
            elif format == "video":
                pictures.append(self._write_small_film(path))
        drawn = self._state.drawn
        return Version(tuple(pictures), drawn[-1].step, len(drawn), self._current_renderer())

    @property
    def _state(self) -> FollowFile:
        return self._store.state

    # -- frames ------------------------------------------------------------------------------------

    def _append(self, refs: Sequence[CaptureRef]) -> None:
        pulled = self._near.bring(refs)
        damaged = [*self._state.damaged, *(ref.step for ref in pulled.damaged)][-_MOST_DAMAGED:]
        captures = [capture.ref for capture in pulled.captures]
        if not captures:
            self._store.change(damaged=damaged)
            return
        before, scales = self._state.kept, HeldScales(self._state.ranges)
        renderer, widened_step = self._make_renderer(pulled.captures, scales, damaged)
        body = self._encode(renderer, captures)
        drawn = [*self._state.drawn, *captures]
        # One capture says nothing yet about ranges: nothing has changed at it.
        ranges = scales.ranges if len(drawn) > 1 else {}
        self._store.change(
            body=body,
            drawn=drawn,
            kept=_spread(drawn, MOST_KEPT, known={*before, *captures}),
            # After a kill before ``draw`` notes all of them, these are not drawn again.
            seen_step=drawn[-1].step,
            damaged=damaged,
            ranges=ranges,
            widened_step=widened_step,
        )
        self._use(renderer, {*before, *captures})

    def _thin(self) -> None:
        """Leave every second frame out of the film, but not the first and the last."""
        n_frames = len(self._state.drawn)
        if n_frames < 4:
            size = f"{self._most_bytes >> 20} MiB"
            raise VideoError(f"{n_frames} frames have more than {size}: allow more (video.max_mb)")
        log.info("the film is long: from here on it shows every second capture")
        positions = list(range(0, n_frames, 2))
        positions[-1] = n_frames - 1
        self._keep_frames(positions, stride=self._state.stride * 2)

    def _keep_frames(self, positions: Sequence[int], **changes: Any) -> None:
        """Leave all frames but these out of the film."""
        from tracker_viz.video import keep_frames

        body = self._store.body
        assert body is not None
        path = self._store.new_body()
        keep_frames(body, positions, path, encoder_name=self._options.video.encoder)
        drawn = [self._state.drawn[position] for position in positions]
        kept = _spread(drawn, MOST_KEPT, known=set(self._state.kept))
        self._store.change(body=path.name, drawn=drawn, kept=kept, put_step=None, **changes)
        self._use(None, set())

    def _rewind(self, step: int) -> None:
        """Forget what was drawn of ``step`` and of all later ones."""
        drawn = self._state.drawn
        before = [position for position, ref in enumerate(drawn) if ref.step < step]
        last = drawn[before[-1]] if before else None
        log.info("captures from step %d on were replaced: they are drawn again", step)
        if last is not None and self._near.bring([last]).captures:
            self._store.change(kept=(*self._state.kept, last))
            self._keep_frames(before, seen_step=last.step)
        else:
            self._store.start_over()
            self._use(None, set())

    def _make_renderer(
        self, new: Sequence[CapturePath], scales: HeldScales, damaged: Sequence[int]
    ) -> tuple[Renderer, int | None]:
        """Return what draws ``new``, and the step since which its color ranges hold."""
        by_step = {ref.step: self._near.found(ref) for ref in self._state.kept}
        by_step |= {capture.ref.step: capture for capture in new}
        captures = list(by_step.values())

        def made(widened_step: int | None) -> Renderer:
            from tracker_viz.rendering import Renderer, Series

            subtitle = self._subtitle(widened_step, captures[-1])
            series = Series(captures, title=self._title, subtitle=subtitle, missing_steps=damaged)
            return Renderer(
                series,
                self._layout,
                size=self._options.video.size,
                theme=self._options.theme,
                hold_scales=scales.hold,
            )

        renderer, widened_step = made(self._state.widened_step), self._state.widened_step
        if scales.has_changed:
            # The ranges fit now. The picture itself says since when, so it is made once more.
            widened_step = min(capture.ref.step for capture in new)
            renderer = made(widened_step)
        return renderer, widened_step

    def _subtitle(self, widened_step: int | None, last: CapturePath) -> str:
        from tracker_viz.rendering import describe_model

        parts = ["live"]
        if widened_step is not None:
            parts.append(f"wider color ranges since step {widened_step:,}")
        if self._state.stride > 1:
            parts.append(f"1 of {self._state.stride} captures")
        model = describe_model(capture_file.read_header(last.path).model)
        if model:
            parts.append(model)
        return " · ".join(parts)

    def _encode(self, renderer: Renderer, refs: Sequence[CaptureRef]) -> str:
        """Encode the frames of ``refs`` behind those of the body; return the longer file's name."""
        from tracker_viz.rendering import Shot
        from tracker_viz.video import append_frames

        steps = renderer.series.steps
        shots = [Shot(steps.index(ref.step), 0.0, 0.0) for ref in refs]
        path = self._store.new_body()
        append_frames(
            self._store.body,
            len(self._state.drawn),
            len(shots),
            renderer.film(shots),
            path,
            encoder_name=self._options.video.encoder,
            workers=self._options.video.workers,
        )
        return path.name

    def _write_small_film(self, path: Path) -> Picture:
        """Write the film, with ever fewer frames until the file is small enough."""
        while True:
            film = self._write_film(self._current_renderer(), path)
            if film.path.stat().st_size <= self._most_bytes:
                return film
            self._thin()

    def _write_film(self, renderer: Renderer, path: Path) -> Picture:
        from tracker_viz.rendering import Shot
        from tracker_viz.video import join_film

        steps = [ref.step for ref in self._state.drawn]
        last = len(renderer) - 1
        shots = self._shots(steps)
        durations_s = [shot.duration_s for shot in shots]
        title: Frame | None = None
        if shots[0].kind == "title":
            title = renderer.draw(Shot(last, 0.0, 0.0, "title"))
        body = self._store.body
        assert body is not None
        info = join_film(
            body,
            len(steps),
            renderer.frame(last),
            path,
            duration_s=durations_s,
            title=title,
            encoder_name=self._options.video.encoder,
        )
        starts_s = list(itertools.accumulate(durations_s, initial=0.0))
        if title is not None:
            del starts_s[0]
        moments = tuple(zip(steps, starts_s, strict=False))
        return Picture("video", info.path, info.duration_s, moments)

    def _shots(self, steps: Sequence[int]) -> Sequence[Shot]:
        from tracker_viz.rendering import storyboard

        pacing: dict[str, Any] = {**self._options.video.pacing(), "interpolate": 0}
        if pacing["pace"] == "story":
            # Its rests are for events, and which ones a run has is known at its end.
            pacing["pace"] = "capture"
        return storyboard(steps, **pacing)

    def _use(self, renderer: Renderer | None, captures: set[CaptureRef]) -> None:
        """Draw with ``renderer`` from now on; None: with a new one, when it is needed.

        Args:
            captures: which it may read. Files of all others are deleted.
        """
        self._renderer, self._in_use = renderer, captures
        self._store.remove_leftovers(captures)

    def _current_renderer(self) -> Renderer:
        if self._renderer is None:
            last = self._near.found(self._state.drawn[-1])
            scales = HeldScales(self._state.ranges)
            self._renderer, _ = self._make_renderer([last], scales, self._state.damaged)
        return self._renderer

    @property
    def _most_bytes(self) -> int:
        return self._options.video.max_mb << 20

    def _is_large(self) -> bool:
        # Title and end come on top.
        return self._store.body_nbytes > 0.95 * self._most_bytes


def _fingerprint(layout: Layout, options: PictureOptions, title: str) -> str:
    """Return a digest of what frames depend on beside their captures."""
    import cv2

    from tracker_viz import __version__

    described = {
        "layout": repr(layout),
        "theme": options.theme,
        "video": options.video.model_dump(mode="json", include={"size", "encoder"}),
        "title": title,
        "versions": [__version__, cv2.__version__, np.__version__],
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _spread(drawn: Sequence[CaptureRef], most: int, *, known: set[CaptureRef]) -> list[CaptureRef]:
    """Return at most about ``most`` captures that stand for all, from the first to the last: every
    second, fourth, eighth ... one, so that those that are kept now were kept before."""
    every = 1
    while len(drawn) > every * most:
        every *= 2
    kept = {ref for ref in drawn[::every] if ref in known}
    kept |= {drawn[0], drawn[-1]} & known
    return sorted(kept, key=lambda ref: ref.step)
