"""Use an installed tracker_viz as a stranger does: in the working directory, not in the repository.

    python installed.py all     # train, draw, examine, and another Hydra application of two jobs
    python installed.py draw    # draw the run of "all" on a machine without torch

Leaves with an error at the first thing that does not work.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

COMMAND = Path(sys.executable).with_name("tracker-viz")

LOOP = """
import torch
from torch import nn

import tracker_viz as tv


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(-2))
        return x + self.mlp(x)


def decoder():
    return nn.Sequential(nn.Embedding(50, 16), Block(), Block(), nn.Linear(16, 50))


def train(recorder, model, steps=12):
    optimizer = torch.optim.AdamW(model.parameters())
    for step in range(steps):
        ids = torch.randint(50, (4, 24))
        loss = nn.functional.cross_entropy(model(ids[:, :-1]).transpose(1, 2), ids[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        recorder.step(step, loss=loss)
    recorder.close()
    with open("references", "a") as noted:
        print(recorder.ref, file=noted)
"""

WATCH = """
from loop import decoder, train, tv

model = decoder()
recorder = tv.watch(model, run="mlflow", spool="spool", every=3)
train(recorder, model)
tv.render(recorder, layout="overview")
"""

APPLICATION = """
import hydra
from loop import decoder, train, tv


@hydra.main(config_path=".", config_name="mine", version_base="1.3")
def main(cfg):
    model = decoder()
    train(tv.watch(model, run="mlflow", **cfg.capture), model)


main()
"""

CONFIG = """
defaults:
  - capture: small
  - _self_
hydra:
  searchpath: [pkg://tracker_viz.conf]
  callbacks:
    sweep:
      _target_: tracker_viz.integrations.hydra.SweepCallback
"""


def run(*words: str | Path, fails: bool = False) -> str:
    """Return what the command printed. ``fails``: it must leave with an error."""
    done = subprocess.run([*map(str, words)], capture_output=True, text=True)
    printed = done.stdout + done.stderr
    if (done.returncode != 0) != fails:
        sys.exit(f"{' '.join(map(str, words))} left with {done.returncode}:\n{printed}")
    return printed


def everything() -> None:
    Path("loop.py").write_text(LOOP)
    Path("watch.py").write_text(WATCH)
    run(sys.executable, "watch.py")
    print("captured and drawn", Path("references").read_text().strip())
    run(COMMAND, "doctor")

    Path("app").mkdir()
    Path("app/loop.py").write_text(LOOP)
    Path("app/app.py").write_text(APPLICATION)
    Path("app/mine.yaml").write_text(CONFIG)
    run(sys.executable, "app/app.py", "-m", "capture.every=4,6")
    print("a Hydra application with our groups, two jobs")
    draw()


def draw() -> None:
    """Draw from another directory: the store is found by its address."""
    references = Path("references").read_text().split()
    address = f"tracking_uri=sqlite:///{Path('mlflow.db').absolute()}"
    Path("another").mkdir(exist_ok=True)
    os.chdir("another")
    run(COMMAND, "render", f"run={references[0]}", address, "layout=heads", "output=heads.webm")
    run(COMMAND, "render", f"run={references[0]}", address, "format=html", "output=heads.html")
    run(COMMAND, "compare", f"runs=[{','.join(references)}]", address, "upload=false")
    for made in ("heads.webm", "heads.html"):
        if not Path(made).stat().st_size:
            sys.exit(f"{made} is empty")
    os.chdir("..")
    print(f"drawn and compared on Python {sys.version.split()[0]}")


def without_torch() -> None:
    said = run(COMMAND, "inspect", "model=loop.decoder", fails=True)
    if "pip install 'tracker-viz[torch]'" not in said:
        sys.exit(f"without torch, 'inspect' does not say what to install:\n{said}")
    draw()


if __name__ == "__main__":
    {"all": everything, "draw": without_torch}[sys.argv[1]]()
