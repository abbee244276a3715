"""Match the experts of mixtures across runs, by the tokens of the probe that they got at the last
capture. Called by ``compare``; does nothing for models without a mixture."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tracker_viz import capture_file
from tracker_viz.comparison import (
    RoutedRun,
    expert_table,
    experts_sentence,
    match_experts,
    write_table,
)
from tracker_viz.pipeline.comparing.probes import probe_ids
from tracker_viz.pipeline.comparing.scored_runs import ScoredRun
from tracker_viz.trackers import pull
from tracker_viz.types import Capture

_CHOSEN = re.compile(r"blocks\.(\d+)\.mlp\.router\.chosen")
_OTHER_TOKENS = "Experts are not matched, because the probes hold different tokens."


@dataclass(frozen=True, slots=True)
class ComparedExperts:
    """Tables, findings and notes; all empty where fewer than two runs have routers."""

    paths: tuple[Path, ...] = ()
    findings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def compare_experts(
    runs: Sequence[ScoredRun], labels: Mapping[str, str], directory: Path, cache: Path | None
) -> ComparedExperts:
    """Match the experts of all pairs of runs that have routers, and write ``experts.csv``.

    Args:
        labels: run name -> what it is called.
    """
    last = {run.compared.name: _last_capture(run, cache) for run in runs if _has_routers(run)}
    routed = [
        _routed_run(labels[name], capture)
        for name, capture in last.items()
        if capture is not None and any(map(_CHOSEN.fullmatch, capture.arrays))
    ]
    if len(routed) < 2:
        return ComparedExperts()
    probes = [probe_ids(capture.probe) for capture in last.values() if capture is not None]
    if any(probe != probes[0] for probe in probes):
        return ComparedExperts(notes=(_OTHER_TOKENS,))

    found = {(a.name, b.name): match_experts(a, b) for a, b in itertools.combinations(routed, 2)}
    directory.mkdir(parents=True, exist_ok=True)
    table = write_table(expert_table(found), directory / "experts.csv")
    return ComparedExperts((table,), (experts_sentence(found),))


def _has_routers(run: ScoredRun) -> bool:
    return any(name.startswith("router/") for name in run.compared.series.metrics)


def _last_capture(run: ScoredRun, cache: Path | None) -> Capture | None:
    """Return the choices that the run's last capture holds, or None where it cannot be pulled."""
    pulled = pull(run.run, cache, refs=run.captures[-1:])
    if not pulled.captures:
        return None
    path = pulled.captures[0].path
    names = capture_file.read_header(path).arrays
    wanted = [name for name in names if ".mlp.router" in name and not name.endswith(".weight")]
    return capture_file.read(path, wanted)


def _routed_run(label: str, capture: Capture) -> RoutedRun:
    chosen, n_experts = {}, {}
    for name, array in capture.arrays.items():
        match = _CHOSEN.fullmatch(name)
        if match is None:
            continue
        block = int(match[1])
        chosen[block] = array.reshape(-1, array.shape[-1]).astype(np.int64)
        n_experts[block] = capture.arrays[name.removesuffix(".chosen")].shape[-1]
    n_blocks = max(int(capture.model.get("n_blocks", 0)), max(chosen, default=-1) + 1)
    return RoutedRun(label, chosen, n_experts, n_blocks)
