"""The files of a film that goes on, in a directory of its own:

    following.json     what is in the film, and what the next frames need
    body-7.webm        the encoded frames
    captures/          a bounded number of captures, see captures.py

Each file is whole at any instant: after a kill, what ``following.json`` names is the film.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Set
from contextlib import suppress
from pathlib import Path
from typing import Any

from tracker_viz.errors import TrackerError
from tracker_viz.files import read_json, write_json
from tracker_viz.pipeline.following.captures import NearCaptures
from tracker_viz.stored import FollowFile
from tracker_viz.types import CaptureRef
from tracker_viz.video import EncoderName

log = logging.getLogger(__name__)

_STATE = "following.json"


class FilmStore:
    """The state of one film on the disk; that of an earlier process is continued where it fits.

    Args:
        made_by: a digest of what frames depend on beside their captures; another one starts a new
            film.

    Attributes:
        state: as it is on the disk; see ``change``.
    """

    def __init__(
        self, directory: Path, near: NearCaptures, *, made_by: str, encoder: EncoderName
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory, self._near = directory, near
        self._made_by, self._encoder = made_by, encoder
        self.state = self._earlier() or FollowFile(made_by=made_by)

    @property
    def body(self) -> Path | None:
        """The file with the encoded frames; None before the first."""
        return self._directory / self.state.body if self.state.body else None

    @property
    def body_nbytes(self) -> int:
        return self.body.stat().st_size if self.body else 0

    def new_body(self) -> Path:
        """Return a path for more or fewer frames. They are in the film once ``change`` names the
        file."""
        from tracker_viz.video import video_path

        number = 1 + max(map(_body_number, self._directory.glob("body-*")), default=0)
        return video_path(self._directory / f"body-{number}", self._encoder)

    def change(self, **changes: Any) -> None:
        """Change fields of the state, on the disk first."""
        for name, value in changes.items():
            if isinstance(value, list):
                changes[name] = tuple(value)
        state = self.state.model_copy(update=changes)
        write_json(state.model_dump(mode="json", by_alias=True), self._directory / _STATE)
        self.state = state

    def start_over(self) -> None:
        self.state = FollowFile(made_by=self._made_by)
        self.change()

    def remove_leftovers(self, in_use: Set[CaptureRef]) -> None:
        """Remove the files that the state does not name, such as those that a kill left, except
        captures in ``in_use``."""
        for path in self._directory.glob("body-*"):
            if path.name != self.state.body:
                with suppress(OSError):
                    path.unlink()
        self._near.keep_only({*self.state.kept, *in_use})

    def _earlier(self) -> FollowFile | None:
        """Return what an earlier process left, or None where it is not this film."""
        path = self._directory / _STATE
        if not path.is_file():
            return None
        try:
            state = FollowFile.of(read_json(path), path)
        except TrackerError as error:
            log.warning("the film starts over: %s", error)
            return None
        if state.made_by != self._made_by:
            return None
        has_body = state.body is None or (self._directory / state.body).is_file()
        kept = self._near.whole(state.kept)
        if not has_body or (state.drawn and state.drawn[-1] not in kept):
            log.warning("the film starts over: its frames are not in %s", self._directory)
            return None
        return state.model_copy(update={"kept": tuple(kept)})


def _body_number(path: Path) -> int:
    digits = re.fullmatch(r"body-(\d{1,9})\.\w+", path.name)
    return int(digits[1]) if digits else 0
