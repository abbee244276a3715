"""Define every error that tracker_viz raises on purpose. Imported by all stations, imports none.

    TrackerVizError
    ├── ConfigError (ValueError)          an option, name or reference from the user is invalid
    │   └── RunTakenError                 the run holds the captures of another training run
    ├── CaptureError                      a model or a probe cannot be captured
    │   ├── UnsupportedModelError         no attention seen, a fused kernel, a meta device, ...
    │   └── ProbeError (ValueError)       probe too long, token ids outside the vocabulary, ...
    ├── CaptureFileError                  a capture file is damaged or holds what it must not
    │   └── SchemaError                   it was written by a newer tracker_viz
    ├── TrackerError                      a tracker refused something; retrying will not help
    │   ├── TransientTrackerError         it may work later: the only error that is retried
    │   ├── RunNotFoundError              no such run, or it was deleted
    │   ├── RunActiveError                the run is still being written by another process
    │   └── NoSuchFileError               the run has no such file
    ├── RenderError                       captures cannot be drawn as asked
    │   └── LayoutError (ValueError)      the layout shows arrays that the captures lack
    ├── VideoError                        the encoder failed, or what it wrote did not read back
    │   └── EncoderUnavailableError       this machine cannot encode that
    └── MissingDependencyError (ImportError)   names the install line

The demo adds one more, ``demo.trainer.TrainingDivergedError``.

A message says what was expected, what was given, and how to fix it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

_LONGEST_LIST = 300  # characters


class TrackerVizError(Exception):
    """Base of all errors raised on purpose by tracker_viz."""


class ConfigError(TrackerVizError, ValueError):
    """An option, a name or a reference from the user is invalid."""


class RunTakenError(ConfigError):
    """The run holds, or is receiving, the captures of another training run.

    Attributes:
        ref: the run, a ``RunRef``.
    """

    def __init__(self, message: str, ref: object) -> None:
        super().__init__(message)
        self.ref = ref


class CaptureError(TrackerVizError):
    """A model or a probe cannot be captured."""


class UnsupportedModelError(CaptureError):
    """No attention of the model can be captured; the message names the module and a workaround."""


class ProbeError(CaptureError, ValueError):
    """The probe batch does not fit the model."""


class CaptureFileError(TrackerVizError):
    """A capture file is damaged, or has content that a capture file must not have."""


class SchemaError(CaptureFileError):
    """The capture file was written by a newer tracker_viz than this one."""


class TrackerError(TrackerVizError):
    """A tracker refused something, and retrying would not help."""


class TransientTrackerError(TrackerError):
    """The tracker may accept the same call later: a dead server, a timeout, a 5xx response."""


class RunNotFoundError(TrackerError):
    """The run does not exist, or was deleted."""


class RunActiveError(TrackerError):
    """Another process is still writing the run, and joining it would disturb that process."""


class NoSuchFileError(TrackerError):
    """The run has no file of that name."""


class RenderError(TrackerVizError):
    """Captures cannot be drawn as asked."""


class LayoutError(RenderError, ValueError):
    """A layout shows arrays or heads that the captures do not have."""


class VideoError(TrackerVizError):
    """A video could not be written, or was not read back correctly."""


class EncoderUnavailableError(VideoError):
    """This machine lacks the encoder; the message names the available ones."""


class MissingDependencyError(TrackerVizError, ImportError):
    """An optional package or a system library is missing; the message has the install command."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the message for a misspelled name: ``unknown layout 'heds'; did you mean 'heads'?
    known: changes, ffn, ...``. Of many known names the first ones and their number are shown."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f" did you mean {' or '.join(map(repr, near))}?" if near else ""
    return f"unknown {kind} {name!r};{hint} known: {_shortened(known)}"


def _shortened(names: Sequence[str]) -> str:
    """Return the names as a list that fits a line or two in a terminal."""
    shown: list[str] = []
    for name in names:
        if len(", ".join([*shown, name])) > _LONGEST_LIST:
            return f"{', '.join(shown)}, ... ({len(names)} in all)"
        shown.append(name)
    return ", ".join(shown)
