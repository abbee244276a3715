"""Write the text of ``--help`` from the declarations: the job's purpose, and each option with its
default, meaning and legal values."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Container, Iterable

from tracker_viz.jobs.settings.config import Settings, commented_options, group_options, group_type
from tracker_viz.options import OptionHelp, Options, option_help
from tracker_viz.rendering import PANELS, Layout

_INDENT = 2
_TEXT_COLUMN = 34
_WIDEST = 120
_ANYTHING = ("a string", "a string or null", "a path or null")


def help_text(command: str, settings: type[Settings]) -> str:
    """Return the help of a job.

    Args:
        command: as it is typed, ``tracker-viz render``.
    """
    usage = "\n".join(f"{command} {words}" for words in settings.usage)
    parts = [usage, _wrapped(_about(settings)), _options("Options", settings, settings.groups)]
    for group in settings.groups:
        parts += _group(group, settings)
    footer = (
        "key=1,2,3 with -m runs the command for each of several values; --cfg job prints the "
        "configuration that would run."
    )
    return "\n\n".join([*parts, _wrapped(footer)])


def _group(group: str, settings: type[Settings]) -> list[str]:
    """Return the choices of ``group=``, and the options of the group."""
    parts = []
    choices = group_options(group)
    if len(choices) > 1:
        heading = f"{group}={settings.groups[group]}, one of these or the path of a YAML file"
        parts.append(_section(heading, choices.items()))
    options = group_type(settings, group)
    if options is not None:
        parts.append(_options(f"Options of {group}", options))
    elif group in settings.model_fields:
        parts.append(_section(f"Options of {group}", commented_options(group)))
    if options is Layout:
        for name, panel in PANELS.items():
            place = f"layout.panels.<index>.<option> of a panel {name}"
            parts.append(_options(f"{place} ({_about(panel)[:-1]})", panel, ["panel"]))
    return parts


def _about(options: type[Options]) -> str:
    return " ".join((options.__doc__ or "").split())


def _options(heading: str, options: type[Options], left_out: Container[str] = ()) -> str:
    in_panel = options in PANELS.values()
    rows = []
    helps = option_help(options)
    # A command's own options come before those that it shares with others.
    helps.sort(key=lambda each: each.name not in options.__annotations__)
    for each in helps:
        name = each.name.rpartition(".")[2]
        if name in left_out:
            continue
        default = each.default
        if default is None:
            # A group's options without a default have their values from the group's choice.
            default = "" if options.group_name else "..."
        typed = f"{name if in_panel else each.name}={default}"
        rows.append((typed, _description(each)))
    return _section(heading, rows)


def _description(option: OptionHelp) -> str:
    """Return the meaning, and the legal values where not everything is legal."""
    if option.legal_values in _ANYTHING:
        return option.meaning
    return f"{option.meaning} [{option.legal_values}]"


def _section(heading: str, rows: Iterable[tuple[str, str]]) -> str:
    lines = [_wrapped(f"{heading}:")]
    for typed, description in rows:
        head = " " * _INDENT + typed
        text = _wrapped(description, indent=_TEXT_COLUMN)
        if len(head) < _TEXT_COLUMN:
            # The first line of the text stands beside the option.
            lines.append(head + text[len(head) :])
        else:
            lines += [head, text]
    return "\n".join(lines)


def _wrapped(text: str, *, indent: int = 0) -> str:
    width = min(_WIDEST, shutil.get_terminal_size().columns)
    margin = " " * indent
    return textwrap.fill(text, max(60, width), initial_indent=margin, subsequent_indent=margin)
