"""Make the page of what the trials counted, from what is kept of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fault_trials.tally import Tally, table

INTRODUCTION = """# Kills, disks, networks and damaged files

`python benchmarks/faults.py kill`, `draw`, `threads`, `disks`, `networks`, `many` and `fuzz` run
the trials; without a word it prints the counts. Each trial is a separate process. It trains a small
model and takes eleven captures into one run while something goes wrong. Then `push` finishes the
upload, and the run is compared with what the training process noted.

| word | meaning |
|---|---|
| lost | captures that were on the disk and are not in the run |
| doubled | captures that are in the run twice, or in two runs |
| changed | captures with other bytes than on the disk |
| points | points of the loss chart |
| half files | `.partial` files that are left |
| stall | the longest time that the training thread waited for `submit` |
| memory | peak of the process, most of it torch |

W&B is the real client against a stand-in for the service. The machine had two cores and was shared
with other work.

The trials found these faults. Each is fixed and has a test:

* An artifact store that was unmounted for a moment hid 4 of 11 captures below its mount point.
* A lost answer to `runs/create` made a second run. That row was taken again.
* A connection to W&B that broke while a run started made the start fail.
* A cache that cannot be written to ended a render without a way out.
* A journal key of a newer version and a size of 5,000 digits were not read.
* A killed `follow` left half-written files.

Left out: three pushes that gave up after a minute without progress, at a load of 20, with
everything still in the spool or already in the run. For several processes that write one W&B run,
see [followed.md](followed.md)."""


@dataclass(frozen=True)
class Section:
    """The part of the page about one kind of trial.

    Attributes:
        text: its heading and an explanation, in Markdown.
        columns: names of counts and measures.
    """

    text: str
    columns: list[str]


SECTIONS = {
    "kill": Section(
        """## Trainings and pushes killed with SIGKILL at random instants

The push after the training run is killed, too, and the next push finishes. *While uploading*:
captures on the disk were waiting for their upload. Trials without a kill had ended before it. *Two
threads*: two training loops in one process, each into its own run, without a kill.""",
        [
            *("trials", "killed in start", "killed in train", "killed in capture", "killed in end"),
            *("killed in push", "while uploading", "captures", "lost", "doubled", "changed"),
            *("points lost", "points doubled", "half files", "left in the spool", "unfinished"),
            *("longest stall, ms", "memory, MB"),
        ],
    ),
    "draw": Section(
        """## render, compare and follow killed

After each kill, every capture of the two runs must be as it was, and every video must have all its
bytes and decode. *Half files* are counted after the next command that finishes; *failed*: the
command raised. A killed `follow` continues when it is started again. W&B accepts one writer: of two
renders *at once* one may be refused with a message; the other is in the run.""",
        ["trials", "killed", "captures", "changed", "half videos", "half files", "failed"],
    ),
    "disks": Section(
        """## Disks

Small file systems in memory: full (also from the start), without inodes, read-only, moved away for
1.5 s, or with 0.2 s for every sync and rename. They hold the spool, the temporary directory or
MLflow's artifacts of a training run, or the cache of a render from a server.""",
        [
            *("trials", "captures", "given up, said so", "refused at the start", "lost", "doubled"),
            *("changed", "points lost", "half files", "unfinished", "raised into training"),
            *("longest stall, ms", "memory, MB"),
        ],
    ),
    "networks": Section(
        """## Networks and servers

A proxy disturbs a share of the requests during training (with 8 s of patience at the end), then
lets everything through for `push`. *Reset after*: the connection breaks after the service did what
was asked; *lost*: its answer never comes; 429, 503 and 500 say Retry-After: 1. *Killed*: the
server, while captures are uploaded. *Lost database*: the run is deleted, and the rest is pushed
into another run.""",
        [
            *(
                "trials",
                "delivered under it",
                "captures",
                "lost",
                "doubled",
                "changed",
                "points lost",
            ),
            *(
                "points doubled",
                "half files",
                "left in the spool",
                "unfinished",
                "raised into training",
            ),
            *("longest stall, ms", "longest training, s", "memory, MB"),
        ],
    ),
    "many": Section(
        """## Ten thousand captures

Small captures of one run, 100 at a time. *Us each*: how long `submit` took on the training thread.
*Delivered*: until the last was confirmed. *Memory* is that of the process.""",
        [
            *("captures", "listed", "first tenth, us each", "last tenth, us each", "longest, ms"),
            *(
                "delivered, s",
                "listing, ms",
                "pulling, s",
                "memory after a tenth, MB",
                "in the end, MB",
            ),
        ],
    ),
    "fuzz": Section(
        """## Damaged files

Hypothesis changes bytes, JSON values and headers of a valid file of each kind. Readers must read
the result or raise our errors.""",
        ["examples", "refused", "other errors", "longest, ms", "more memory, MB"],
    ),
}


def report(found: Mapping[str, Any]) -> str:
    """Return the page of the results."""
    parts = [INTRODUCTION]
    for kind, section in SECTIONS.items():
        rows = {}
        for name, row in found.get(kind, {}).items():
            rows[name] = Tally(Counter(row["counts"]), row["most"])
        if rows:
            parts.append(f"{section.text}\n\n{table(rows, section.columns, kind)}")
    return "\n\n".join(parts) + "\n"
