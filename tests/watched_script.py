"""The README's lines in a training script: run alone, or by torchrun on several processes.

python watched_script.py <run> <steps> <JSON of more options of watch>
"""

from __future__ import annotations

import json
import os
import sys

import torch
from torch import nn

import tracker_viz as tv
from tracker_viz.demo.model import Decoder, ModelConfig

run, steps, options = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
timeout_s = options.pop("close_timeout_s", 120.0)

torch.manual_seed(options.pop("seed", 0))
shape = {"n_blocks": 2, "n_heads": 2, "d_model": 16, "d_ffn": 32} | options.pop("shape", {})
model = Decoder(ModelConfig(n_kv_heads=1, context_length=32, vocab_size=40, **shape))
if "RANK" in os.environ:
    torch.distributed.init_process_group("gloo")
    model = nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.AdamW(model.parameters(), 1e-2)


def train_step(batch):
    logits = model(batch[:, :-1])
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


recorder = tv.watch(model, run=run, **options)
for step in range(steps):
    loss = train_step(torch.randint(40, (4, 17)))
    recorder.step(step, loss=loss)
recorder.close(timeout_s=timeout_s)

film = tv.render(recorder, video={"size": "640x360", "hold_s": 0.1, "seconds_per_capture": 0.1})

report = {
    "rank": os.environ.get("RANK"),
    "ref": str(recorder.ref),
    "steps": recorder.captured_steps,
    "film": str(film) if film else None,
}
sys.stdout.write(json.dumps(report) + "\n")
if "RANK" in os.environ:
    torch.distributed.destroy_process_group()
