"""Capture in trainings of two processes: DDP, FSDP2 and accelerate under torchrun, over gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sharded_kinds import CAPTURED, sharded_lines

from tracker_viz.capture import distributed

KINDS = list(CAPTURED)
SCRIPT = Path(__file__).with_name("distributed_training.py")


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Return the reports of two processes, and the directory with the captured arrays."""
    directory = tmp_path_factory.mktemp("distributed")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node=2",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=localhost:0",
    ]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [*command, SCRIPT, directory],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((directory / f"rank{rank}.json").read_text()) for rank in (0, 1)], directory


@pytest.mark.parametrize("kind", [*KINDS, "fsdp2_late"])
def test_the_loss_curve_is_the_same_to_the_bit_on_every_process(two_processes, kind):
    for report in two_processes[0]:
        assert report[kind]["with"] == report[kind]["without"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_process_records_and_the_other_does_not(two_processes, kind):
    first, second = two_processes[0]
    assert first[kind]["steps"] == [0, 2, 4, 6]
    assert second[kind]["steps"] == []
    assert first[kind]["model"] == "Model"


def test_a_model_that_is_sharded_after_it_was_watched_is_left_alone(two_processes):
    first, second = two_processes[0]
    assert (first["fsdp2_late"]["steps"], second["fsdp2_late"]["steps"]) == ([0], [])


def test_a_forward_that_was_put_on_an_fsdp1_module_is_there_after_every_capture(two_processes):
    for report in two_processes[0]:
        assert report["fsdp1"]["counts"] == [6], "every step of the training, and no probe"


def test_under_ddp_the_other_process_runs_no_probe_and_waits_for_nothing(two_processes):
    first, second = two_processes[0]
    assert first["ddp"]["counts"] == [6 + 5, None], "two passes at the first look"
    assert second["ddp"]["counts"] == [6, 0], "no probe, and nothing that the processes do together"


@pytest.mark.parametrize("kind", ["fsdp2", "fsdp1", "fsdp1_flat"])
@pytest.mark.parametrize("step", [0, 6])
def test_a_sharded_model_shows_what_the_whole_model_shows(two_processes, step, kind):
    whole, sharded = (np.load(two_processes[1] / f"{each}-{step}.npz") for each in ("ddp", kind))
    assert set(whole) == set(sharded)
    assert "blocks.0.mlp.w_gate" in set(whole)
    first = two_processes[0][0]
    assert first[kind]["n_parameters"] == first["ddp"]["n_parameters"]
    for name in whole:
        np.testing.assert_allclose(
            sharded[name], whole[name], atol=1e-3 if name.endswith("pattern") else 1e-5
        )


@pytest.mark.parametrize("kind", ["tensor_parallel", "tensor_parallel_fsdp2"])
@pytest.mark.parametrize("step", [0, 6])
def test_heads_and_neurons_of_all_processes_are_those_of_the_whole_model(two_processes, kind, step):
    whole, split = (
        np.load(two_processes[1] / f"{each}-{step}.npz") for each in ("heads_whole", kind)
    )
    assert set(whole) == set(split)
    assert {"blocks.1.attn.pattern", "blocks.1.attn.w_q", "blocks.1.mlp.w_out.peak"} <= set(whole)
    assert whole["blocks.1.attn.pattern"].shape[1] == 4
    for name in whole:
        atol = 1e-3 if name.endswith("pattern") else 1e-4
        if name.endswith("norms"):
            atol = 0.02 * float(np.abs(whole[name]).max())
        np.testing.assert_allclose(split[name], whole[name], atol=atol, rtol=1e-4)


@pytest.mark.parametrize(
    "layout",
    [
        "rows",
        "columns",
        "copies of shards",
        "shards of one copy",
        "copies",
        "experts",
        "rows of experts",
    ],
)
def test_of_a_sharded_weight_no_more_goes_over_the_wire_than_is_kept_of_it(two_processes, layout):
    for report in two_processes[0]:
        difference, nbytes, whole, _ = report["reads"][layout]
        assert difference < 1e-6
        assert nbytes in (0, 7 * 5 * 4)  # 0: every process holds it, or its share of the mesh does
        assert nbytes < whole / 50
    if layout in ("rows", "columns", "shards of one copy", "experts", "rows of experts"):
        assert nbytes > 0


def test_a_weight_laid_out_in_another_way_is_gathered_whole(two_processes):
    for report in two_processes[0]:
        difference, nbytes, _, _ = report["reads"]["both axes"]
        assert difference < 1e-6
        assert nbytes > 0


@pytest.mark.parametrize(
    "layout",
    [
        "rows",
        "columns",
        "copies of shards",
        "shards of one copy",
        "copies",
        "experts",
        "rows of experts",
        "both axes",
    ],
)
def test_norms_of_a_sharded_weight_are_those_of_the_whole(two_processes, layout):
    for report in two_processes[0]:
        assert (
            report["reads"][layout][3] < 0.02
        )  # noise; where columns are sharded, Lanczos begins from the matrix's other side


def test_processes_whose_clocks_disagree_agree_on_when_to_capture(two_processes):
    assert [report["disagreeing clocks"] for report in two_processes[0]] == [[0, 2, 6], []]


def test_steps_that_only_the_main_process_knows_to_be_captured_are_left_out_by_all(two_processes):
    assert [report["resumed"] for report in two_processes[0]] == [[2, 6], []]


def test_a_full_disk_on_one_process_stops_neither(two_processes):
    for report in two_processes[0]:
        assert report["full disk"]["with"] == report["fsdp2"]["with"]


def test_split_layers_whose_heads_cannot_be_told_are_refused_on_each_process(two_processes):
    for report in two_processes[0]:
        assert (
            "split over processes (tensor parallelism), and it is unknown which process has"
            in report["refused"]
        )
        assert "tracker-viz backfill" in report["refused"]


def test_the_module_of_a_sharded_model_that_is_first_not_finite_is_named(two_processes):
    (name, found), (_, other) = (report["broken parameter"] for report in two_processes[0])
    assert found == [None, f"{name.removesuffix('.weight')} (its parameter weight is not finite)"]
    assert other == []


def test_the_launchers_rank_counts_before_the_process_group_is_up(monkeypatch):
    assert not torch.distributed.is_initialized()
    monkeypatch.setenv("RANK", "1")
    assert not distributed.is_main_process()
    monkeypatch.setenv("RANK", "0")
    assert distributed.is_main_process()


def test_the_page_of_supported_models_lists_the_ways_of_sharding_that_are_tested():
    page = (Path(__file__).parents[2] / "docs" / "pages" / "supported_models.md").read_text()
    assert "\n".join(sharded_lines()) in page, (
        "run: python tests/capture/hf_decoders.py > docs/pages/supported_models.md"
    )
