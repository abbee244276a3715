"""Assemble the pages of the site in a folder: docs/pages, the tables of the benchmarks, the
pictures, the changelog, and a generated page of all options. Rewrite links that work in a checkout
so that they work on the site. A site builder takes the folder from there.

python docs/assemble.py build/pages
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from tracker_viz.capture.options import CaptureOptions
from tracker_viz.jobs.follow import FollowSettings
from tracker_viz.jobs.render import RenderSettings
from tracker_viz.options import Options, option_help
from tracker_viz.pipeline.options import ComparisonOptions, VideoOptions
from tracker_viz.rendering import PANELS, Layout

ROOT = Path(__file__).parents[1]
GROUPS = {
    "capture": CaptureOptions,
    "video": VideoOptions,
    "render": RenderSettings,
    "follow": FollowSettings,
    "compare": ComparisonOptions,
    "layout": Layout,
}
INTRODUCTION = """\
# Options

This page is generated from the declarations of the options, like `--help`. To set an option, write
`group.option=value` on a command line, pass a keyword to `tv.watch`, `tv.render` or `tv.compare` in
Python, or set a key of the group in YAML.
"""


def assemble(target: Path) -> None:
    """Write every page and picture of the site into ``target``, which is emptied first."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(ROOT / "docs" / "pages", target)
    shutil.copytree(ROOT / "examples" / "pictures", target / "pictures")
    shutil.copy(ROOT / "CHANGELOG.md", target / "changelog.md")
    (target / "benchmarks").mkdir()
    for table in sorted((ROOT / "benchmarks").glob("*.md")):
        shutil.copy(table, target / "benchmarks")

    for page in sorted(target.rglob("*.md")):
        in_benchmarks = page.parent.name == "benchmarks"
        page.write_text(linked(page.read_text(), in_benchmarks=in_benchmarks))
    (target / "options.md").write_text(options_page())


def linked(text: str, *, in_benchmarks: bool) -> str:
    """Return a page whose links lead to where the site has the same file. A program, which the site
    does not hold, is named by its path in the repository."""
    text = re.sub(r"\]\(\.\./\.\./(benchmarks/\w+\.md)", r"](\1", text)
    text = re.sub(r"\]\(\.\./\.\./examples/(pictures/[\w.]+)", r"](\1", text)
    text = re.sub(r"\[([^\]]+)\]\(\.\./\.\./([^)]*)\)", _as_path, text)
    if in_benchmarks:
        text = re.sub(r"\[[^\]]+\]\((\w+\.(?:py|json))\)", r"`benchmarks/\1`", text)
        text = re.sub(r"\]\(\.\./docs/pages/", "](../", text)
    return text


def _as_path(link: re.Match[str]) -> str:
    words, path = link.groups()
    if words.strip("`") in path:
        return f"`{path}`"
    return f"{words} (`{path}`)"


def options_page() -> str:
    """Return the page of all options, by group."""
    parts = [INTRODUCTION]
    for name, group in GROUPS.items():
        parts += [f"## {name}", "\n".join(_described(group))]
    parts.append("## Panels")
    for name, panel in PANELS.items():
        parts += [f"### {name}", "\n".join(_described(panel))]
    return "\n\n".join(parts) + "\n"


def _described(group: type[Options]) -> Iterator[str]:
    meaning = " ".join((group.__doc__ or "").split())
    yield from (meaning, "", "| option | default | takes | meaning |", "|---|---|---|---|")
    for option in option_help(group):
        default = "*required*"
        if option.default is not None:
            default = f"`{option.default or repr('')}`"
        cells = (f"`{option.name}`", default, option.legal_values, option.meaning)
        yield "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", type=Path)
    assemble(parser.parse_args().target)


if __name__ == "__main__":
    main()
