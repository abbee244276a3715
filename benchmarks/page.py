"""Measure how soon the page (``format=html``) is ready in Chromium on a slow processor.

    python benchmarks/page.py [--rounds 7]     # about two minutes

Writes page.md and page.json beside this file. Chromium slows its processor four times, as its
developer tools do for a phone. What counts is the processor time of the page's main thread until
its first maps are painted, less that of a blank page that is loaded in turn: other programs on the
machine change the seconds on the clock, which stand beside it, and hardly this.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from tracker_viz.rendering import Renderer, Series, write_explorer

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location(
    "synthetic_run", HERE.parent / "tests/rendering/synthetic_run.py"
)
synthetic_run = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(synthetic_run)

SLOWER = 4
RUNS = {
    "blank page": None,
    "4 x 4 heads, 100 captures": {"n_captures": 100, "blocks": 4, "heads": 4, "width": 128},
    "12 x 12 heads, 60 captures": {"n_captures": 60, "blocks": 12, "heads": 12, "width": 32},
    "32 x 32 heads, 40 captures": {"n_captures": 40, "blocks": 32, "heads": 32, "width": 16},
}
BLANK = '<!doctype html><body><div class="tracker-viz" data-ready="yes">blank</div>'
# After the frame in which the maps are there: painted, not only built.
READY = """new Promise((done) => {
  const look = () => requestAnimationFrame(document.querySelector('.tracker-viz[data-ready=yes]')
    ? () => setTimeout(() => done(performance.now())) : look);
  look();
})"""


def write_page(name: str, options: dict | None, folder: Path) -> Path:
    path = folder / f"{name.replace(' ', '_')}.html"
    if options is None:
        path.write_text(BLANK)
        return path
    captures = synthetic_run.write_run(folder / path.stem, probes=1, hidden=24, **options)
    write_explorer(Renderer(Series(captures, title=name), "overview"), path)
    shutil.rmtree(folder / path.stem)
    return path


def load(browser, path: Path) -> tuple[float, float]:
    """Return the processor time of the main thread until the page is ready, and the seconds."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    measured = {name: [] for name in RUNS}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        pages = {name: write_page(name, each, Path(folder)) for name, each in RUNS.items()}
        sizes = {name: path.stat().st_size for name, path in pages.items()}
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for _ in range(rounds):
            for name, path in pages.items():
                measured[name].append(load(browser, path))
        browser.close()

    found = {}
    for name, loads in measured.items():
        cpu_s, seconds = (statistics.median(each) for each in zip(*loads, strict=True))
        found[name] = {"cpu_s": cpu_s, "seconds": seconds, "mb": sizes[name] / 1e6}
    (HERE / "page.json").write_text(json.dumps(found, indent=1) + "\n")
    (HERE / "page.md").write_text(report(found, rounds))
    print(report(found, rounds))


def report(found: dict, rounds: int) -> str:
    blank = found["blank page"]["cpu_s"]
    lines = [
        "# The page: how soon it is ready",
        "",
        f"Written by `python benchmarks/page.py`: Chromium, its processor slowed {SLOWER} times,",
        f"1280 x 800 pixels, medians of {rounds} rounds in which the pages take turns; load",
        f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores at the end. *Ready*: the maps are",
        "painted. Processor time is that of the page's main thread, slowing included. It hardly",
        "depends on what else runs on the machine; the seconds on the clock do.",
        "",
        "| page | MB | processor time, s | less the blank page's | seconds on the clock |",
        "|---|---|---|---|---|",
    ]
    for name, each in found.items():
        lines.append(
            f"| {name} | {each['mb']:.1f} | {each['cpu_s']:.2f} | {each['cpu_s'] - blank:.2f} "
            f"| {each['seconds']:.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
