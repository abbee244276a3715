"""A made-up run whose transition is known: uniform attention sharpens into roles, weights grow a
low-rank change.

Used by the rendering tests, the benchmarks and the pictures in the docs; everything follows from
the arguments and a seed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from tracker_viz import capture_file
from tracker_viz.types import Capture, CapturePath, CaptureRef

ROLES = ("previous_token", "induction", "sink", "local", "current_token", "duplicate_token")
PROJECTIONS = (
    "attn.w_q",
    "attn.w_k",
    "attn.w_v",
    "attn.w_o",
    "mlp.w_gate",
    "mlp.w_up",
    "mlp.w_down",
)
# Weights that a LoRA of rank 4 changes, too: its own matrices are in every capture.
ADAPTED = ("attn.w_q", "mlp.w_down")
RANK = 4
# The words of the logit lens: a text, and what a model says that does not know it.
TEXT = ("def", "\u2423attend", "(", "query", ",", "\u2423key", "):", "\n", "    ", "return")
NOISE = ("the", "\u2423extraordinarily", "0x", ",", "\n", "self")
# Composition is of pairs of heads: of more heads than these it is left out.
MOST_COMPOSED = 400


def captures(
    n_captures=12,
    *,
    blocks=4,
    heads=4,
    length=64,
    width=64,
    hidden=176,
    last_step=1000,
    period=16,
    seed=0,
    probes=2,
    experts=8,
):
    """Yield ``n_captures`` Captures from step 0 to ``last_step``; the transition is half way."""
    rng = np.random.default_rng(seed)
    role_of = _roles(blocks, heads, rng)
    targets = {role: _target(role, length, period) for role in ROLES}
    shapes = {name: _shape(name, width, hidden) for name in PROJECTIONS}
    first = {
        (b, name): rng.normal(0, 0.02, shape)
        for b in range(blocks)
        for name, shape in shapes.items()
    }
    change = {
        (b, name): sum(
            rng.standard_gamma(1.0, (shape[0], 1)) * rng.normal(0, 0.02, (1, shape[1]))
            for _ in range(2)
        )
        for b in range(blocks)
        for name, shape in shapes.items()
    }
    onset = rng.uniform(0.25, 0.6, (blocks, heads)) + 0.15 * np.arange(blocks)[:, None] / blocks
    top = rng.uniform(0.55, 0.97, (blocks, heads))
    noise = rng.gamma(0.6, size=(blocks, heads, length, length))
    for index in range(n_captures):
        part = index / max(n_captures - 1, 1)
        step = round(last_step * part**1.5)
        yield _capture(
            step,
            part,
            role_of,
            targets,
            first,
            change,
            onset,
            top,
            noise,
            length,
            period,
            probes,
            experts,
        )


def with_updates(capture: Capture) -> Capture:
    """Add the score that compares weights with those of the capture before."""
    update = capture.arrays["scores.weight.distance_from_init"] / 4
    if capture.step == 0:
        update = np.full_like(update, np.nan)
    name = "scores.weight.update"
    arrays = {**capture.arrays, name: update}
    axes = {**capture.axes, name: ("block", "projection")}
    return replace(capture, arrays=arrays, axes=axes)


def with_indexer(capture: Capture, blocks=(1,), chosen=5) -> Capture:
    """Add an indexer of sparse attention to some blocks: for every query the keys of most
    attention over all heads."""
    arrays, axes = {}, {}
    for block in blocks:
        attention = capture.arrays[f"blocks.{block}.attn.pattern"].astype(np.float32).mean(1)
        order = np.argsort(-attention, axis=-1, kind="stable")[..., :chosen]
        keys = np.zeros_like(attention)
        np.put_along_axis(keys, order, 1, -1)
        arrays[f"blocks.{block}.attn.indexer"] = np.tril(keys).astype(np.float16)
        axes[f"blocks.{block}.attn.indexer"] = ("probe", "query", "key")
    indexers = {"blocks": list(blocks), "chosen": [chosen] * len(blocks)}
    return replace(
        capture,
        arrays=capture.arrays | arrays,
        axes=capture.axes | axes,
        model=capture.model | {"indexers": indexers},
    )


def write_run(directory: Path, n_captures=12, **options) -> list[CapturePath]:
    """Write the captures as files; returns what a pull would return."""
    directory.mkdir(parents=True, exist_ok=True)
    return [write_capture(directory, capture) for capture in captures(n_captures, **options)]


def write_capture(directory: Path, capture: Capture) -> CapturePath:
    path = Path(directory) / capture.file_name
    path.write_bytes(capture_file.to_bytes(capture))  # no fsync: hundreds of files in a test
    return CapturePath(
        CaptureRef(capture.step, capture.file_name, path.stat().st_size, "0" * 64), path
    )


def _capture(
    step, part, role_of, targets, first, change, onset, top, noise, length, period, probes, experts
):
    blocks, heads = role_of.shape
    causal = np.tril(np.ones((length, length)))
    arrays, axes = {}, {}
    grown = 1 / (1 + np.exp(-(part - onset) * 22))
    for b in range(blocks):
        patterns = np.zeros((probes, heads, length, length), np.float32)
        for h in range(heads):
            strength = grown[b, h] * top[b, h]
            background = causal * (1 + 2.0 * part * noise[b, h])
            background /= background.sum(1, keepdims=True)
            patterns[0, h] = (1 - strength) * background + strength * targets[role_of[b, h]]
            for p in range(
                1, probes
            ):  # on text the repeats are missing: induction heads have nothing to do
                role = (
                    "sink" if role_of[b, h] in ("induction", "duplicate_token") else role_of[b, h]
                )
                patterns[p, h] = (1 - strength) * background + strength * targets[role]
        arrays[f"blocks.{b}.attn.pattern"] = patterns.astype(np.float16)
        axes[f"blocks.{b}.attn.pattern"] = ("probe", "head", "query", "key")
        for name in PROJECTIONS:
            weight = first[b, name] + part**0.8 * change[b, name]
            arrays[f"blocks.{b}.{name}"] = weight.astype(np.float16)
            axes[f"blocks.{b}.{name}"] = ("out", "in")
        for name in ADAPTED:
            # As many rows and columns as the rank of what changed.
            arrays[f"blocks.{b}.{name}.lora_a"] = (part * change[b, name][:RANK]).astype(np.float16)
            arrays[f"blocks.{b}.{name}.lora_b"] = (part * change[b, name][:, :RANK]).astype(
                np.float16
            )
            axes[f"blocks.{b}.{name}.lora_a"] = axes[f"blocks.{b}.{name}.lora_b"] = ("out", "in")
        arrays |= _router(b, part, length, period, probes, experts)
    arrays |= _scores(arrays, blocks, period)
    arrays |= _expert_scores(arrays, blocks)
    composition = {}
    if blocks * heads <= MOST_COMPOSED:
        composition = _composition(role_of, grown, arrays["blocks.0.attn.w_q"].shape[1])
    arrays |= composition
    lens, lens_labels = _lens(part, blocks)
    arrays |= lens
    axes |= {name: ("block", "position")[2 - array.ndim :] for name, array in lens.items()}
    axes |= dict.fromkeys(composition, ("block", "head", "earlier_block", "earlier_head"))
    for name in arrays:
        if name.endswith(".mlp.router"):
            axes[name] = ("probe", "token", "expert")
        elif ".mlp.router." in name:
            axes[name] = ("probe", "token", "choice")
        elif name.startswith("scores.expert."):
            axes[name] = ("block", "expert")
    axes |= {name: ("block", "head") for name in arrays if name.startswith("scores.head.")}
    relative = np.array(
        [
            [
                np.linalg.norm(part**0.8 * change[b, name]) / np.linalg.norm(first[b, name])
                for name in PROJECTIONS
            ]
            for b in range(blocks)
        ]
    )
    arrays["scores.weight.distance_from_init"] = relative.astype(np.float32)
    axes["scores.weight.distance_from_init"] = ("block", "projection")
    induction = float(np.mean(grown))
    return Capture(
        step=step,
        arrays=arrays,
        axes=axes,
        labels={
            "probe": ("repeated", "text")[:probes],
            "projection": PROJECTIONS,
            **lens_labels,
        },
        tokens_seen=step * 1024,
        metrics={
            "loss": float(5.5 - 2.2 * part**0.5 - 1.9 * induction),
            "attn/induction_max": induction,
        },
        model={
            "name": "synthetic",
            "n_blocks": blocks,
            "n_heads": heads,
            "n_parameters": 870_000,
            "d_model": arrays["blocks.0.attn.w_q"].shape[1],
        },
        probe={
            "length": length,
            "rows": [
                {
                    "kind": "repeated",
                    "period": period,
                    "start": 1,
                    "tokens": ["BOS"] + [f"t{i % period}" for i in range(length - 1)],
                },
                {
                    "kind": "text",
                    "tokens": list(
                        (
                            "def attend(query, key):\n    return softmax(query @ key.T) @ value\n"
                            * 9
                        )[:length]
                    ),
                },
            ][:probes],
        },
    )


def _scores(arrays, blocks, period):
    attention = np.stack([arrays[f"blocks.{b}.attn.pattern"][0] for b in range(blocks)]).astype(
        np.float32
    )
    length = attention.shape[-1]
    i = np.arange(2, length)
    j = np.arange(period + 1, length)
    return {
        "scores.head.previous_token": attention[..., i, i - 1].mean(-1),
        "scores.head.induction": attention[..., j, j - period + 1].mean(-1),
        "scores.head.duplicate_token": attention[..., j, j - period].mean(-1),
        "scores.head.current_token": attention[..., i, i].mean(-1),
        "scores.head.sink": attention[..., i, 0].mean(-1),
        "scores.head.specialisation": np.clip(attention.max(-1).mean(-1) * 1.05 - 0.06, 0, 1),
    }


def _router(block, part, length, period, probes, experts, chosen=2):
    """A router that comes to send each token of the repeats to experts of its own."""
    rng = np.random.default_rng(block)
    of_token = rng.normal(0, 3.0, (length, experts))
    logits = rng.normal(0, 0.5, (probes, length, experts))
    logits[0] += part * of_token[np.arange(length) % period]
    logits[1:] += part * of_token
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    order = np.argsort(-probabilities, axis=-1)[..., :chosen]
    name = f"blocks.{block}.mlp.router"
    return {
        name: probabilities.astype(np.float16),
        f"{name}.chosen": order.astype(np.float16),
        f"{name}.weight": np.take_along_axis(probabilities, order, -1).astype(np.float16),
    }


def _expert_scores(arrays, blocks):
    chosen = [arrays[f"blocks.{b}.mlp.router.chosen"].astype(int) for b in range(blocks)]
    experts = arrays["blocks.0.mlp.router"].shape[-1]
    counts = np.array([np.bincount(each.ravel(), minlength=experts) for each in chosen])
    load = counts * experts / chosen[0].size
    text = np.array([np.bincount(each[-1].ravel(), minlength=experts) for each in chosen])
    return {
        "scores.expert.load": load.astype(np.float32),
        "scores.expert.text_share": (text / np.maximum(counts, 1)).astype(np.float32),
        "scores.expert.vocabulary": np.clip(load / load.max(), 0, 1).astype(np.float32),
    }


def _composition(role_of, grown, d_model):
    """Keys of induction heads come to read previous-token heads of earlier blocks."""
    blocks, heads = role_of.shape
    noise = np.random.default_rng(7).normal(0, 0.06, (3, blocks, heads, blocks, heads))
    values = (1 + noise) / np.sqrt(d_model)
    reads = (role_of == "induction") * grown
    written = (role_of == "previous_token") * grown
    values[1] += 0.2 * reads[:, :, None, None] * written
    later = np.arange(blocks)[:, None] > np.arange(blocks)
    values[:, ~later[:, None, :, None].repeat(heads, 1).repeat(heads, 3)] = np.nan
    names = [f"scores.composition.{kind}" for kind in "qkv"]
    return dict(zip(names, values.astype(np.float16), strict=True))


def _lens(part, blocks):
    """Later blocks come to say the next word, and are surer of it."""
    n_positions = len(TEXT) - 1
    rng = np.random.default_rng(round(part * 100))
    sure = np.clip(1.6 * part - 0.4 * (blocks - 1 - np.arange(blocks))[:, None], 0.02, 0.97)
    probability = sure * rng.uniform(0.6, 1.0, (blocks, n_positions))
    is_right = probability > 0.35
    words = [*TEXT, *NOISE]
    noise = rng.integers(len(TEXT), len(words), (blocks, n_positions))
    top = np.where(is_right, np.arange(1, n_positions + 1), noise)
    arrays = {
        "lens.top": top.astype(np.float32),
        "lens.top_probability": probability.astype(np.float32),
        "lens.right_probability": np.where(is_right, probability, 0.01).astype(np.float32),
        "lens.right_rank": np.where(is_right, 0, 7).astype(np.float32),
        "lens.token": np.arange(n_positions, dtype=np.float32),
        "lens.right": np.arange(1, n_positions + 1, dtype=np.float32),
    }
    names = ("lens.top", "lens.token", "lens.right")
    texts = {name: tuple(words[int(i)] for i in arrays[name].reshape(-1)) for name in names}
    return arrays, texts


def _roles(blocks, heads, rng):
    role_of = rng.choice(ROLES, (blocks, heads), p=(0.2, 0.2, 0.25, 0.2, 0.1, 0.05))
    role_of[0, 0], role_of[-1, 0] = "previous_token", "induction"
    return role_of


def _target(role, length, period):
    query, key = np.arange(length)[:, None], np.arange(length)[None, :]
    if role == "local":
        target = np.exp(-(query - key) / 6.0) * (key <= query)
    else:
        at = {
            "previous_token": query - 1,
            "induction": query - period + 1,
            "sink": 0 * query,
            "current_token": query,
        }
        target = (key == np.maximum(at.get(role, query - period), 0)).astype(float)
    return target / target.sum(1, keepdims=True)


def _shape(name, width, hidden):
    if name.startswith("attn"):
        return width, width
    return (width, hidden) if name.endswith("down") else (hidden, width)
