"""Capture under DeepSpeed ZeRO-3, over gloo, where DeepSpeed is installed: it is no dependency of
the tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("deepspeed")
SCRIPT = Path(__file__).with_name("zero3_training.py")


def test_partitioned_parameters_are_captured_whole_and_training_is_the_same_to_the_bit(tmp_path):
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2"]
    rendezvous = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    done = subprocess.run(
        [sys.executable, *launcher, *rendezvous, SCRIPT, tmp_path],
        env=os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first["with"] == first["without"]
    assert second["with"] == second["without"]
    assert (first["steps"], second["steps"]) == ([0, 2, 4], [])

    whole, sharded = (np.load(tmp_path / f"{kind}.npz") for kind in ("whole", "sharded"))
    assert set(whole) == set(sharded)
    assert {"blocks.1.attn.pattern", "blocks.1.attn.w_q", "blocks.1.mlp.w_down"} <= set(whole)
    for name in whole:
        np.testing.assert_allclose(sharded[name], whole[name], atol=1e-3)
    of_sharded, of_whole = first["models"]
    for described in ("name", "n_parameters", "n_heads", "d_mlp"):
        assert of_sharded[described] == of_whole[described]
