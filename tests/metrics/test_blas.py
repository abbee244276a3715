"""Scoring leaves the cores to training."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from tracker_viz.metrics import Scorer
from tracker_viz.metrics.blas import _numpys_blas, one_blas_thread
from tracker_viz.metrics.weights import weight_scores
from tracker_viz.types import Capture


def threads():
    return [library["num_threads"] for library in _numpys_blas().info()]


def others():
    mine = {library["filepath"] for library in _numpys_blas().info()}
    return [
        (library["filepath"], library["num_threads"])
        for library in threadpool_info()
        if library["filepath"] not in mine
    ]


def in_a_thread(work, *arguments):
    thread = threading.Thread(target=work, args=arguments)
    thread.start()
    thread.join()


@pytest.fixture
def two_threads():
    if not _numpys_blas().info():
        pytest.skip("this numpy brings no BLAS of its own whose threads could be told")
    (library,) = _numpys_blas().lib_controllers
    before = library.get_num_threads()
    # threadpoolctl lets one living thread at a time change this: here one that ends, so that the
    # scoring thread may next.
    in_a_thread(library.set_num_threads, 2)
    yield
    in_a_thread(library.set_num_threads, before)


@pytest.mark.usefixtures("two_threads")
def test_numpys_linear_algebra_starts_no_threads_inside_and_no_other_library_is_touched():
    before = others()
    with one_blas_thread():
        assert threads() == [1]
        assert others() == before
    assert threads() == [2]


@pytest.mark.usefixtures("two_threads")
def test_scores_are_worked_out_on_the_calling_thread_alone(monkeypatch):
    seen = []
    whole = weight_scores.singular_values
    monkeypatch.setattr(
        weight_scores, "singular_values", lambda matrix: [seen.append(threads()), whole(matrix)][1]
    )
    matrix = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    capture = Capture(
        step=0, arrays={"blocks.0.mlp.w_in": matrix}, axes={"blocks.0.mlp.w_in": ("out", "in")}
    )
    in_a_thread(Scorer(), capture)
    assert seen == [[1]]
    assert threads() == [2]


def test_torchs_threads_are_left_as_they_are():
    program = """
import torch, tracker_viz.metrics.blas as blas
torch.set_num_threads(2)
with blas.one_blas_thread():
    paths = [library["filepath"] for library in blas._numpys_blas().info()]
    print(torch.get_num_threads(), sum("torch" in path for path in paths))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["2", "0"]
