"""Turn a run's configuration, tags and name, in whatever form people keep them, into plain values.

``watch`` calls these functions once, before a run is created. They return what JSON can hold, and
the spool and the adapters see nothing else. Nothing here raises: an odd value becomes text, because
a wish to log something must not end a training.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from numbers import Integral, Real
from typing import Any

MAX_DEPTH = 12
MAX_ENTRIES = 1000  # of one list or mapping
MAX_CHARACTERS = 100_000
MAX_ARRAY_VALUES = 64

_WHOLE = "config"  # the name of a configuration that has no names itself, such as a text
_LOOP = "(contains itself)"
_DEEP = "(nested too deeply)"


class RunConfig(dict[str, Any]):
    """A configuration as plain values.

    Attributes:
        at_default: dotted names of values that are a declared default (of a dataclass, a pydantic
            or a Hugging Face class) and that nobody typed on Hydra's command line.
    """

    def __init__(self, values: Mapping[str, Any], at_default: Iterable[str] = ()) -> None:
        super().__init__(values)
        self.at_default = frozenset(at_default)


def as_config(config: Any) -> RunConfig:
    """Return a configuration as nested dicts with text keys, lists, text, numbers, booleans and
    None.

    Takes what people train with: mappings of any kind, ``argparse.Namespace``, dataclasses and the
    like, Hugging Face configurations, OmegaConf with missing values and broken interpolations (kept
    as they are written), plain objects and classes with attributes. Enumerations become their
    names, small tensors their values, functions and types their names, and everything else its
    text. What contains itself is cut there.
    """
    if config is None:
        return RunConfig({})
    plain = _plain(config, ())
    if not isinstance(plain, dict):
        return RunConfig({_WHOLE: plain})
    try:
        typed = _hydra_overrides()
        untouched = [name for name in _at_default(config) if not _is_within(name, typed)]
    except Exception:  # noqa: BLE001  a class of somebody else's that cannot say its defaults
        untouched = []
    return RunConfig(plain, untouched)


def as_tags(tags: Any) -> dict[str, str]:
    """Return tags as name -> text: a mapping's own, and an empty text for each name of a list.

    ``"a"`` and ``["a", "b"]`` are names, ``{"n": 3, "x": None}`` becomes ``{"n": "3", "x": ""}``.
    """
    plain = _plain(tags, ())
    if plain is None:
        return {}
    if isinstance(plain, dict):
        return {name: _tag_text(value) for name, value in plain.items()}
    names = plain if isinstance(plain, list) else [plain]
    return {text: "" for text in map(_tag_text, names) if text}


def as_name(name: object, max_characters: int = 250) -> str:
    """Return a run's name on one line; ``run`` where nothing can be seen of it."""
    return " ".join(_text(name).split())[:max_characters].strip() or "run"


def _tag_text(value: Any) -> str:
    return "" if value is None else str(value)


def _plain(value: Any, above: tuple[int, ...]) -> Any:
    """Convert a value. ``above``: identities of the containers that it is in."""
    try:
        return _converted(value, above)
    except Exception:  # noqa: BLE001  a property, a __str__ or a resolver of somebody else's
        return _type_name(type(value))


def _converted(value: Any, above: tuple[int, ...]) -> Any:
    scalar = _scalar(value)
    if scalar is not None or value is None:
        return scalar
    if id(value) in above:
        return _LOOP
    if len(above) >= MAX_DEPTH:
        return _DEEP

    within = (*above, id(value))
    if _is_omegaconf(value):
        return _from_omegaconf(value, within)
    items = _items(value)
    if items is not None:
        kept = itertools.islice(items, MAX_ENTRIES)
        return {_key(name): _plain(inner, within) for name, inner in kept}
    if isinstance(value, Sequence):
        return [_plain(inner, within) for inner in value[:MAX_ENTRIES]]
    if isinstance(value, Set):
        plain = [_plain(inner, within) for inner in value]
        return sorted(plain, key=str)[:MAX_ENTRIES]
    return _text(value)


# -- single values -------------------------------------------------------------------------------


def _scalar(value: Any) -> Any:
    """Return a single value as JSON has it; None where it is none, or is None."""
    if isinstance(value, enum.Enum):
        return _enum_name(value)
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return _number(float(value))
    if isinstance(value, os.PathLike):
        return _text(os.fspath(value))
    if isinstance(value, bytes):
        return _text(repr(value))
    if _is_array(value):
        return _array(value)
    if callable(value) and not _is_record(value):
        return _callable_name(value)
    return None


def _number(value: float) -> float | str:
    """Keep a finite number; JSON has no other, so ``nan`` and ``inf`` become texts."""
    return value if math.isfinite(value) else str(value)


def _enum_name(value: enum.Enum) -> str:
    if isinstance(value.value, str):
        return _text(value.value)
    return _text(value.name or value.value)  # several flags at once have no name


def _text(value: object) -> str:
    """Return a text that every database takes, and that is the same in the next process.

    Lone surrogates and the null character are replaced, and objects lose their address in memory.
    """
    text = str(value)[:MAX_CHARACTERS].encode("utf-8", "replace").decode().replace("\0", "")
    return re.sub(r" at 0x[0-9a-f]{6,}(?=>)", "", text)


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype") and hasattr(value, "tolist")


def _array(value: Any) -> Any:
    """Return the numbers of a small array or tensor; for a big one its type, dtype and shape."""
    n_values = math.prod(value.shape)
    if n_values <= MAX_ARRAY_VALUES:
        return _plain(value.tolist(), ())
    return f"{_type_name(type(value))} {value.dtype} {list(value.shape)}"


def _callable_name(value: Any) -> str:
    """Return a name such as ``torch.nn.functional.gelu``; for an object that can be called its
    text."""
    name = getattr(value, "__qualname__", None)
    return f"{value.__module__}.{name}" if isinstance(name, str) else _text(value)


def _type_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")


# -- records: what has names ---------------------------------------------------------------------

# How objects describe themselves: Hugging Face (whose sanitized view leaves tokens out), pydantic,
# named tuples, absl.
_METHODS = ("to_sanitized_dict", "to_dict", "model_dump", "_asdict", "flag_values_dict")


def _key(name: Any) -> str:
    text = _enum_name(name) if isinstance(name, enum.Enum) else _text(name)
    return text if text.strip() else "_"


def _items(value: Any) -> Iterable[tuple[Any, Any]] | None:
    """Return the names and values of a record; None for what is none."""
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, type):
        return _attributes(value) if _is_record(value) else None
    if hasattr(value, "keys") and not hasattr(value, "shape"):
        return [(name, value[name]) for name in value.keys()]  # noqa: SIM118  it may not iterate

    described = _described(value)
    if described is not None:
        return described
    fields = getattr(value, "__dataclass_fields__", None)
    if fields is None:
        # attrs
        fields = [field.name for field in getattr(value, "__attrs_attrs__", ())]
    if fields:
        return [(name, getattr(value, name, None)) for name in fields]
    return _attributes(value) if _is_record(value) else None


def _described(value: Any) -> Iterable[tuple[Any, Any]] | None:
    """Ask an object to describe itself; None where it does not."""
    if hasattr(value, "__len__") and not isinstance(value, tuple):
        return None  # a data set or a table would read all that it has
    for name in _METHODS:
        try:
            found = getattr(value, name)()
        except Exception:  # noqa: BLE001  not there, wants arguments, or cannot
            continue
        if isinstance(found, Mapping):
            return found.items()
    return None


def _is_record(value: Any) -> bool:
    """Return whether an object or a class does nothing but hold attributes, such as a ``Namespace``
    or ``class Config: lr = 0.1``."""
    kind = value if isinstance(value, type) else type(value)
    if kind.__module__ == "builtins" or not hasattr(value, "__dict__"):
        return False
    for base in kind.__mro__[:-1]:
        for name, member in vars(base).items():
            is_method = callable(member) and not isinstance(member, type)
            if is_method and (name == "__call__" or not name.startswith("_")):
                return False
    return True


def _attributes(value: Any) -> list[tuple[str, Any]]:
    """Return the public attributes of an object and its classes, those of the bases first."""
    kind = value if isinstance(value, type) else type(value)
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__[:-1]):
        found |= vars(base)
    if not isinstance(value, type):
        found |= vars(value)
    hidden = (property, classmethod, staticmethod)
    public = []
    for name, member in found.items():
        if not name.startswith("_") and not isinstance(member, hidden):
            public.append((name, member))
    return public


def _is_omegaconf(value: Any) -> bool:
    """Return whether a value is OmegaConf's, without importing it for those who do not use it."""
    omegaconf = sys.modules.get("omegaconf")
    return omegaconf is not None and omegaconf.OmegaConf.is_config(value)


def _from_omegaconf(node: Any, within: tuple[int, ...]) -> Any:
    """Resolve each value by itself: one that is missing or cannot be resolved stays as written."""
    from omegaconf import ListConfig, OmegaConf

    written: Any = OmegaConf.to_container(node, resolve=False)
    if not isinstance(written, dict | list):
        return written  # "???" or None in the place of a whole branch

    def resolved(key: Any) -> Any:
        try:
            return _plain(node[key], within)
        except Exception:  # noqa: BLE001  a resolver may raise anything
            return _plain(written[key], within)

    if isinstance(node, ListConfig):
        return [resolved(index) for index in range(min(len(node), MAX_ENTRIES))]
    return {_key(name): resolved(name) for name in itertools.islice(node, MAX_ENTRIES)}


# -- defaults ------------------------------------------------------------------------------------


def _at_default(value: Any, prefix: str = "", depth: int = 0) -> Iterator[str]:
    """Yield the dotted names of values that equal the default that their class declares."""
    defaults = _declared_defaults(value)
    items = None if depth > MAX_DEPTH or _is_omegaconf(value) else _items(value)
    for name, inner in itertools.islice(items or (), MAX_ENTRIES):
        dotted = f"{prefix}{_key(name)}"
        if name in defaults and _is_same(inner, defaults[name]):
            yield dotted
        elif _scalar(inner) is None:
            yield from _at_default(inner, f"{dotted}.", depth + 1)


def _declared_defaults(value: Any) -> dict[str, Any]:
    """Return field -> default, of the fields that have one."""
    if isinstance(value, type):
        return {}
    if hasattr(type(value), "model_fields"):
        fields = type(value).model_fields
        return {
            name: field.get_default(call_default_factory=True) for name, field in fields.items()
        }
    if not dataclasses.is_dataclass(value):
        return {}
    defaults = {}
    for field in dataclasses.fields(value):
        if field.default is not dataclasses.MISSING:
            defaults[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            defaults[field.name] = field.default_factory()
    return defaults


def _is_same(value: Any, default: Any) -> bool:
    return bool(_plain(value, ()) == _plain(default, ()))


def _hydra_overrides() -> list[str]:
    """Return the dotted names that were typed on the command line of this Hydra job, or swept."""
    hydra = sys.modules.get("hydra.core.hydra_config")
    if hydra is None or not hydra.HydraConfig.initialized():
        return []
    words = hydra.HydraConfig.get().overrides.task
    names = [word.partition("=")[0].lstrip("+~").partition("@")[0] for word in words]
    return [name.replace("/", ".") for name in names]


def _is_within(name: str, typed: Iterable[str]) -> bool:
    return any(f"{name}.".startswith(f"{each}.") for each in typed)
