"""Match the token mixers of hybrids across runs, and draw how far they are from each other. Called
by ``compare``; does nothing for models without mixing maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tracker_viz.comparison import (
    SIGNIFICANT,
    Axis,
    distance_sentence,
    match_mixers,
    mixer_table,
    mixing_distances,
    mixing_run,
    settings_of,
    write_table,
)
from tracker_viz.pipeline.comparing.scored_runs import ScoredRun
from tracker_viz.pipeline.options import ThemeName


@dataclass(frozen=True, slots=True)
class ComparedMixers:
    """Tables, pictures and findings; all empty where fewer than two runs have mixers."""

    tables: tuple[Path, ...] = ()
    pictures: tuple[Path, ...] = ()
    findings: tuple[str, ...] = ()


def compare_mixers(
    runs: Sequence[ScoredRun],
    labels: Mapping[str, str],
    directory: Path,
    *,
    axis: Axis,
    theme: ThemeName,
) -> ComparedMixers:
    """Match the mixers of all pairs of runs that have any; write ``mixers.csv`` and draw
    ``mixers.png``.

    Args:
        labels: run name -> what it is called.
    """
    from tracker_viz.rendering import write_distance_chart

    found = [mixing_run(run.compared, int(run.probe.get("length", 0))) for run in runs]
    mixing = [run for run in found if run is not None]
    if len(mixing) < 2:
        return ComparedMixers()
    distances = mixing_distances(mixing, axis=axis)
    finding = distance_sentence(distances, settings_of(mixing), of="mixers")
    directory.mkdir(parents=True, exist_ok=True)
    rows = mixer_table(match_mixers(mixing, axis=axis), labels)
    table = write_table(rows, directory / "mixers.csv")
    picture = write_distance_chart(
        directory / "mixers.png",
        [labels[name] for name in distances.names],
        distances.overall,
        distances.shares,
        distances.shares_by_depth,
        distances.percentile < SIGNIFICANT,
        title="How alike the runs' token mixers became",
        caption=finding,
        theme=theme,
    )
    return ComparedMixers((table,), (picture,), (finding,))
