"""Compute what one capture of models up to 70B costs: megabytes, and milliseconds on an H100.

Megabytes follow from the shapes alone. Milliseconds are computed from what the hardware can do and
from what the host needs per block, which is measured here. Used by ``capture.py --sizes``.
"""

from __future__ import annotations

import math
import statistics
import time
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from measuring import table, timed

from tracker_viz.capture import Schedule, fit, make_probe, record
from tracker_viz.capture.budget import weight_side
from tracker_viz.capture.camera import MAX_SCORED_ENTRIES
from tracker_viz.capture.probe import DEFAULT_SCORE_ROWS
from tracker_viz.capture.weights.matrices import Projection
from tracker_viz.capture.weights.norms import STEPS, krylov
from tracker_viz.types import Capture

VOCAB, LENGTH = 4096, 64  # of the Llama that is trained or measured here
PROBE_ROWS, PROBE_LENGTH = 2, 128
HIDDEN_ROWS = 2 * DEFAULT_SCORE_ROWS
# One H100 reads weights at 3.35 TB/s (a pass over 256 tokens is bound by memory), computes at
# 400 TFLOP/s at best, with 2 FLOP per parameter and token, and copies captured arrays to the CPU
# at 20 GB/s (page-locked memory).
READ_BYTES_S, FLOP_S, COPY_BYTES_S = 3.35e12, 4e14, 2e10
# A model that does not fit one GPU is sharded over as many as hold it, and gathered in bfloat16 for
# the pass. After that, only the kept parts of the weights are sent, and for norms one vector a
# step, which takes the time of the collective itself.
GATHER_BYTES_S, FITS_BYTES, COLLECTIVE_S = 3e11, 80e9, 2e-5


class Shape(NamedTuple):
    """A model's shape. ``parameters``: without embeddings."""

    blocks: int
    heads: int
    kv_heads: int
    d_model: int
    d_mlp: int
    mlp_matrices: int
    parameters: float

    def matrices(self) -> list[tuple[int, int]]:
        """Return the (out, in) of every captured matrix, in order."""
        kv = self.d_model // self.heads * self.kv_heads
        square = (self.d_model, self.d_model)
        up, down = (self.d_mlp, self.d_model), (self.d_model, self.d_mlp)
        attention = [square, (kv, self.d_model), (kv, self.d_model), square]
        return [*attention, *[up] * (self.mlp_matrices - 1), down] * self.blocks


SIZES = {
    "125M (GPT-2)": Shape(12, 12, 12, 768, 3072, 2, 85e6),
    "1B (Llama 3.2)": Shape(16, 32, 8, 2048, 8192, 3, 973e6),
    "7B (Llama 2)": Shape(32, 32, 32, 4096, 11008, 3, 6.48e9),
    "70B (Llama 2)": Shape(80, 64, 8, 8192, 28672, 3, 68.5e9),
}
MEASURED = "125M (GPT-2)"
PAGE = """
# What one capture costs

The probe has {probe_rows} rows of {probe_length} tokens and {hidden_rows} hidden rows
(`score_rows={score_rows}`, fewer in large models), with `max_mb={max_mb:g}`. `python
benchmarks/capture.py --all` makes this page. For other numbers of hidden rows, see
[benchmarks/score_rows.md](../../benchmarks/score_rows.md).

Megabytes follow exactly from the shapes.

**Measured** on {measured_model} in float32, on a CPU (torch threads: {threads}): a capture takes
{capture_ms:.0f} ms of processor time. A plain forward pass over the same tokens takes {pass_ms:.0f}
ms; unlike a capture, it computes logits.

**Computed**, not measured, for H100s in bfloat16: weights are read at 3.35 TB/s, compute runs at
400 TFLOP/s at most, and captured arrays are copied to the CPU at 20 GB/s. The 70B model is sharded
with FSDP2 over two GPUs; gathering its weights at 300 GB/s takes most of its time. Norms of
matrices that are not stored whole are computed on the device, in {norm_reads} reads. The host needs
{host_ms_a_block:.1f} ms per block, and {host_ms_a_norm:.2f} ms per matrix for the norms (measured
here).

{models}
"""


def measure_sizes(max_mb: float) -> dict[str, Any]:
    """Return what a capture of each size costs, with what was measured for it."""
    host_s_a_block, host_s_a_norm = host_seconds_a_block(), host_seconds_a_norm()
    capture_ms, pass_ms = measured_ms(SIZES[MEASURED], max_mb)
    models = {}
    for name, shape in SIZES.items():
        models[name] = computed(shape, max_mb, host_s_a_block, host_s_a_norm)
    return {
        "probe_rows": PROBE_ROWS,
        "probe_length": PROBE_LENGTH,
        "hidden_rows": HIDDEN_ROWS,
        "score_rows": DEFAULT_SCORE_ROWS,
        "max_mb": max_mb,
        "measured_model": MEASURED,
        "threads": torch.get_num_threads(),
        "capture_ms": capture_ms,
        "pass_ms": pass_ms,
        "norm_reads": 2 * STEPS - 1,
        "host_ms_a_block": 1000 * host_s_a_block,
        "host_ms_a_norm": 1000 * host_s_a_norm,
        "models": models,
    }


def computed(
    shape: Shape, max_mb: float, host_s_a_block: float, host_s_a_norm: float
) -> dict[str, float]:
    """Return what a capture costs, from the shape and from what the host needs."""
    matrices = shape.matrices()
    side = weight_side(matrices, max_mb * 1e6)
    reduced = [matrix for matrix in matrices if max(matrix) > side]
    entries_a_row = shape.blocks * shape.heads * PROBE_LENGTH**2
    hidden_rows = min(HIDDEN_ROWS, max(0, MAX_SCORED_ENTRIES // entries_a_row - PROBE_ROWS))

    capture = blank_capture(shape, matrices, side)
    moved = sum(array.size * array.itemsize for array in capture.arrays.values())
    moved += hidden_rows * entries_a_row * np.dtype(np.float16).itemsize
    stored = sum(array.nbytes for array in fit(capture, max_mb).arrays.values())

    device_s = device_seconds(shape, (PROBE_ROWS + hidden_rows) * PROBE_LENGTH, reduced)
    host_s = shape.blocks * host_s_a_block + len(reduced) * host_s_a_norm
    # The host runs ahead of the device or behind it: the slower of the two counts.
    seconds = max(device_s, host_s) + gather_seconds(shape, len(reduced)) + moved / COPY_BYTES_S
    return {
        "hidden_rows": hidden_rows,
        "moved_mb": moved / 1e6,
        "stored_mb": stored / 1e6,
        "computed_ms": 1000 * seconds,
    }


def blank_capture(shape: Shape, matrices: list[tuple[int, int]], side: int) -> Capture:
    """Return a capture of this shape; its arrays are one number each, broadcast."""
    arrays: dict[str, Any] = {}
    axes: dict[str, tuple[str, ...]] = {}
    pattern = (PROBE_ROWS, shape.heads, PROBE_LENGTH, PROBE_LENGTH)
    for block in range(shape.blocks):
        name = f"blocks.{block}.attn.pattern"
        arrays[name] = np.broadcast_to(np.float16(0.5), pattern)
        axes[name] = ("probe", "head", "query", "key")
    for index, (out, into) in enumerate(matrices):
        name = f"blocks.{index * shape.blocks // len(matrices)}.w.m{index}"
        arrays[name] = np.broadcast_to(np.float32(0.5), (min(out, side), min(into, side)))
        axes[name] = ("out", "in")
    return Capture(step=0, arrays=arrays, axes=axes)


def n_devices(shape: Shape) -> int:
    return math.ceil(2 * shape.parameters / FITS_BYTES)


def device_seconds(shape: Shape, tokens: int, reduced: list[tuple[int, int]]) -> float:
    """Return the time of the probe's pass and of the norms of matrices that are stored in part."""
    pass_s = max(2 * shape.parameters / READ_BYTES_S, 2 * shape.parameters * tokens / FLOP_S)
    # Norms read a matrix twice a step, but for the last; each device reads its own rows.
    nbytes = 2 * sum(out * into for out, into in reduced)
    return pass_s + (2 * STEPS - 1) * nbytes / READ_BYTES_S / n_devices(shape)


def gather_seconds(shape: Shape, n_norms: int) -> float:
    """Return the time of communication; 0 for a model that fits one GPU."""
    if n_devices(shape) == 1:
        return 0.0
    return 2 * shape.parameters / GATHER_BYTES_S + n_norms * STEPS * COLLECTIVE_S


# -- measured here


def llama(**shape: int) -> Any:
    """Return a small Llama with random weights from a seed."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    default = {
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "intermediate_size": 704,
    }
    config = LlamaConfig(
        vocab_size=VOCAB,
        max_position_embeddings=LENGTH,
        attn_implementation="sdpa",
        **(default | shape),
    )
    return LlamaForCausalLM(config)


def host_seconds_a_block() -> float:
    """Measure the time of a capture per block on the training thread, apart from arithmetic.

    This is Python and the launching of operations. It is taken from Llamas that are too narrow for
    anything else to count, 2 and 18 blocks deep; the least of seven captures each.
    """
    least_s = [least_capture_seconds(blocks) for blocks in (2, 18)]
    return (least_s[1] - least_s[0]) / 16


def least_capture_seconds(blocks: int) -> float:
    """Return the least time of a capture of a narrow Llama on the training thread."""
    model = llama(
        hidden_size=32, intermediate_size=32, num_attention_heads=4, num_hidden_layers=blocks
    )
    probe = make_probe(VOCAB, 8, period=4)
    recorder = record(model, probe, Schedule.every(1), lambda capture: None)
    taken = []
    for step in range(1, 8):
        started = time.thread_time()
        recorder.step(step)
        taken.append(time.thread_time() - started)
    return min(taken)


def host_seconds_a_norm() -> float:
    """Measure the time of one matrix's norms on the training thread, apart from arithmetic.

    These are the norms of a tiny matrix, the least of fifty times.
    """
    stored, projection = {"w": torch.randn(8, 8)}, Projection(0, "mlp.w_in", ("w",), (8, 8))
    taken = []
    for _ in range(50):
        started = time.thread_time()
        krylov(stored, projection)
        taken.append(time.thread_time() - started)
    return min(taken)


def measured_ms(shape: Shape, max_mb: float) -> tuple[float, float]:
    """Return the processor milliseconds of a capture and of a plain pass over the same tokens.

    They are medians of five, on a model like GPT-2.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=shape.blocks, n_head=shape.heads, n_embd=shape.d_model)
    model = GPT2LMHeadModel(config)
    text = range((1 + DEFAULT_SCORE_ROWS) * PROBE_LENGTH)
    probe = make_probe(config.vocab_size, PROBE_LENGTH, text_ids=text)
    recorder = record(model, probe, Schedule.every(1), lambda capture: None, max_mb=max_mb)

    def forward() -> None:
        with torch.no_grad():
            model(input_ids=probe.input_ids)

    capture_s, pass_s = [], []
    for step in range(1, 6):
        capture_s.append(timed(partial(recorder.step, step)).processor_s)
        pass_s.append(timed(forward).processor_s)
    return 1000 * statistics.median(capture_s), 1000 * statistics.median(pass_s)


# -- page


def sizes_report(part: dict[str, Any]) -> str:
    """Return the section of the page about the cost of one capture."""
    rows = []
    for name, cost in part["models"].items():
        row = {
            "model": name,
            "hidden rows": cost["hidden_rows"],
            "MB off the device": f"{cost['moved_mb']:.0f}",
            "MB stored": f"{cost['stored_mb']:.1f}",
            "ms, computed": f"{cost['computed_ms']:.0f}",
        }
        rows.append(row)
    return PAGE.format(**(part | {"models": table(rows)}))
