"""Measure the cost of scoring heads and weight matrices, and how well a sample stands for a matrix.

    python benchmarks/scores.py

Times are processor seconds, which a busy machine disturbs least, and seconds by the clock. The
largest capture is scored by two threads: on two idle cores it takes half of its processor time.

Writes scores.json and scores.md beside this file, and prints the page.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

# Read when numpy is imported: threads of BLAS spin while they wait, and that counts as work.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import torch
from measuring import options_parser, table, timed, wrapped, write_results

from tracker_viz.capture.budget import sample, weight_side
from tracker_viz.capture.weights.matrices import Projection
from tracker_viz.capture.weights.norms import krylov, norms
from tracker_viz.metrics import HEAD_SCORES, ProbeRow
from tracker_viz.metrics.head_scores import measure_heads
from tracker_viz.metrics.weights.weight_scores import Weight, weight_scores

CORES = 2
LIMIT_S = 0.8
# Blocks, heads, rows and tokens of the captures whose heads are scored.
CAPTURES = ((4, 4, 2, 64), (12, 12, 2, 128), (16, 32, 2, 128), (32, 32, 2, 128), (32, 32, 8, 128))
LARGEST = "head scores: 32 blocks x 32 heads, 8 rows x 128 tokens, float16"
MATRICES = ((128, 128), (352, 128), (256, 256), (256, 1024), (512, 2048))
LLAMA_1B_BLOCKS = 16
LLAMA_1B = {
    "attn.w_q": (2048, 2048),
    "attn.w_k": (512, 2048),
    "attn.w_v": (512, 2048),
    "attn.w_o": (2048, 2048),
    "mlp.w_gate": (8192, 2048),
    "mlp.w_up": (8192, 2048),
    "mlp.w_down": (2048, 8192),
}

PAGE = """
# Scores: what they cost, and what a sample tells of a matrix

Measured by `python benchmarks/scores.py` on {day}, with Python {python}, NumPy {numpy} and one
thread for BLAS. Each figure is the best of several calls. The heads of {largest} take
{largest_s:.2f} s of processor time on each of {cores} cores.

{works}

## Single scores of 32 heads, one row of 128 tokens

{scores}

## Stable rank, as a share of the largest possible one

*Recorder* is what `watch` measures of the whole matrix, *sample* the sample of 210 x 210 that a
capture of a 1B model keeps.

{ranks}
"""


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    found = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "works": all_best_of(options.repeats, head_works() | weight_works()),
        "single scores": all_best_of(4 * options.repeats, single_score_works()),
        "stable ranks": stable_ranks(),
    }
    write_results("scores", found, report, options.output)
    if found["works"][LARGEST]["processor_s"] / CORES > LIMIT_S:
        raise SystemExit(f"expected at most {LIMIT_S} s")


def report(found: Mapping[str, Any]) -> str:
    """Return the page that the JSON file makes."""
    largest_s = found["works"][LARGEST]["processor_s"] / CORES
    ranks = []
    for matrix, of_matrix in found["stable ranks"].items():
        shown = {which: f"{rank:.3f}" for which, rank in of_matrix.items()}
        ranks.append({"matrix of 1024 x 4096": matrix, **shown})
    return wrapped(
        PAGE.format(
            day=found["day"],
            python=found["python"],
            numpy=found["numpy"],
            largest=LARGEST.partition(": ")[2],
            largest_s=largest_s,
            cores=CORES,
            works=table(_rows(found["works"], "scoring")),
            scores=table(_rows(found["single scores"], "score")),
            ranks=table(ranks),
        )
    )


def _rows(taken: Mapping[str, Mapping[str, float]], name: str) -> list[dict[str, str]]:
    rows = []
    for work, seconds in taken.items():
        processor_ms, clock_ms = 1000 * seconds["processor_s"], 1000 * seconds["clock_s"]
        shown = {"processor, ms": f"{processor_ms:.2f}", "clock, ms": f"{clock_ms:.2f}"}
        rows.append({name: work, **shown})
    return rows


Works = dict[str, Callable[[], object]]


def head_works() -> Works:
    """Return the scoring of all heads of captures of several sizes."""
    works: Works = {}
    for blocks, heads, rows, length in CAPTURES:
        repeats = ProbeRow("repeated", length, (length - 1) // 4, 1)
        probe = [repeats, ProbeRow("text", length)] * (rows // 2)
        attention = causal_attention(rows, heads, length)
        for dtype in (np.float32, np.float16):
            # One array for all blocks: only the arithmetic is timed, without 2 GB of attention.
            patterns = dict.fromkeys(range(blocks), attention.astype(dtype))
            size = f"{blocks} blocks x {heads} heads, {rows} rows x {length} tokens"
            name = f"head scores: {size}, {np.dtype(dtype).name}"
            works[name] = partial(measure_heads, patterns, probe, n_blocks=blocks)
    return works


def single_score_works() -> Works:
    """Return each score of 32 heads."""
    row = ProbeRow("repeated", 128, 31, 1)
    attention = causal_attention(1, 32, 128)[0]
    works: Works = {}
    for score in HEAD_SCORES.values():
        works[score.name] = partial(score.measure, attention, row)
    return works


def weight_works() -> Works:
    """Return the scoring of matrices and of a whole capture, and the norms of a large matrix."""
    works: Works = {}
    for out, into in MATRICES:
        matrix = np.random.default_rng(0).normal(size=(out, into)).astype(np.float32)
        weights = {(0, "mlp.w_up"): Weight(matrix)}
        works[f"weight scores: one matrix of {out} x {into}"] = partial(score_weights, weights)
    captured = as_captured(LLAMA_1B_BLOCKS, LLAMA_1B)
    works[f"weight scores: 1B (Llama 3.2), {LLAMA_1B_BLOCKS} blocks"] = partial(
        score_weights, captured, LLAMA_1B_BLOCKS
    )
    stored = {"w": torch.randn(2048, 8192)}
    projection = Projection(0, "mlp.w_up", ("w",), (2048, 8192))
    works["norms on the device: one matrix of 2048 x 8192"] = partial(krylov, stored, projection)
    return works


def score_weights(weights: dict[tuple[int, str], Weight], n_blocks: int = 1) -> None:
    """Score matrices that have not changed since the first capture."""
    stored = {place: weight.stored for place, weight in weights.items()}
    weight_scores(weights, n_blocks=n_blocks, first=stored, previous=stored)


def as_captured(n_blocks: int, shapes: dict[str, tuple[int, int]]) -> dict[tuple[int, str], Weight]:
    """Return the weights as a capture of 10 MB has them: samples, with the norms of the whole."""
    side = weight_side([*shapes.values()] * n_blocks, 10e6)
    rng = np.random.default_rng(0)
    weights = {}
    for block in range(n_blocks):
        for name, (out, into) in shapes.items():
            stored = rng.normal(size=(min(out, side), min(into, side))).astype(np.float32)
            weights[block, name] = Weight(stored, np.array([1, 1, out, into], np.float32))
    return weights


def stable_ranks() -> dict[str, dict[str, float]]:
    """Return the stable rank of matrices, as a share of the largest possible one.

    It is that of the whole matrix, what the recorder measures of it, and that of the sample that a
    capture of a 1B model keeps.
    """
    out, into, side = 1024, 4096, 210
    projection = Projection(0, "mlp.w_up", ("w",), (out, into))
    found = {}
    for name, matrix in known_matrices(out, into).items():
        measured = krylov({"w": torch.from_numpy(matrix).float()}, projection).numpy()
        frobenius, spectral, *_ = norms(measured, (out, into))
        ranks = {
            "whole": stable_rank(matrix),
            "recorder": float(frobenius / spectral) ** 2 / out,
            "sample": stable_rank(sample(matrix, side)),
        }
        found[name] = {which: round(rank, 4) for which, rank in ranks.items()}
    return found


def known_matrices(out: int, into: int) -> dict[str, np.ndarray]:
    """Return noise, noise with one strong direction, and a matrix with falling singular values."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(out, into))
    left_unit, right_unit = rng.normal(size=out), rng.normal(size=into)
    left_unit /= np.linalg.norm(left_unit)
    right_unit /= np.linalg.norm(right_unit)
    direction = np.outer(left_unit, right_unit)
    edge = np.sqrt(out) + np.sqrt(into)  # the largest singular value of noise
    left, _ = np.linalg.qr(rng.normal(size=(out, out)))
    fall = np.arange(1, out + 1)[:, None] ** -0.5
    return {
        "noise": noise,
        "noise and a direction of 1.5 times its norm": noise + 1.5 * edge * direction,
        "noise and a direction of 3 times its norm": noise + 3 * edge * direction,
        "singular values that fall as k^-0.5": left @ (noise / edge * fall),
    }


def stable_rank(matrix: np.ndarray) -> float:
    """Return the squared Frobenius norm over the squared spectral norm, as a share of the rank."""
    return float(np.sum(matrix**2) / np.linalg.norm(matrix, 2) ** 2 / min(matrix.shape))


def causal_attention(rows: int, heads: int, length: int) -> np.ndarray:
    """Return random attention, float32 [row, head, query, key], whose rows sum to 1."""
    logits = np.random.default_rng(0).normal(size=(rows, heads, length, length))
    weights = np.where(np.tril(np.ones((length, length), bool)), np.exp(2 * logits), 0)
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


def all_best_of(repeats: int, works: Works) -> dict[str, dict[str, float]]:
    found = {}
    for name, work in works.items():
        found[name] = best_of(repeats, work)
        print(f"{name}: {1000 * found[name]['processor_s']:.2f} ms", flush=True)
    return found


def best_of(repeats: int, work: Callable[[], object]) -> dict[str, float]:
    """Return the seconds of the call, of several, that took the least processor time."""
    least = min((timed(work) for _ in range(repeats)), key=lambda taken: taken.processor_s)
    return {"processor_s": round(least.processor_s, 6), "clock_s": round(least.clock_s, 6)}


if __name__ == "__main__":
    main()
