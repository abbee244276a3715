"""Typed groups of options: declare each option once, with its type, range, default and meaning.
YAML is checked against that declaration, and ``--help`` is printed from it.

    class FilmOptions(Options):
        group_name = "film"

        fps: int = Field(24, ge=1, le=60)
        '''Pictures per second.'''

        codec: Literal["vp8", "h264"] = "vp8"
        '''How the film is compressed.'''

    FilmOptions(fps=0)  # ConfigError: film.fps must be a whole number from 1 to 60; got 0

The text under a field is its meaning. For a check that no type can express, write a pydantic
``field_validator`` or ``model_validator`` and raise a ``ConfigError``: users see its message as it
is.
"""

from __future__ import annotations

import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
)
from pydantic.fields import FieldInfo

from tracker_viz.errors import ConfigError, TrackerVizError, unknown_name

_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    Path: "a path",
    types.NoneType: "null",
}
_LONGEST_VALUE = 200


@dataclass(frozen=True, slots=True)
class LegalValues:
    """The legal values of an option in words, where its type cannot express them:
    ``Annotated[str, LegalValues("1080p | 4k | 1600x900")]``."""

    words: str


class Options(BaseModel):
    """Base class of a group of options. Instances are immutable and were checked when made.

    Attributes:
        group_name: prefix of an option's name in messages, ``video`` in ``video.size``; empty for
            the options of a command itself.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        arbitrary_types_allowed=True,
    )

    group_name: ClassVar[str] = ""

    def __init__(self, **values: Any) -> None:
        """Check ``values`` and fill in the defaults.

        Raises:
            ConfigError: an option does not exist, is missing or has an impossible value; the
                message names the first of several mistakes.
        """
        try:
            super().__init__(**values)
        except ValidationError as failed:
            raise ConfigError(_explain(type(self), values, failed)) from failed

    @classmethod
    def of(cls, values: Mapping[str, Any] | Self | None) -> Self:
        """Return the options that a mapping describes, as YAML has them; None: all defaults."""
        if isinstance(values, cls):
            return values
        if values is None:
            return cls()
        if not isinstance(values, Mapping):
            raise ConfigError(
                f"{cls.group_name or 'options'} must be a mapping of options to values; got "
                f"{values!r}"
            )
        return cls(**{str(name): value for name, value in values.items()})

    @field_validator("*", mode="wrap")
    @classmethod
    def _check_plain_value(cls, value: Any, check: ValidatorFunctionWrapHandler) -> Any:
        checked = check(_plain(value))
        if isinstance(value, bool) and not isinstance(checked, bool):
            # To Python and pydantic True is 1, but workers=true is a mistake.
            raise ValueError("a truth value is not a number")
        return checked


@dataclass(frozen=True, slots=True)
class OptionHelp:
    """The help of one option.

    Attributes:
        name: with its group: ``video.size``.
        default: as it is typed on a command line; None where a value is required.
        legal_values: in words: ``a whole number of at least 1 or null``, ``capture | step | log``.
        meaning: the text under the field, as one line.
    """

    name: str
    default: str | None
    legal_values: str
    meaning: str


def option_help(options: type[Options]) -> list[OptionHelp]:
    """Return the help of every option of a group, in their order of declaration."""
    described = []
    for name, field in options.model_fields.items():
        default = None
        if not field.is_required():
            default = as_typed(field.get_default(call_default_factory=True))
        meaning = " ".join((field.description or "").split())
        described.append(OptionHelp(_path(options, name), default, legal_values(field), meaning))
    return described


def as_typed(value: Any) -> str:
    """Return a value as YAML and Hydra's command line write it: ``null``, ``true``, ``[a, b]``."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {as_typed(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(as_typed, value)) + "]"
    return str(value)


def legal_values(field: FieldInfo) -> str:
    """Return the legal values in words: ``a whole number of at least 1 or null``."""
    return _legal(field.annotation, field.metadata)


def _legal(annotation: Any, constraints: Sequence[Any] = ()) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    for constraint in constraints:
        if isinstance(constraint, LegalValues):
            return constraint.words

    if origin is Annotated:
        return _legal(parts[0], [*_flat(parts[1:]), *constraints])
    if origin is Literal:
        return " | ".join(map(as_typed, parts))
    if origin in (Union, types.UnionType):
        # The exception is named last: "a number above 0 or null"
        kinds = [part for part in parts if part is not types.NoneType]
        words = [_legal(part, constraints) for part in kinds]
        return " or ".join(words + ["null"] * (len(kinds) < len(parts)))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a mapping"
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return f"a list, each {_legal(parts[0])}"
    words_of_type = _WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))
    return words_of_type + _range(constraints)


def _flat(constraints: Sequence[Any]) -> list[Any]:
    """Return the limits themselves: ``Annotated[int, Field(ge=1)]`` keeps them one level down."""
    flat: list[Any] = []
    for constraint in constraints:
        if isinstance(constraint, FieldInfo):
            flat += constraint.metadata
        else:
            flat.append(constraint)
    return flat


def _range(constraints: Sequence[Any]) -> str:
    """Return `` from 1 to 60``, `` of at least 1``, `` above 0 and at most 1``, ..."""
    limits: dict[str, Any] = {}
    for constraint in constraints:
        for name in ("ge", "gt", "le", "lt"):
            if hasattr(constraint, name):
                limits[name] = getattr(constraint, name)
    if {"ge", "le"} <= limits.keys():
        return f" from {limits['ge']} to {limits['le']}"
    words = {"ge": "of at least", "gt": "above", "le": "of at most", "lt": "below"}
    if not limits:
        return ""
    return " " + " and ".join(f"{words[name]} {limit}" for name, limit in limits.items())


def _plain(value: Any) -> Any:
    """Return a value from YAML, Hydra or numpy as plain Python: dicts, tuples and numbers."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return tuple(_plain(item) for item in value)
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    return value


def _explain(options: type[Options], values: Mapping[str, Any], failed: ValidationError) -> str:
    """Return one line: what was expected, what came, and a suggestion."""
    errors = failed.errors(include_url=False)
    # A misspelled name explains a missing one, not the other way round.
    first = min(errors, key=lambda error: error["type"] != "extra_forbidden")
    refused = first.get("ctx", {}).get("error")
    if isinstance(refused, TrackerVizError):
        return str(refused)

    if not first["loc"]:
        return f"{options.group_name or 'options'}: {refused or first['msg']}"
    name = str(first["loc"][0])
    path = _path(options, name)
    if first["type"] == "extra_forbidden":
        kind = f"option of {options.group_name}".removesuffix(" of ")
        return unknown_name(kind, name, options.model_fields)
    if first["type"] == "missing" and len(first["loc"]) == 1:
        return f"{path} has no value yet; give it one: {path}=..."

    field, value = options.model_fields[name], values.get(name)
    choices = _choices(field.annotation)
    if choices:
        return unknown_name(path, str(value), choices)
    shown = repr(value)
    if len(shown) > _LONGEST_VALUE:
        shown = f"{shown[:_LONGEST_VALUE]} ..."
    return f"{path} must be {legal_values(field)}; got {shown}"


def _path(options: type[Options], name: str) -> str:
    return f"{options.group_name}.{name}".removeprefix(".")


def _choices(annotation: Any) -> list[str]:
    """Return the names that an option chooses from, or none where it takes other values too."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return [as_typed(part) for part in parts]
    kinds = [part for part in parts if part is not types.NoneType]
    if len(kinds) == 1 and get_origin(kinds[0]) is Literal:
        return _choices(kinds[0])
    return []


_TIME = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(s|min|h|d)?\s*")
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}


def seconds_of(text: str) -> float:
    """Return the seconds of a time such as ``30s``, ``15min`` or ``1.5h``; a number alone is
    seconds.

    Raises:
        ConfigError: it is none.
    """
    found = _TIME.fullmatch(text)
    if not found:
        raise ConfigError(f"a time looks like 30s, 15min or 2h; got {text!r}")
    return float(found[1]) * _SECONDS[found[2] or "s"]
