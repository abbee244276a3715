"""Compare the probe batches that runs were captured on, and find a row of a probe: whether maps and
scores of several runs mean the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tracker_viz.comparison import first_few
from tracker_viz.errors import ConfigError
from tracker_viz.pipeline.comparing.scored_runs import ScoredRun


def check_probes(runs: Sequence[ScoredRun], labels: Mapping[str, str]) -> list[str]:
    """Return notes where the runs' probes hold other tokens, or their scores were measured in other
    ways.

    Args:
        labels: run name -> its label in messages.

    Raises:
        ConfigError: the probes are of different kinds, so that neither attention maps nor scores
            mean the same.
    """
    by_kind: dict[str, list[str]] = {}
    for run in runs:
        by_kind.setdefault(_described(run.probe), []).append(labels[run.compared.name])
    if len(by_kind) > 1:
        found = [f"{kind} in {first_few(members)}" for kind, members in by_kind.items()]
        raise ConfigError(
            f"the runs were captured on different probes ({'; '.join(found)}): "
            "their attention maps and scores are not comparable. Compare runs "
            "with the same probe, or capture them again with the same probe= "
            "(from checkpoints: tracker-viz backfill)"
        )
    notes = _notes_on_scoring(runs, labels)
    first, *others = [_texts(run.probe) for run in runs]
    if any(texts != first for texts in others):
        notes.append(
            "The probes hold different tokens: their maps have the same shape, but not the same "
            "words."
        )
    return notes


def probe_ids(probe: Mapping[str, Any]) -> list[list[Any]]:
    """Return the token ids of each row; the tokens' texts where a capture holds no ids."""
    return [list(row.get("ids") or row.get("tokens", ())) for row in probe.get("rows", ())]


def row_label(probe: str | int, rows: Sequence[str]) -> str:
    """Return the label of the chosen row. ``rows``: the labels that captures keep."""
    if isinstance(probe, str):
        return probe
    if 0 <= probe < len(rows):
        return rows[probe]
    return f"probe {probe}"


def row_index(probe: str | int, rows: Sequence[str], n_rows: int) -> int:
    """Return the index of the chosen row, which may be chosen by its label.

    Args:
        rows: the labels that captures keep; there may be fewer than ``n_rows``.

    Raises:
        ConfigError: there is no such row.
    """
    if isinstance(probe, str) and probe in rows:
        return list(rows).index(probe)
    if isinstance(probe, int) and 0 <= probe < n_rows:
        return probe
    raise ConfigError(
        f"probe is a row of the probe batch, by its label or its index: {', '.join(rows)}; got "
        f"{probe!r}"
    )


def _notes_on_scoring(runs: Sequence[ScoredRun], labels: Mapping[str, str]) -> list[str]:
    by_way: dict[str, list[str]] = {}
    for run in runs:
        by_way.setdefault(_scoring(run), []).append(labels[run.compared.name])
    if len(by_way) < 2:
        return []
    ways = [f"{way} in {first_few(members)}" for way, members in by_way.items()]
    return [
        f"Heads were scored in different ways ({'; '.join(ways)}): some of the differences between "
        "these runs come from that."
    ]


def _scoring(run: ScoredRun) -> str:
    """Return how a run's heads were scored: ``version 2 of the definitions on 5 repeated rows
    (periods 11, 15, 19) and 5 of text``."""
    rows = run.probe.get("scored") or run.probe.get("rows", ())
    repeated = [row for row in rows if row.get("kind") == "repeated"]
    parts = []
    if repeated:
        periods = sorted({int(row.get("period") or 0) for row in repeated})
        named = ", ".join(map(str, periods))
        parts.append(f"{len(repeated)} repeated rows (periods {named})")
    if len(rows) > len(repeated):
        parts.append(f"{len(rows) - len(repeated)} of text")
    on = " and ".join(parts) or "unknown rows"
    return f"version {run.compared.series.definitions} of the definitions on {on}"


def _texts(probe: Mapping[str, Any]) -> list[list[Any]]:
    return [list(row.get("tokens", ())) for row in probe.get("rows", ())]


def _described(probe: Mapping[str, Any]) -> str:
    """Describe a probe: ``64 tokens: repeated (period 15), text``."""
    rows = []
    for row in probe.get("rows", ()):
        kind = str(row.get("kind", "unknown"))
        if row.get("period"):
            kind += f" (period {row['period']})"
        rows.append(kind)
    return f"{probe.get('length', 'unknown')} tokens: {', '.join(rows) or 'rows unknown'}"
