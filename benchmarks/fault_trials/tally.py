"""What was counted, kept in a file after every trial, so that a run that was stopped goes on."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tracker_viz.files import write_json

KEPT = Path(__file__).parents[1] / "faults.json"


@dataclass
class Tally:
    """One row.

    Attributes:
        counts: what was counted -> how often.
        most: what was measured -> the largest value.
    """

    counts: Counter[str] = field(default_factory=Counter)
    most: dict[str, float] = field(default_factory=dict)

    def largest(self, name: str, value: float) -> None:
        self.most[name] = max(self.most.get(name, 0.0), value)


class Tallies:
    """All rows of one kind of trial, by name."""

    def __init__(self, kind: str, path: Path = KEPT) -> None:
        self._kind = kind
        self._path = path

    def rows(self) -> dict[str, Tally]:
        stored = self._stored().get(self._kind, {})
        return {name: Tally(Counter(row["counts"]), row["most"]) for name, row in stored.items()}

    def row(self, name: str) -> Tally:
        return self.rows().get(name, Tally())

    def keep(self, name: str, tally: Tally) -> None:
        # Another kind may have been kept meanwhile, by a benchmark beside this one.
        stored = self._stored()
        row = {"counts": dict(tally.counts), "most": tally.most}
        stored.setdefault(self._kind, {})[name] = row
        write_json(stored, self._path)

    def _stored(self) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
        return json.loads(self._path.read_text()) if self._path.exists() else {}


def table(rows: dict[str, Tally], names: list[str], first: str) -> str:
    """Return Markdown: a row for each tally, a column for each name of a count or a measure."""
    lines = [f"| {first} | {' | '.join(names)} |", f"|{' --- |' * (len(names) + 1)}"]
    for row, tally in rows.items():
        cells = []
        for name in names:
            value = tally.most.get(name, tally.counts[name])
            cells.append(f"{value:.0f}")
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)
