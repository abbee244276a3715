"""Remove passwords, keys and tokens from configurations, addresses and overrides. Pure functions.

The spool, the adapters and the Hydra callback call these on everything that they write, log or
print.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# In an address: "user:password@" or "token@" as it should be written, then passwords with raw
# quotes, and with raw / ? #, unless what follows the colon is a port.
_USERINFO = re.compile(
    r"""(?<=://)(
        [^/?\#\s'"]+@
        | [^/?\#\s'":@]*:[^/?\#\s"]*@
        | [^/?\#\s'":@]*:(?!\d{1,5}[/?\#])[^\s"]*@
    )""",
    re.VERBOSE,
)
# name=value anywhere: in queries of addresses, in connection strings, on command lines
_PAIR = re.compile(r"""(?<![/\w.-])(?P<name>[\w.-]+)(?P<equals>=)(?P<value>[^\s&;,'"#}\])]+)""")
_SIGNATURES = frozenset({"sig", "signature", "x-amz-signature", "x-amz-credential"})
_HEADER = re.compile(
    r"""(?i)\b(?P<name>(proxy-)?authorization|(set-)?cookie|x-api-key)(?P<colon>['"]?\s*:\s*)"""
    r"""(?P<value>[^\r\n'"]+)"""
)
# The forms of keys, whatever they are called: those of services that trainings talk to. A key of
# W&B is 40 hexadecimal digits, as any commit is, and is known by its name only.
_KEYS = re.compile(
    r"""(?x)
    (?<=\bBearer\ )[\w.~+/=-]{6,} | (?<=\bBasic\ )[\w+/=]{8,}
    | \bsk-[\w-]{16,} | \bhf_[A-Za-z0-9]{16,} | \bgh[pousr]_\w{20,} | \bgithub_pat_\w{20,}
    | \bglpat-[\w-]{16,} | \bxox[abeoprs]-[\w-]{10,} | \b(AKIA|ASIA)[0-9A-Z]{16}\b
    | \bAIza[\w-]{30,} | \beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+ | \bnpm_\w{30,} | \bpypi-[\w-]{40,}
    | -----BEGIN[ ][A-Z ]*PRIVATE\ KEY-----[\s\S]*?(-----END[ ][A-Z ]*PRIVATE\ KEY-----|\Z)
    """
)
_RETRIES = re.compile(
    r"(API request to \S+ failed with exception )?"
    r"HTTPS?ConnectionPool\(.*?\): Max retries exceeded with url: \S+ \(Caused by (?P<cause>.*)\)",
    re.DOTALL,
)
_QUOTED = re.compile(r"""\"([^"]*)\"|'([^']*)'""")
_CONNECTION = re.compile(r"HTTPS?Connection(Pool)?\([^()]*\): ")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
# Words that make a name a secret's, anywhere in it
_SECRET_WORDS = _words(
    """
        password passwd passphrase passwort pwd secret secrets credential
        credentials authorization cookie cookies webhook bearer jwt apikey accesskey
        authtoken
        """
)
# The same at the end of a name, before which other words mean something harmless. What is counted
# or measured has such names, too: their numbers are shown.
_HARMLESS_BEFORE: dict[str, frozenset[str]] = {
    "token": _words(
        """
        bos eos pad unk mask sep cls special image audio video stop start end next
        previous new first last per n max min same current duplicate added
        """
    ),
    "tokens": _words(
        """
        bos eos pad unk mask sep cls special image audio video stop start end n max
        min num seen new added per random repeated
        """
    ),
    "key": _words(
        """
        sort primary foreign metric monitor cache partition group index dict state
        public lookup join prng rng random n num d head per query attention shared
        sharing plot label text input output target data column batch loss config
        """
    ),
    "keys": _words(
        """
        sort primary foreign metric metrics state public dict n num per query
        attention shared input output target data column batch loss config missing
        unexpected ignore
        """
    ),
    "pass": _words(
        """
        forward backward single two first second n num per probe by
        """
    ),
}
# Alone these are more often a mapping's key, or a thing counted.
_NEEDS_A_WORD_BEFORE = frozenset({"key", "keys", "pass"})


def without_userinfo(text: str) -> str:
    """Strip credentials from URLs in ``text``: ``user:password@``, and the values of ``token=``,
    ``sig=`` and the like in their queries."""
    return _PAIR.sub(_shown_pair, _USERINFO.sub("", text))


def without_credentials(text: str) -> str:
    """Return a text without what is a secret wherever it stands: credentials in URLs, values of
    ``password=``, headers such as ``Authorization:``, and keys that look like those of a known
    service."""
    text = _HEADER.sub(lambda found: f"{found['name']}{found['colon']}***", text)
    return _KEYS.sub("***", without_userinfo(text))


def _shown_pair(pair: re.Match[str]) -> str:
    name = pair["name"]
    is_number = pair["value"].replace(".", "").isdigit()
    if is_secret(name, is_number=is_number) or name.lower() in _SIGNATURES:
        return f"{name}=***"
    return pair[0]


def without_retries(text: str) -> str:
    """Return the reason at the end of urllib3's chain of exceptions: ``[Errno 111] Connection
    refused`` of ``HTTPConnectionPool(...): Max retries exceeded with url: ... (Caused by ...)``."""
    chain = _RETRIES.search(text)
    if chain is None:
        return _CONNECTION.sub("", text)
    quoted = [double or single for double, single in _QUOTED.findall(chain["cause"])]
    reasons = [_CONNECTION.sub("", each) for each in quoted] or [chain["cause"]]
    return f"{text[: chain.start()]}{': '.join(reasons)}{text[chain.end() :]}"


def is_secret(name: str, *, is_number: bool = False) -> bool:
    """Return whether a name is that of a password, key or token: ``api_key``, ``db.password``,
    ``clientSecret``, but not ``n_tokens`` and ``eos_token``.

    Args:
        is_number: its value is a number, which of tokens, keys and passes is a count.
    """
    words = [word.lower() for word in _WORD.findall(str(name).rpartition(".")[2])]
    if not _SECRET_WORDS.isdisjoint(words):
        return True
    if not words or words[-1] not in _HARMLESS_BEFORE or is_number:
        return False
    last, before = words[-1], words[-2:-1]
    if not before:
        return last not in _NEEDS_A_WORD_BEFORE
    return before[0] not in _HARMLESS_BEFORE[last]


def without_secrets(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration that may be logged: secrets become ``***``, and URLs lose their
    credentials."""
    shown: dict[str, Any] = _shown(config)
    return shown


def _shown(value: Any, *, hides_text: bool = False, hides_numbers: bool = False) -> Any:
    """Return a value without secrets. What it hides goes by its own name, and by those of the
    groups that it is in."""
    if isinstance(value, Mapping):
        shown = {}
        for name, inner in value.items():
            shown[name] = _shown(
                inner,
                hides_text=hides_text or is_secret(str(name)),
                hides_numbers=hides_numbers or is_secret(str(name), is_number=True),
            )
        return shown
    if isinstance(value, list | tuple):
        return [
            _shown(inner, hides_text=hides_text, hides_numbers=hides_numbers) for inner in value
        ]

    # A switch such as ``token: true`` tells nothing.
    if value is None or isinstance(value, bool):
        return value
    if hides_numbers if isinstance(value, int | float) else hides_text:
        return "***"
    return without_credentials(value) if isinstance(value, str) else value


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
    number = entry["value"].strip().replace(".", "").isdigit()
    if is_secret(entry["name"], is_number=number):
        return f"{entry['name']}{entry['colon']}***"
    return entry[0]
