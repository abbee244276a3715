"""Overrides in commands that are printed to be typed again, with values of any kind. The shell's
own quotes come around them."""

from __future__ import annotations

import re

# What Hydra's grammar takes without quotes; a letter such as ü is not among it, as little as = or a
# bracket.
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+-]+")


def override(key: str, value: object) -> str:
    """``key=value`` as Hydra reads it: ``spool='/home/jürgen/spool'``."""
    text = str(value)
    if _PLAIN.fullmatch(text):
        return f"{key}={text}"
    # Only before a quotation mark a backslash is more than itself.
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", re.sub(r"(\\+)$", r"\1\1", text))
    return f"{key}='{escaped}'"
