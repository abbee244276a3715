"""Put the figures that README and docs quote into one table, from what the other benchmarks wrote.

    python benchmarks/headlines.py       # some milliseconds; ``make benchmarks`` runs it last

Writes headlines.json and headlines.md beside this file, and prints the table. A figure whose
benchmark has not run yet is left out, and named.
"""

from __future__ import annotations

import datetime
import json
import platform
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BEST_LOOP = "seaborn loop, no bars, whole-figure draws suppressed"


@dataclass(frozen=True)
class Headline:
    """One figure.

    Attributes:
        name: how the documentation's tests find it.
        says: what it is, in words.
        measured_by: the benchmark, without ``.py``; it writes a file of the same name.
        value: the figure, from what that file holds.
        form: how it is printed.
    """

    name: str
    says: str
    measured_by: str
    value: Callable[[Any], float]
    form: str = "{:.1f} x"


def render_command(way: str) -> Callable[[Any], float]:
    """Return the whole command's processor time over that of encoding its frames alone."""

    def ratio(found: Any) -> float:
        rounds = zip(found["whole"][way], found["whole"]["encoding alone"], strict=True)
        return statistics.median(whole / encoding for whole, encoding in rounds)

    return ratio


def drawing(found: Any) -> float:
    """Return the processor time of the best loop over seaborn's own calls over ours, end to end."""
    taken = found["cpu_seconds_a_frame"]
    loop, ours = taken[BEST_LOOP], taken["tracker_viz, end to end"]
    return statistics.median(loop) / statistics.median(ours)


def blocked(found: Any) -> float:
    """Return the median of what one upload blocks training, by the client over by the outbox."""
    ways = found["places"]["server"]
    plain, ours = ways["on the training thread"], ways["through the outbox"]
    return plain["blocked_median_ms"] / ours["blocked_median_ms"]


def growing(found: Any) -> float:
    """Return what one capture costs in a version of a film of 10,000 captures, over one of 128,
    from which on as many captures stand for the history of the run."""
    cost_s = {row["captures"]: row["per_capture_s"] for row in found}
    return cost_s[10_000] / cost_s[128]


HEADLINES = (
    Headline(
        "capture",
        "processor time of the captures of a 10,000-step training run, as a share of it",
        "capture",
        lambda found: found["tracker_viz"]["of_default_training"],
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
        "what one upload blocks the training thread: MLflow's client over the outbox",
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
        "rendering a sweep of 16 runs: rate per core, of one run on one core, by processor time",
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


def measured_on(file: Path) -> str:
    """Return the day on which a file was committed; of one that was not, on which it was written:
    a checkout gives all of them the same time."""
    changed = ("git", "status", "--porcelain", "--", file.name)
    committed = ("git", "log", "-1", "--format=%cs", "--", file.name)
    said = [
        subprocess.run(words, cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()
        for words in (changed, committed)
    ]
    written = datetime.date.fromtimestamp(file.stat().st_mtime).isoformat()
    return written if said[0] else said[1]


def main() -> None:
    found: dict[str, dict[str, Any]] = {}
    lines = ["| what | figure | measured by | on |", "|---|---|---|---|"]
    for headline in HEADLINES:
        file = HERE / f"{headline.measured_by}.json"
        if not file.is_file():
            print(
                f"not measured yet: {headline.says} (python benchmarks/{headline.measured_by}.py)"
            )
            continue
        value = headline.value(json.loads(file.read_text()))
        shown = headline.form.format(value)
        day = measured_on(file)
        lines.append(
            f"| {headline.says} | {shown} | `benchmarks/{headline.measured_by}.py` | {day} |"
        )
        found[headline.name] = {"value": value, "shown": shown, "day": day}

    table = "\n".join(lines)
    print(table)
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    (HERE / "headlines.json").write_text(json.dumps(found, indent=1) + "\n")
    (HERE / "headlines.md").write_text(
        "# Headline figures\n\nWritten by `python benchmarks/headlines.py` from what the other "
        f"benchmarks measured, on two cores ({machine}).\nRatios are of medians, by processor time "
        f"where nothing else is said.\n\n{table}\n"
    )


if __name__ == "__main__":
    main()
