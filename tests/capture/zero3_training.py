"""Run by torchrun with two processes: trains under DeepSpeed ZeRO-3, with and without capture.

DS_ACCELERATOR=cpu torchrun --nproc_per_node 2 zero3_training.py <output directory>
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import deepspeed
import numpy as np
import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parent))
from hf_decoders import build

from tracker_viz.capture import Schedule, make_probe, record

STEPS = 4
# Nothing is small enough to be kept whole on every process.
ZERO_3 = {
    "train_micro_batch_size_per_gpu": 2,
    "zero_allow_untested_optimizer": True,
    "zero_optimization": {
        "stage": 3,
        "stage3_param_persistence_threshold": 0,
        "stage3_max_live_parameters": 100,
        "stage3_prefetch_bucket_size": 0,
    },
}


def train(capture):
    model = build("llama").train()
    if capture == "whole":
        return [], first_capture(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=ZERO_3)
    recorder, captures, losses = None, [], []
    if capture:
        recorder = record(engine, probe(), Schedule.every(2, STEPS), captures.append)
    for step in range(1, STEPS + 1):
        generator = torch.Generator().manual_seed(step + 100 * dist.get_rank())
        ids = torch.randint(90, (2, 16), generator=generator)
        loss = engine(input_ids=ids, labels=ids).loss
        engine.backward(loss)
        engine.step()
        if recorder is not None:
            recorder.step(step, loss=loss)
        losses.append(loss.item())
    return losses, captures


def first_capture(model):
    captures = []
    record(model, probe(), Schedule.every(1), captures.append).close()
    return captures


def probe():
    return make_probe(90, 16, text_ids=range(16))


def main(directory):
    deepspeed.init_distributed("gloo")
    rank = dist.get_rank()
    without, _ = train(False)
    losses, captures = train(True)
    _, whole = train("whole")
    report = {
        "without": without,
        "with": losses,
        "steps": [capture.step for capture in captures],
        "models": [capture.model for capture in (*captures[:1], *whole[:1])],
    }
    if rank == 0:
        np.savez(directory / "sharded.npz", **captures[0].arrays)
        np.savez(directory / "whole.npz", **whole[0].arrays)
    (directory / f"rank{rank}.json").write_text(json.dumps(report))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
