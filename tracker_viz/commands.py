"""Build every command that we print for users to type, from any directory, with values of any kind.

A value is quoted twice: for Hydra's grammar (``override``) and for the shell (``shlex.join``).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

# Hydra takes these without quotes; letters such as ü, = and brackets need them.
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+-]+")
# Options of trackers that our commands have under the same name
_NAMED = ("tracking_uri", "ui_url", "base_url")


def override(key: str, value: object) -> str:
    """Return ``key=value`` as Hydra reads it: ``spool='/home/jürgen/spool'``."""
    text = str(value)
    if _PLAIN.fullmatch(text):
        return f"{key}={text}"
    # OmegaConf looks for interpolations in quotes, too: ${ stands for itself after a backslash, and
    # backslashes before it count in pairs.
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    # A backslash is special only before a quotation mark.
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", re.sub(r"(\\+)$", r"\1\1", text))
    return f"{key}='{escaped}'"


def option(key: str, value: object) -> str:
    """Return ``key=value`` for a value of any kind: ``capture.only_heads={3: [0]}``."""
    return override(key, value) if isinstance(value, str) else f"{key}={_in_grammar(value)}"


def _in_grammar(value: object) -> str:
    if isinstance(value, Mapping):
        # Names of a mapping take no quotes, and need a backslash before what ends them.
        entries = []
        for key, each in value.items():
            name = re.sub(r"([\\()\[\]{}:=, \t])", r"\\\1", str(key))
            entries.append(f"{name}: {_in_grammar(each)}")
        return "{" + ", ".join(entries) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_in_grammar, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return override("", value).removeprefix("=")
    return str(value)


def push(spool: Path, *, into: object = None) -> str:
    """Return the command that uploads the captures left in a spool; ``into``: another run than its
    own, or a tracker."""
    words = ["tracker-viz", "push", override("spool", spool)]
    if into is not None:
        words.append(override("into", into))
    return shlex.join(words)


def render(ref: object, environment: Mapping[str, str], *, layout: str | None = None) -> str:
    """Return the command that makes the video of a run. ``environment``: how its tracker is
    reached, see ``Run.environment``."""
    words = [override("run", ref)]
    if layout:
        words.append(override("layout", layout))
    return shlex.join(["tracker-viz", "render", *words, *_reached(ref, environment)])


def compare_sweep(parent: object, environment: Mapping[str, str]) -> str:
    """Return the command that compares the runs of a sweep. ``environment``: as for ``render``."""
    words = [override("sweep", parent), *_reached(parent, environment)]
    return shlex.join(["tracker-viz", "compare", *words])


def resume(
    program: Sequence[str],
    ref: object,
    environment: Mapping[str, str],
    options: Sequence[str] = (),
) -> str:
    """Return the command that continues the training of a run.

    Args:
        program: the words that start it, such as ``python train.py``.
        options: more words.
    """
    words = [override("resume", ref), *options]
    if environment:
        scheme = _scheme(ref)
        words.append(f"tracker={scheme}")
        for name, value in environment.items():
            words.append(override(f"tracker.{scheme}.{name}", value))
    return shlex.join([*program, *words])


def _reached(ref: object, environment: Mapping[str, str]) -> list[str]:
    words = []
    for name, value in environment.items():
        key = name if name in _NAMED else f"+tracker.{_scheme(ref)}.{name}"
        words.append(override(key, value))
    return words


def _scheme(ref: object) -> str:
    return str(ref).partition(":")[0]
