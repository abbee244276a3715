"""Collect the figures that README and docs quote, from what the other benchmarks found.

    python benchmarks/headlines.py       # takes milliseconds; `make benchmarks` runs it last

Writes headlines.json and headlines.md beside this file, and prints the page. A figure whose
benchmark has not run yet is left out, and named.
"""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from measuring import options_parser, read_results, table, wrapped, write_results

from tracker_viz.cores import usable_cores

BEST_LOOP = "seaborn loop, no bars, whole-figure draws suppressed"
PAGE = """
# Headline figures

Collected by `python benchmarks/headlines.py` from what the other benchmarks measured, on {cores}
cores ({machine}, Python {python}). Ratios use medians over the rounds of a benchmark. Times are
processor times, except for how long an upload blocks the training thread.

{figures}
"""


@dataclass(frozen=True, slots=True)
class Headline:
    """One figure.

    Attributes:
        name: how the documentation's tests find it.
        meaning: what it is, in words.
        measured_by: the benchmark, without ``.py``; its results have the same name.
        value: the figure, from these results.
        form: how it is printed.
    """

    name: str
    meaning: str
    measured_by: str
    value: Callable[[dict[str, Any]], float]
    form: str = "{:.1f} x"


def render_command(way: str) -> Callable[[dict[str, Any]], float]:
    """Return the whole command's processor time over that of encoding its frames alone."""

    def ratio(found: dict[str, Any]) -> float:
        rounds = zip(found["whole"][way], found["whole"]["encoding alone"], strict=True)
        return statistics.median(whole / encoding for whole, encoding in rounds)

    return ratio


def drawing(found: dict[str, Any]) -> float:
    """Return the processor time of the best loop over seaborn's own calls over ours, end to end."""
    taken = found["cpu_seconds_a_frame"]
    loop, ours = taken[BEST_LOOP], taken["tracker_viz, end to end"]
    return statistics.median(loop) / statistics.median(ours)


def blocked(found: dict[str, Any]) -> float:
    """Return how long one upload blocks training: the client's median over the outbox's."""
    ways = found["places"]["server"]
    plain, ours = ways["on the training thread"], ways["through the outbox"]
    return plain["blocked_median_ms"] / ours["blocked_median_ms"]


def growing(found: dict[str, Any]) -> float:
    """Return what a new capture costs in a film of 10,000 captures, over one of 128.

    From 128 captures on, equally many of them stand for the history of the run.
    """
    cost_s = {row["captures"]: row["per_capture_s"] for row in found["versions"]}
    return cost_s[10_000] / cost_s[128]


HEADLINES = (
    Headline(
        "capture",
        "processor time of the captures of a 10,000-step training run, as a share of it",
        "capture",
        lambda found: found["compared"]["ways"]["tracker_viz"]["of_default_training"],
        "{:.2%}",
    ),
    Headline(
        "off_capture",
        "`recorder.step` where no capture is due, in nanoseconds",
        "capture",
        lambda found: found["off capture steps"]["step_ns"],
        "{:.0f}",
    ),
    Headline(
        "blocked",
        "how long one upload blocks the training thread: MLflow's client over the outbox",
        "trackers",
        blocked,
        "{:,.0f} x",
    ),
    Headline(
        "render_warm",
        "`tracker-viz render`, upload included, over encoding the same frames alone",
        "rendering",
        render_command("warm"),
    ),
    Headline(
        "render_cold",
        "the same before anything is in the cache",
        "rendering",
        render_command("cold"),
    ),
    Headline(
        "render_formats",
        "the same, warm, with webp and html beside the video",
        "rendering",
        render_command("warm, with webp and html"),
    ),
    Headline(
        "drawing",
        "the best loop over seaborn's own calls, over ours with reading and encoding",
        "rendering",
        drawing,
        "{:.0f} x",
    ),
    Headline(
        "memory",
        "peak memory until 1,000 captures were drawn, over until 100 were",
        "rendering",
        lambda found: found["memory"]["peak_mb_of_all"] / found["memory"]["peak_mb_of_a_tenth"],
        "{:.2f} x",
    ),
    Headline(
        "sweep",
        "rendering a sweep of 16 runs: rate per core, over that of one run on one core",
        "sweep",
        lambda found: found["render"]["rate_by_processor_time"],
        "{:.2f} x",
    ),
    Headline(
        "follow",
        "`tracker-viz follow`: what a new capture costs at 10,000 captures, over at 128",
        "follow",
        growing,
    ),
    Headline(
        "preview",
        "processor time of previews, as a share of that of a training run on all cores",
        "preview",
        lambda found: found["preview_share"],
        "{:.1%}",
    ),
)


def main() -> None:
    options = options_parser(__doc__).parse_args()
    machine = {
        "cores": usable_cores(),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    write_results("headlines", machine | {"figures": figures()}, report, options.output)


def figures() -> dict[str, dict[str, Any]]:
    """Return every headline whose benchmark has results: its value, its text and its day."""
    found = {}
    for headline in HEADLINES:
        results = read_results(headline.measured_by)
        if not results:
            script = f"benchmarks/{headline.measured_by}.py"
            print(f"Not measured yet: {headline.meaning} (python {script})")
            continue
        value = headline.value(results)
        shown = headline.form.format(value)
        found[headline.name] = {"value": value, "shown": shown, "day": results["day"]}
    return found


def report(found: dict[str, Any]) -> str:
    """Return the page of the headline figures."""
    rows = []
    for headline in HEADLINES:
        figure = found["figures"].get(headline.name)
        if figure is None:
            continue
        row = {
            "what": headline.meaning,
            "figure": figure["shown"],
            "measured by": f"`benchmarks/{headline.measured_by}.py`",
            "on": figure["day"],
        }
        rows.append(row)
    figures_table = table(rows, text=("measured by", "on"))
    return wrapped(PAGE.format(**(found | {"figures": figures_table})))


if __name__ == "__main__":
    main()
