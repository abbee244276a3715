"""Remove passwords, keys and tokens from configurations, addresses and overrides. Pure functions.

The spool, the adapters and the Hydra callback call these on everything that they write, log or
print.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_USERINFO = re.compile(r"(?<=://)[^/?#\s'\"]+@")
_RETRIES = re.compile(
    r"(API request to \S+ failed with exception )?"
    r"HTTPS?ConnectionPool\(.*?\): Max retries exceeded with url: \S+ \(Caused by (?P<cause>.*)\)",
    re.DOTALL,
)
_QUOTED = re.compile(r"""\"([^"]*)\"|'([^']*)'""")
_CONNECTION = re.compile(r"HTTPS?Connection(Pool)?\([^()]*\): ")
_SECRET_NAME = re.compile(
    r"(^|[._-])("
    r"(api|access|private|secret)_?key|passw(or)?d|passphrase|pwd|secret"
    r"|(access|auth|api|bearer)_?token|token|credentials?"
    r")$",
    re.IGNORECASE,
)


def without_userinfo(text: str) -> str:
    """Strip credentials (``user:password@``) from URLs in ``text``."""
    return _USERINFO.sub("", text)


def without_retries(text: str) -> str:
    """Return the reason at the end of urllib3's chain of exceptions: ``[Errno 111] Connection
    refused`` of ``HTTPConnectionPool(...): Max retries exceeded with url: ... (Caused by ...)``."""
    chain = _RETRIES.search(text)
    if chain is None:
        return _CONNECTION.sub("", text)
    quoted = [double or single for double, single in _QUOTED.findall(chain["cause"])]
    reasons = [_CONNECTION.sub("", each) for each in quoted] or [chain["cause"]]
    return f"{text[: chain.start()]}{': '.join(reasons)}{text[chain.end() :]}"


def is_secret(name: str) -> bool:
    """Return whether a name is that of a password, key or token: ``api_key``, ``db.password``, but
    not ``n_tokens``."""
    return bool(_SECRET_NAME.search(name))


def without_secrets(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration that may be logged: secrets become ``***``, and URLs lose their
    credentials."""
    return {name: _shown(value, hidden=is_secret(str(name))) for name, value in config.items()}


def _shown(value: Any, *, hidden: bool) -> Any:
    """``hidden``: the value, or what it is in, has the name of a secret."""
    if isinstance(value, Mapping):
        shown = {}
        for name, inner in value.items():
            shown[name] = _shown(inner, hidden=hidden or is_secret(str(name)))
        return shown
    if isinstance(value, list | tuple):
        return [_shown(inner, hidden=hidden) for inner in value]

    # A switch such as ``token: true`` tells nothing.
    if hidden and value is not None and not isinstance(value, bool):
        return "***"
    if isinstance(value, str):
        return without_userinfo(value)
    return value


_ENTRY = re.compile(
    r"""(?P<name>[\w.-]+)(?P<colon>['"]?\s*:\s*)(?P<value>'[^']*'|"[^"]*"|[^,{}\[\]]+)"""
)


def shown_override(override: str) -> str:
    """Return an override that may be logged: ``+db={user: me, password: ***}``."""
    name, equals, value = override.partition("=")
    key = name.lstrip("+~")
    shown = without_secrets({key: value})[key]
    shown = _ENTRY.sub(_shown_entry, shown)
    return f"{name}{equals}{shown}"


def _shown_entry(entry: re.Match[str]) -> str:
    if is_secret(entry["name"]):
        return f"{entry['name']}{entry['colon']}***"
    return entry[0]
