"""Measure how soon the page of a run (``format=html``) is ready in Chromium on a slow processor.

    python benchmarks/page.py [--rounds 7]     # about two minutes

Writes page.json and page.md beside this file. Chromium slows its processor four times, as its
developer tools do to imitate a phone. The figure to compare is the processor time of the page's
main thread until its first maps are painted, minus that of a blank page. Other programs on the
machine hardly change it, unlike the time by the clock.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from measuring import import_from_tests, options_parser, table, wrapped, write_results

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SLOWER = 4
BLANK_PAGE = "blank page"
RUNS: dict[str, dict[str, int]] = {
    "4 x 4 heads, 100 captures": {"n_captures": 100, "blocks": 4, "heads": 4, "width": 128},
    "12 x 12 heads, 60 captures": {"n_captures": 60, "blocks": 12, "heads": 12, "width": 32},
    "32 x 32 heads, 40 captures": {"n_captures": 40, "blocks": 32, "heads": 32, "width": 16},
}
BLANK = '<!doctype html><body><div class="tracker-viz" data-ready="yes">blank</div>'
# Resolves after the frame that shows the maps, so that they are painted, not only built.
READY = """new Promise((done) => {
  const look = () => requestAnimationFrame(document.querySelector('.tracker-viz[data-ready=yes]')
    ? () => setTimeout(() => done(performance.now())) : look);
  look();
})"""
PAGE = """
# The page: how soon it is ready

Measured by `python benchmarks/page.py` in Chromium with a window of 1280 x 800 pixels. Chromium
slowed its processor {slower} times. The figures are medians of {rounds} rounds, in which the pages
took turns. The machine has {cores} cores, and its load at the end was {load:.1f}.

A page is *ready* when its maps are painted. Processor time is that of the page's main thread,
slowed as described. It hardly depends on what else runs on the machine; the time by the clock does.

{pages}
"""


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    write_results("page", measure(options.rounds), report, options.output)


def measure(rounds: int) -> dict[str, Any]:
    """Load every page once a round, and return the medians."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        pages = write_pages(Path(name))
        loads: dict[str, list[tuple[float, float]]] = {page: [] for page in pages}
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for _ in range(rounds):
            for page, path in pages.items():
                loads[page].append(load(browser, path))
        browser.close()
        megabytes = {page: path.stat().st_size / 1e6 for page, path in pages.items()}

    found = {}
    for page, taken in loads.items():
        cpu_s, seconds = (statistics.median(each) for each in zip(*taken, strict=True))
        found[page] = {"cpu_s": cpu_s, "seconds": seconds, "mb": megabytes[page]}
    machine = {"cores": os.cpu_count(), "load": os.getloadavg()[0]}
    return {"rounds": rounds, "slower": SLOWER, **machine, "pages": found}


def write_pages(folder: Path) -> dict[str, Path]:
    """Write a blank page and the page of every run."""
    from tracker_viz.rendering import Renderer, Series, write_explorer

    synthetic_run = import_from_tests("rendering", "synthetic_run")
    pages = {BLANK_PAGE: folder / "blank.html"}
    pages[BLANK_PAGE].write_text(BLANK)
    for number, (name, shape) in enumerate(RUNS.items()):
        captures = synthetic_run.write_run(folder / "run", probes=1, hidden=24, **shape)
        pages[name] = folder / f"{number}.html"
        write_explorer(Renderer(Series(captures, title=name), "overview"), pages[name])
        shutil.rmtree(folder / "run")
    return pages


def load(browser: Browser, path: Path) -> tuple[float, float]:
    """Return the processor seconds of the main thread until a page is ready, and the seconds."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(120_000)
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    session.send("Emulation.setCPUThrottlingRate", {"rate": SLOWER})
    page.goto(path.as_uri(), wait_until="commit")
    seconds = page.evaluate(READY) / 1000
    metrics = session.send("Performance.getMetrics")["metrics"]
    context.close()
    return next(each["value"] for each in metrics if each["name"] == "TaskDuration"), seconds


def report(found: dict[str, Any]) -> str:
    """Return the page of the results."""
    blank_s = found["pages"][BLANK_PAGE]["cpu_s"]
    rows = []
    for name, page in found["pages"].items():
        row = {
            "page": name,
            "MB": f"{page['mb']:.1f}",
            "processor time, s": f"{page['cpu_s']:.2f}",
            "minus the blank page's": f"{page['cpu_s'] - blank_s:.2f}",
            "by the clock, s": f"{page['seconds']:.2f}",
        }
        rows.append(row)
    return wrapped(PAGE.format(**(found | {"pages": table(rows)})))


if __name__ == "__main__":
    main()
