"""The user's process may be set up in any way: watching, rendering and comparing work in it all the
same, and leave its settings as they were."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# Trains two decoders with captures, makes the pictures of one, and may compare both. ``before`` and
# ``after`` run before our package is imported, and when the models exist.
PROGRAM = """
import os, sys
BEFORE
import torch
import tracker_viz as tv
from tracker_viz.demo.model import Decoder, ModelConfig

shape = ModelConfig(n_blocks=2, n_heads=2, d_model=16, d_ffn=32, context_length=32, vocab_size=64)

def train(seed, model):
    generator = torch.Generator().manual_seed(seed)
    spool = f"spool-{seed}"
    with tv.watch(model, run="local", every=1, max_overhead=1.0, spool=spool) as watcher:
        for step in range(3):
            tokens = torch.randint(64, (2, 16), generator=generator, device="cpu")
            loss = model(tokens).logsumexp(-1).mean()
            loss.backward()
            watcher.step(step, loss=loss)
            IN_STEP
    return watcher.ref

def main():
    models = [Decoder(shape), Decoder(shape)]
    AFTER
    runs = [train(seed, model) for seed, model in enumerate(models)]
    captures = list(tv.load_captures(runs[0]))
    assert [capture.step for capture in captures] == [0, 1, 2, 3], captures
    video = {"size": "720p", "seconds_per_capture": 0.1, "hold_s": 0.1, "workers": 2}
    tv.render(runs[0], format=["video", "poster", "html"], video=video, progress=False)
    if COMPARES:
        tv.compare(runs, video=video, output=os.path.join(START, "compare"), progress=False)
    print("done")

START = os.getcwd()
if __name__ == "__main__":
    main()
"""

NUMPY_RAISES = "import numpy; numpy.seterr(all='raise')"
NOTEBOOK = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
NO_PACKAGE = {"MPLBACKEND": "WebAgg"}
ASCII = {
    "LC_ALL": "C",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONUTF8": "0",
    "PYTHONIOENCODING": "ascii",
}
WARNINGS_RAISE = {"PYTHONWARNINGS": "error"}
STYLED = (
    "import matplotlib; matplotlib.rcParams.update({'text.usetex': True, 'figure.dpi': 30,"
    " 'axes.formatter.use_locale': True, 'font.size': 40, 'interactive': True})"
)


def run_program(cwd, *, before="", after="pass", in_step="pass", compares=False, **environment):
    text = PROGRAM.replace("BEFORE", before).replace("AFTER", after).replace("IN_STEP", in_step)
    program = cwd / "program.py"
    program.write_text(text.replace("COMPARES", str(compares)), encoding="utf-8")
    own = {"OMP_NUM_THREADS": "1", "TRACKER_VIZ_CACHE": str(cwd / "cache")}
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=cwd,
        env=os.environ | own | environment,
        capture_output=True,
        encoding="utf-8",
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "done"


# Every setting takes part once, with those that it can come together with: a process costs seconds.
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(
            {
                "before": NUMPY_RAISES,
                "after": "torch.set_default_dtype(torch.float64); torch.set_default_device('meta')",
                "compares": True,
            }
            | NOTEBOOK
            | ASCII
            | WARNINGS_RAISE,
            id="a notebook's backend, ASCII, errors for warnings, doubles on another device",
        ),
        pytest.param(
            {
                "before": STYLED,
                "after": "torch.set_default_dtype(torch.float16)",
                "in_step": "os.makedirs('away', exist_ok=True); os.chdir('away')",
                "compares": True,
            }
            | NO_PACKAGE,
            id="a backend that lacks its package, a style, half precision, chdir",
        ),
    ],
)
def test_a_process_can_be_set_up_in_any_way(tmp_path, settings):
    run_program(tmp_path, **settings)
