"""Hold what the benchmarks share: options, clocks, modules of the tests, and result files.

A benchmark measures, and returns what it found as JSON values. Its function ``report`` makes the
whole page from these values, so that no figure can be edited on the page alone: a test compares
every page with its JSON file.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import re
import resource
import sys
import textwrap
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

BENCHMARKS = Path(__file__).resolve().parent
REPOSITORY = BENCHMARKS.parent
COLUMNS = 100


class Taken(NamedTuple):
    """The seconds that some work took by the clock, and of all processors."""

    clock_s: float
    processor_s: float


def options_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser that shows a module's docstring as it is, and knows ``--output``."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=BENCHMARKS, help="where results go; by default benchmarks/"
    )
    return parser


def import_from_tests(folder: str, module: str) -> ModuleType:
    """Import a module from a folder of the tests, such as a server or the synthetic run."""
    add_tests_to_path(folder)
    return importlib.import_module(module)


def add_tests_to_path(folder: str) -> None:
    """Let modules in a folder of the tests be imported by their names."""
    path = str(REPOSITORY / "tests" / folder)
    if path not in sys.path:
        sys.path.append(path)


# -- clocks


def timed(work: Callable[[], object]) -> Taken:
    """Return what one call took."""
    clock_s, used_s = time.perf_counter(), processor_s()
    work()
    return Taken(time.perf_counter() - clock_s, processor_s() - used_s)


def processor_s() -> float:
    """Return the processor seconds of this process, and of its children that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def peak_mb() -> float:
    """Return the peak memory of this process, mapped files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# -- result files


def read_results(name: str, directory: Path = BENCHMARKS) -> dict[str, Any]:
    """Return what a benchmark found before; empty if it has not run yet."""
    file = directory / f"{name}.json"
    if not file.is_file():
        return {}
    return json.loads(file.read_text())


def write_results(
    name: str,
    found: Mapping[str, Any],
    report: Callable[[dict[str, Any]], str],
    directory: Path = BENCHMARKS,
    *,
    page: Path | None = None,
) -> None:
    """Write the JSON file and the page of a benchmark, and print the page.

    Args:
        found: what was measured; the day is added.
        report: makes the page from what the JSON file holds.
        page: the page; by default beside the JSON file.
    """
    today = datetime.date.today().isoformat()
    text = json.dumps({**found, "day": today}, indent=1, default=float) + "\n"
    (directory / f"{name}.json").write_text(text)
    contents = report(json.loads(text))
    (page or directory / f"{name}.md").write_text(contents)
    print(contents)


# -- Markdown


def table(rows: Sequence[Mapping[str, object]], *, text: Collection[str] = ()) -> str:
    """Return a Markdown table with the keys of the first row as its header; empty without rows.

    Args:
        text: columns that are aligned to the left, as the first one is.
    """
    if not rows:
        return ""
    header = list(rows[0])
    rules = dict.fromkeys(header, "---:") | dict.fromkeys([header[0], *text], "---")
    lines = [_line(header), f"|{'|'.join(rules.values())}|"]
    lines += [_line([row[name] for name in header]) for row in rows]
    return "\n".join(lines)


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def wrapped(text: str) -> str:
    """Return Markdown with its paragraphs and list items wrapped; tables and headings stay."""
    blocks = [_wrapped_block(block) for block in re.split(r"\n{2,}", text.strip())]
    return "\n\n".join(blocks) + "\n"


def _wrapped_block(block: str) -> str:
    if block.startswith(("#", "|")):
        return block
    lines = []
    for item in re.split(r"\n(?=\* )", block):
        lines += textwrap.wrap(
            " ".join(item.split()),
            COLUMNS,
            subsequent_indent="  " if item.startswith("* ") else "",
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines)
