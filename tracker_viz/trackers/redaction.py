"""What others may read of a configuration, an address or an override: everything but passwords,
keys and tokens. Pure functions.

The spool, the adapters and the Hydra callbacks put through here whatever they write, log or print.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_USERINFO = re.compile(r"(?<=://)[^/?#\s'\"]+@")
_SECRET_NAME = re.compile(
    r"(^|[._-])((api|access|private|secret)_?key|passw(or)?d|passphrase|pwd|secret|(access|auth|api|bearer)_?token|token|credentials?)$",
    re.IGNORECASE,
)


def without_userinfo(text: str) -> str:
    """Text without the ``user:password@`` of any address in it; for whatever is logged, printed or
    stored."""
    return _USERINFO.sub("", text)


def is_secret(name: str) -> bool:
    """Whether what goes by this name is a password, a key or a token: ``api_key``, ``db.password``;
    not ``n_tokens``."""
    return bool(_SECRET_NAME.search(name))


def without_secrets(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as it may be logged: what is called a password, token or key is starred,
    addresses lose theirs."""
    return {name: _shown(value, hidden=is_secret(str(name))) for name, value in config.items()}


def _shown(value: Any, *, hidden: bool) -> Any:
    if isinstance(value, Mapping):
        return {
            name: _shown(inner, hidden=hidden or is_secret(str(name)))
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_shown(inner, hidden=hidden) for inner in value]
    if hidden and value is not None and not isinstance(value, bool):
        return "***"
    return without_userinfo(value) if isinstance(value, str) else value


_ENTRY = re.compile(
    r"""(?P<name>[\w.-]+)(?P<colon>['"]?\s*:\s*)(?P<value>'[^']*'|"[^"]*"|[^,{}\[\]]+)"""
)


def shown_override(override: str) -> str:
    """An override as others may read it: ``+db={user: me, password: ***}``."""
    name, equals, value = override.partition("=")
    key = name.lstrip("+~")
    shown = without_secrets({key: value})[key]
    shown = _ENTRY.sub(
        lambda entry: (
            f"{entry['name']}{entry['colon']}***" if is_secret(entry["name"]) else entry[0]
        ),
        shown,
    )
    return f"{name}{equals}{shown}"
