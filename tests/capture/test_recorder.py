"""When captures are taken, and what they hold."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from plain_decoders import VOCAB, FusedAttention, Model, Residual, T, by_kernel, two_layers
from torch import nn

from tracker_viz import capture_file
from tracker_viz.capture import CaptureOptions, CostLimit, Governor, Schedule, make_probe, record
from tracker_viz.capture.discover.limits import context_length, learned_positions, vocab_size
from tracker_viz.capture.probe import DEFAULT_SCORE_ROWS
from tracker_viz.errors import CaptureError, ConfigError, ProbeError, UnsupportedModelError
from tracker_viz.metrics import WEIGHT_NAME


def tiny(n_blocks=2):
    torch.manual_seed(0)
    return Model(lambda _: Residual(FusedAttention(by_kernel), two_layers()), n_blocks)


def probe():
    return make_probe(VOCAB, T, text_ids=range(T))


def recorded(model, schedule, **options):
    captures = []
    return record(model, probe(), schedule, captures.append, **options), captures


def train_step(model, optimizer):
    ids = torch.randint(VOCAB, (2, T))
    loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


def train(model, recorder, steps, *, first=1, **extra):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(first, first + steps):
        loss = train_step(model, optimizer)
        recorder.step(step, loss=loss, **extra)


# -- when ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 1])
def test_a_loop_that_counts_from_zero_or_one_gives_the_same_steps(first):
    model = tiny()
    recorder, captures = recorded(model, Schedule.every(3, total_steps=9))
    train(model, recorder, 9, first=first)
    recorder.close()
    assert [capture.step for capture in captures] == [0, 3, 6, 9]


def test_step_zero_is_the_untrained_model_and_carries_the_first_loss():
    model = tiny()
    before = model.blocks[0].attn.c_proj.weight.detach().clone().numpy()
    recorder, captures = recorded(model, Schedule.at([2]))
    train(model, recorder, 2)
    recorder.close()
    assert np.array_equal(captures[0].arrays["blocks.0.attn.w_o"], before)
    assert not np.array_equal(captures[1].arrays["blocks.0.attn.w_o"], before)
    assert captures[0].metrics["loss"] > 0


def test_a_training_that_ends_early_still_shows_its_last_step():
    model = tiny()
    recorder, captures = recorded(model, Schedule.for_total(1000, captures=4))
    train(model, recorder, 5)
    recorder.close()
    recorder.close()
    assert [capture.step for capture in captures] == [0, 5]
    assert captures[-1].metrics["loss"] > 0


def test_an_error_in_training_closes_the_recorder_and_is_not_hidden():
    model = tiny()
    captures = []

    def broken_training():
        with record(model, probe(), Schedule.every(10), captures.append) as recorder:
            train(model, recorder, 3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken_training()
    assert [capture.step for capture in captures] == [0, 3]


def test_no_step_at_all_leaves_the_untrained_model():
    model = tiny()
    with recorded(model, Schedule.every(10))[0] as recorder:
        pass
    assert recorder.captured_steps == [0]


def test_a_resumed_run_goes_on_and_captures_nothing_twice():
    model = tiny()
    recorder, captures = recorded(
        model, Schedule.every(2, total_steps=8), start_step=4, captured=[0, 2, 4]
    )
    train(model, recorder, 4, first=5)
    recorder.close()
    assert [capture.step for capture in captures] == [6, 8]
    assert recorder.captured_steps == [0, 2, 4, 6, 8]
    recorder, captures = recorded(tiny(), Schedule.every(2), start_step=5, captured=[0, 2, 4])
    recorder.close()
    assert captures == [], "it is resumed between two due steps"


def test_a_pretrained_model_is_captured_where_it_joins():
    recorder, captures = recorded(tiny(), Schedule.every(2), start_step=5)
    recorder.close()
    assert [capture.step for capture in captures] == [5]


def test_a_counter_that_stands_still_under_gradient_accumulation_is_no_new_step():
    model = tiny()
    recorder, captures = recorded(model, Schedule.every(2), counts_from=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for micro_step in range(12):
        recorder.step((micro_step + 1) // 3, loss=train_step(model, optimizer))
    recorder.close()
    assert [capture.step for capture in captures] == [0, 2, 4]


def test_counters_of_other_whole_number_types_do_too():
    recorder, captures = recorded(
        tiny(), Schedule.every(np.int64(2), total_steps=torch.tensor(4)), start_step=np.int32(0)
    )
    for step in (np.int64(1), torch.tensor(2), np.uint8(3), 4):
        recorder.step(step, tokens_seen=torch.tensor(16 * int(step)))
    recorder.close()
    assert [capture.step for capture in captures] == [0, 2, 4]
    assert {type(capture.step) for capture in captures} == {int}
    assert [capture.tokens_seen for capture in captures] == [0, 32, 64]
    assert len(capture_file.to_bytes(captures[1])) > 0


@pytest.mark.parametrize("counter", ["1", None, 2.5, -1])
def test_a_step_that_is_no_number_is_refused_at_the_first_call_and_ignored_later(counter, caplog):
    refusal = rf"step must be a whole number of at least 0; got {counter!r}"
    with pytest.raises(ConfigError, match=refusal):
        recorded(tiny(), Schedule.every(1))[0].step(counter)

    recorder, captures = recorded(tiny(), Schedule.every(2))
    for step in (1, counter, 2, counter, 3, 4, 5, counter):
        recorder.step(step)
    recorder.close()
    assert [capture.step for capture in captures] == [0, 2, 4, 5]
    assert caplog.text.count("such calls are ignored") == 1


def test_a_counter_that_begins_anew_with_every_epoch_is_noticed(caplog):
    recorder, captures = recorded(tiny(), Schedule.every(4))
    for _epoch in range(3):
        for step in range(6):
            recorder.step(step)
    recorder.close()
    assert caplog.text.count("step went back from 5 to 0") == 1
    assert (
        "the next capture is at step 7; pass a counter that does not restart each epoch"
        in caplog.text
    )
    # The end of the second epoch is step 12, and that of the third 18: not 6 again.
    assert [capture.step for capture in captures] == [0, 4]


def test_a_counter_that_goes_back_after_the_last_due_step_names_no_further_one(caplog):
    recorder, captures = recorded(tiny(), Schedule.every(2, total_steps=4))
    for _epoch in range(2):
        for step in range(6):
            recorder.step(step)
    recorder.close()
    assert "so none is due any more; pass a counter" in caplog.text
    assert [capture.step for capture in captures] == [0, 2, 4]


def test_a_counter_that_went_back_and_catches_up_is_captured_at_the_end():
    recorder, captures = recorded(tiny(), Schedule.every(4))
    for step in (1, 2, 3, 2, 3, 4, 5, 6):
        recorder.step(step)
    recorder.close()
    assert [capture.step for capture in captures] == [0, 4, 6]


def test_weights_that_are_no_longer_the_last_steps_are_not_captured_as_that():
    recorder, captures = recorded(tiny(), Schedule.every(4))
    for step in range(1, 7):
        recorder.step(step)
    recorder.forget_latest()
    recorder.close()
    assert [capture.step for capture in captures] == [0, 4]


def test_a_loop_that_calls_only_now_and_then_is_captured_at_the_next_call_after_a_due_step():
    model = tiny()
    recorder, captures = recorded(model, Schedule.every(10))
    for step in range(7, 40, 7):
        recorder.step(step)
    recorder.close()
    assert [capture.step for capture in captures] == [0, 14, 21, 35]


def test_off_due_steps_the_model_is_not_run():
    model = tiny()
    recorder, _ = recorded(model, Schedule.every(100))
    runs = []
    model.register_forward_hook(lambda *_: runs.append(1))
    for step in range(1, 100):
        recorder.step(step, loss=torch.tensor(1.0))
    assert runs == []
    recorder.step(100)
    assert runs == [1]


def test_the_governor_leaves_out_due_steps_and_says_so(caplog):
    now = [0.0]
    schedule = Schedule.every(1, total_steps=200)
    governor = Governor(schedule, CostLimit(0.1, free_s=0), clock=lambda: now[0])
    recorder, captures = recorded(Clocked(now, 5.0), schedule, governor=governor)
    with caplog.at_level(logging.INFO, "tracker_viz.capture"):
        train_to_the_end(recorder, now, 200)
    assert captures[-1].step == 200
    assert 3 <= len(captures) <= 6
    assert governor.overhead <= 0.12
    assert caplog.text.count(": steps are skipped ") == 1  # once is enough
    left_out = f"{len(captures)} captures ({201 - len(captures)} due steps left out) took "
    assert left_out in caplog.text
    assert caplog.text.count("10 % of the wall time (max_overhead)") == 2


class Clocked(nn.Module):
    """A pass takes ``pass_s`` seconds of a clock that is turned by hand."""

    def __init__(self, now, pass_s):
        super().__init__()
        self.inner = tiny()

        def turn():
            now[0] += pass_s

        self.turn = turn

    def forward(self, ids):
        self.turn()
        return self.inner(ids)


@pytest.mark.parametrize(("threads", "counts"), [(2, True), (1, False)])
def test_what_is_done_behind_the_sink_counts_where_training_keeps_every_core_busy(
    threads, counts, monkeypatch
):
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: {0, 1})
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    now, behind_s = [0.0], [0.0]
    schedule = Schedule.every(10, total_steps=1000)
    governor = Governor(
        schedule,
        CostLimit(0.1, free_s=0),
        clock=lambda: now[0],
        background_s=lambda: behind_s[0],
    )
    recorder, captures = recorded(Clocked(now, 0.5), schedule, governor=governor)
    for step in range(1, 1001):
        now[0] += 1.0
        taken = len(captures)
        recorder.step(step)
        behind_s[0] += 2.5 * (len(captures) - taken)
        now[0] += 2.5 * (len(captures) - taken) * counts  # and training takes longer for it
    recorder.close()
    assert len(captures) == pytest.approx(1000 * 0.11 / 3.0 if counts else 101, abs=4)
    assert governor.overhead == pytest.approx(0.1 if counts else 0.05, abs=0.01)


def test_time_between_watching_and_training_pays_for_no_capture():
    now = [0.0]
    schedule = Schedule.every(1, total_steps=200)
    governor = Governor(schedule, CostLimit(0.1, free_s=0), clock=lambda: now[0])
    recorder, captures = recorded(Clocked(now, 1.0), schedule, governor=governor)
    now[0] += 10_000.0  # data are prepared, the model is compiled
    for step in range(1, 201):
        now[0] += 1.0
        recorder.step(step)
    assert len(captures) < 30


def train_to_the_end(recorder, now, n_steps):
    """Train steps of a second each."""
    for step in range(1, n_steps + 1):
        now[0] += 1.0
        recorder.step(step)
    recorder.close()


def test_at_the_end_every_capture_is_accounted_for(caplog):
    now = [0.0]
    schedule = Schedule.at([10, 90])
    governor = Governor(schedule, CostLimit(), clock=lambda: now[0])
    recorder, captures = recorded(Clocked(now, 2.0), schedule, governor=governor)
    with caplog.at_level(logging.INFO, "tracker_viz.capture"):
        train_to_the_end(recorder, now, 99)
    assert len(captures) == 4
    assert (
        "4 captures took 6.0 s, within the 30 s that any run may use (free_s); 5.8 % of the wall "
        "time" in caplog.text
    )


def test_steps_that_were_chosen_by_hand_are_kept_and_their_price_is_said_once(caplog):
    now = [0.0]
    schedule = Schedule.every(5)
    governor = Governor(schedule, None, clock=lambda: now[0])
    recorder, captures = recorded(Clocked(now, 4.0), schedule, governor=governor)
    with caplog.at_level(logging.INFO, "tracker_viz.capture"):
        train_to_the_end(recorder, now, 100)
    assert [capture.step for capture in captures] == list(range(0, 101, 5))
    prices = [line for line in caplog.messages if "all chosen steps are captured" in line]
    assert len(prices) == 1
    assert "max_overhead=0.02 would skip some" in prices[0]
    assert "21 captures took 45 % of the wall time, 80.0 s; no limit" in caplog.text


def test_what_captures_took_beyond_their_free_seconds_is_said_with_the_limit(caplog):
    now = [0.0]
    schedule = Schedule.at([100, 4000])
    governor = Governor(schedule, CostLimit(), clock=lambda: now[0])
    recorder, _ = recorded(Clocked(now, 20.0), schedule, governor=governor)
    with caplog.at_level(logging.INFO, "tracker_viz.capture"):
        train_to_the_end(recorder, now, 4000)
    assert (
        "3 captures took 0.99 % of the wall time, 40.0 s; the limit is 2 % of the wall time "
        "(max_overhead) or 30 s in all (free_s), whichever is more" in caplog.text
    )


# -- what ------------------------------------------------------------------------------------------


def test_a_capture_describes_itself():
    model = tiny()
    recorder, captures = recorded(model, Schedule.every(1))
    train(model, recorder, 1, tokens_seen=32, lr=torch.tensor(0.1), grad_norm=2)
    recorder.close()
    capture = captures[1]
    assert capture.tokens_seen == 32
    assert capture.metrics["lr"] == pytest.approx(0.1)
    assert capture.metrics["grad_norm"] == 2.0
    pattern = capture.arrays["blocks.1.attn.pattern"]
    assert (pattern.shape, pattern.dtype, capture.axes["blocks.1.attn.pattern"]) == (
        (2 + DEFAULT_SCORE_ROWS, 4, T, T),
        np.float16,
        ("probe", "head", "query", "key"),
    )
    np.testing.assert_allclose(pattern.astype(np.float32).sum(-1), 1, atol=2e-3)
    assert capture.axes["blocks.0.mlp.w_in"] == ("out", "in")
    assert capture.arrays["blocks.0.mlp.w_in"].shape == (128, 32)
    assert capture.labels["probe"][:3] == ("repeated", "text", "repeated 2")
    assert {
        name: capture.model[name]
        for name in ("name", "n_blocks", "n_heads", "n_kv_heads", "d_model", "d_mlp")
    } == {
        "name": "Model",
        "n_blocks": 2,
        "n_heads": 4,
        "n_kv_heads": 4,
        "d_model": 32,
        "d_mlp": 128,
    }
    assert capture.model["n_parameters"] == sum(
        parameter.numel() for parameter in model.parameters()
    )
    assert capture.model["found"]["blocks"] == ["blocks.0", "blocks.1"]


def test_what_was_found_is_said_once(caplog):
    with caplog.at_level(logging.INFO, "tracker_viz.capture"):
        recorder, _ = recorded(tiny(), Schedule.every(1))
        recorder.step(1)
    said = [
        record.getMessage()
        for record in caplog.records
        if "2 blocks (blocks.0 .. 1)" in record.getMessage()
    ]
    assert len(said) == 1
    assert "attn.w_q, attn.w_k, attn.w_v, attn.w_o, mlp.w_in, mlp.w_out" in said[0]


def test_where_no_log_is_set_up_what_was_found_is_printed(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        "from test_recorder import Schedule, probe, record, tiny\n"
        "recorder = record(tiny(), probe(), Schedule.every(1), lambda capture: None)\n"
        "recorder.step(1)\n"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=500,
        check=True,
    )
    assert (
        done.stderr.count(
            "tracker_viz: Model: 2 blocks (blocks.0 .. 1), 4 heads, 4 key/value heads"
        )
        == 1
    )


def weights_of(capture):
    """Return the names of the weights in a capture, without their blocks."""
    return {name.split(".", 2)[2] for name in capture.arrays if WEIGHT_NAME.fullmatch(name)}


def test_only_the_projections_asked_for_are_captured():
    recorder, captures = recorded(tiny(), Schedule.every(1), projections=["mlp.w_in"])
    recorder.close()
    assert weights_of(captures[0]) == {"mlp.w_in"}
    with pytest.raises(
        ConfigError,
        match=r"projections=\['mlp.w_gate'\] were not found; the model has attn.w_k, attn.w_o",
    ):
        recorded(tiny(), Schedule.every(1), projections=["mlp.w_gate"])


def test_projections_can_be_chosen_by_a_pattern_so_that_one_choice_fits_every_model():
    recorder, captures = recorded(tiny(), Schedule.every(1), projections=["mlp.*"])
    recorder.close()
    assert weights_of(captures[0]) == {"mlp.w_in", "mlp.w_out"}
    with pytest.raises(ConfigError, match=r"projections=\['mpl.\*'\] were not found"):
        recorded(tiny(), Schedule.every(1), projections=["mpl.*"])


def test_projections_may_be_named_by_hand():
    model = tiny()
    recorder, captures = recorded(
        model,
        Schedule.every(1),
        projections={"attn.w_qkv": "attn.c_attn", "mlp.w_in": "mlp.0.weight"},
    )
    recorder.close()
    assert weights_of(captures[0]) == {
        "attn.w_qkv",
        "mlp.w_in",
    }
    assert np.array_equal(
        captures[0].arrays["blocks.1.attn.w_qkv"],
        model.blocks[1].attn.c_attn.weight.detach().numpy(),
    )
    with pytest.raises(
        ConfigError,
        match=(
            r"projections=\['mlp.w_gate'\] were not found; the model has attn.c_attn.weight, "
            r".* mlp.0.weight"
        ),
    ):
        recorded(tiny(), Schedule.every(1), projections={"mlp.w_gate": "mlp.gate"})


def test_weights_are_sampled_to_the_budget_before_they_are_copied():
    recorder, captures = recorded(tiny(), Schedule.every(1), max_mb=0.005)
    recorder.close()
    weights = [
        array
        for name, array in captures[0].arrays.items()
        if captures[0].axes.get(name) == ("out", "in")
    ]
    assert sum(array.size for array in weights) * 2 <= 5000
    assert max(max(array.shape) for array in weights) > 8


def test_a_captured_weight_does_not_change_when_training_goes_on():
    model = tiny()
    recorder, captures = recorded(model, Schedule.every(1))
    recorder.step(1)
    before = captures[1].arrays["blocks.0.attn.w_o"].copy()
    with torch.no_grad():
        model.blocks[0].attn.c_proj.weight.zero_()
    assert np.array_equal(captures[1].arrays["blocks.0.attn.w_o"], before)


@pytest.mark.parametrize("n_tokens", [5000, 200])
def test_the_projection_to_the_logits_is_left_out_and_changes_nothing(n_tokens):
    torch.manual_seed(0)
    model = Model(lambda _: Residual(FusedAttention(by_kernel), two_layers()))
    model.tokens, model.head = nn.Embedding(n_tokens, 32), nn.Linear(32, n_tokens)
    seen = []
    model.register_forward_hook(
        lambda _module, _inputs, output: seen.append(float(output.abs().max()))
    )
    recorder, captures = recorded(model, Schedule.every(1), signals=[])
    recorder.step(1)
    assert (seen[0] > 0, seen[1]) == (True, 0.0)
    for name in captures[0].arrays:
        np.testing.assert_allclose(captures[0].arrays[name], captures[1].arrays[name], atol=1e-3)


@pytest.mark.parametrize("n_tokens", [96, 128, 32])
def test_projections_in_the_blocks_that_are_as_wide_as_the_vocabulary_are_computed(n_tokens):
    torch.manual_seed(0)
    model = Model(lambda _: Residual(FusedAttention(by_kernel), two_layers()))
    model.tokens, model.head = nn.Embedding(n_tokens, 32), nn.Linear(32, n_tokens)
    captures = []
    recorder = record(model, [list(range(T))], Schedule.every(1), captures.append)
    recorder.step(1)
    for name in captures[0].arrays:
        np.testing.assert_allclose(captures[0].arrays[name], captures[1].arrays[name], atol=1e-3)


# -- trouble ---------------------------------------------------------------------------------------


def test_a_failing_capture_never_reaches_training_and_is_logged_once(caplog):
    model = tiny()
    recorder, captures = recorded(model, Schedule.every(1))
    model.blocks[0].attn.attend = lambda q, k, v: v  # its attention is gone
    with caplog.at_level(logging.INFO, "tracker_viz.capture"):
        train(model, recorder, 10)
        recorder.close()
    assert [capture.step for capture in captures] == [0]
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 2
    assert errors[0].exc_info is not None
    assert "no attention was seen this time in blocks.0.attn" in str(errors[0].exc_info[1])
    assert "3 captures in a row failed: no more are taken" in errors[1].getMessage()


def test_failures_that_are_not_in_a_row_do_not_end_recording(caplog):
    model, captures = tiny(), []

    def sink(capture):
        if capture.step in (2, 4, 6):
            raise OSError("disk full")
        captures.append(capture.step)

    recorder = record(model, probe(), Schedule.every(1), sink)
    train(model, recorder, 7)
    assert captures == [0, 1, 3, 5, 7]
    assert recorder.captured_steps == [0, 1, 3, 5, 7]
    assert "could not capture step 2" in caplog.text


def test_layers_added_in_training_are_found(caplog):
    model = tiny()
    recorder, captures = recorded(model, Schedule.every(1))
    train(model, recorder, 1)
    model.blocks.append(Residual(FusedAttention(by_kernel), two_layers()))
    train(model, recorder, 1, first=2)
    assert [capture.model["n_blocks"] for capture in captures] == [2, 2, 3]
    assert "blocks.2.attn.pattern" in captures[2].arrays
    assert "the model's parameters were replaced" in caplog.text


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_model_that_is_nan_or_inf_from_the_start_is_captured_as_it_is(value):
    model = tiny()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    recorder, captures = recorded(model, Schedule.every(1))
    recorder.close()
    assert not np.isfinite(captures[0].arrays["blocks.0.mlp.w_in"]).any()
    assert np.isnan(captures[0].arrays["blocks.1.attn.pattern"]).any()


def test_nan_in_the_weights_is_shown_and_not_hidden():
    model = tiny()
    recorder, captures = recorded(model, Schedule.every(1))
    with torch.no_grad():
        model.blocks[0].attn.c_attn.weight.fill_(math.nan)
    recorder.step(1)
    assert np.isnan(captures[1].arrays["blocks.0.attn.w_q"]).all()
    assert np.isnan(captures[1].arrays["blocks.1.attn.pattern"]).any()


def test_a_metric_that_is_no_number_costs_itself_only(caplog):
    recorder, captures = recorded(tiny(), Schedule.every(1))
    recorder.step(1, loss=torch.ones(3), name="x", lr=0.5)
    assert captures[1].metrics == {"lr": 0.5}
    assert "metric loss must be one number; got a tensor of shape (3,)" in caplog.text
    assert "metric name must be one number; got 'x'" in caplog.text


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: recorded(tiny().to("meta"), Schedule.every(1)),
            UnsupportedModelError,
            "tokens.weight is on the meta device",
        ),
        (
            lambda: recorded(nn.Identity(), Schedule.every(1)),
            CaptureError,
            "Identity has no parameters",
        ),
        (
            lambda: recorded(nn.Embedding(VOCAB, 8), Schedule.every(1)),
            UnsupportedModelError,
            "no attention over the probe was seen in Embedding",
        ),
        (
            lambda: record(
                tiny(), torch.zeros(1, T + 1, dtype=torch.int64), Schedule.every(1), print
            ),
            ProbeError,
            "failed on the probe",
        ),
        (
            lambda: record(tiny(), [[1, 2, VOCAB]], Schedule.every(1), print),
            ProbeError,
            f"token id {VOCAB}; the model's vocabulary has {VOCAB}",
        ),
        (
            lambda: CaptureOptions(max_overhead=0),
            ConfigError,
            "max_overhead must be a number above 0 or null; got 0",
        ),
        (
            lambda: CaptureOptions(max_overhead="2%"),
            ConfigError,
            "max_overhead must be a number above 0 or null; got '2%'",
        ),
        (
            lambda: CaptureOptions(free_s=-1),
            ConfigError,
            "free_s must be a number of at least 0; got -1",
        ),
        (
            lambda: recorded(tiny(), Schedule.every(1), counts_from=2),
            ConfigError,
            "counts_from is 0 or 1",
        ),
        (
            lambda: recorded(tiny(), Schedule.every(1), start_step=2.5),
            ConfigError,
            "start_step must be a whole number .* got 2.5",
        ),
        (
            lambda: record(tiny(), "To be or not", Schedule.every(1), print),
            ProbeError,
            "this is text; tokenize it with the model's tokenizer",
        ),
        (
            lambda: recorded(nn.LazyLinear(3), Schedule.every(1)),
            UnsupportedModelError,
            "weight is not initialized yet",
        ),
    ],
)
def test_what_cannot_be_captured_is_refused_before_training(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_probe_whose_attention_would_fill_the_memory_is_refused_before_training(monkeypatch):
    monkeypatch.setattr(
        "tracker_viz.capture.discover.look.MAX_ATTENTION_BYTES", 2 * 4 * T * T * 2 * 2
    )  # two rows in two blocks
    recorded(tiny(2), Schedule.every(1))
    with pytest.raises(
        ProbeError,
        match=f"probe of 2 rows of {T} tokens needs more than .* fewer rows, or fewer tokens",
    ):
        recorded(tiny(3), Schedule.every(1))


def test_the_default_device_may_be_another_than_the_models():
    recorder, captures = recorded(tiny(), Schedule.every(1), max_mb=0.01)
    with torch.device("meta"):  # stands for a GPU
        recorder.step(1, loss=1.0)
    reference, expected = recorded(tiny(), Schedule.every(1), max_mb=0.01)
    reference.step(1)
    assert [capture.step for capture in captures] == [0, 1]
    for name, array in expected[1].arrays.items():
        np.testing.assert_array_equal(captures[1].arrays[name], array)


def test_a_model_may_be_moved_to_another_device_after_it_was_watched():
    model = tiny()
    recorder, _ = recorded(model, Schedule.every(1))
    model.to("meta")  # stands for a GPU
    assert recorder.camera.device.type == "meta"
    recorder.step(1)  # and nothing comes of it, as nothing is there
    assert recorder.camera._input_ids.device.type == "meta"


def test_a_probe_on_another_device_or_of_another_type_is_brought_along():
    captures = []
    record(
        tiny(), torch.randint(VOCAB, (2, T), dtype=torch.int32), Schedule.every(1), captures.append
    ).close()
    assert captures[0].arrays["blocks.0.attn.pattern"].shape == (2, 4, T, T)


def test_limits_are_read_from_the_configuration_or_the_embedding():
    class Configured(nn.Module):
        def __init__(self, **config):
            super().__init__()
            self.config = type("Config", (), config)()

    assert (
        vocab_size(Configured(vocab_size=7, block_size=5)),
        context_length(Configured(vocab_size=7, block_size=5)),
    ) == (7, 5)
    hooked = nn.Linear(2, 2)
    hooked.cfg = type("HookedTransformerConfig", (), {"d_vocab": 7, "n_ctx": 5})()
    assert (vocab_size(hooked), context_length(hooked)) == (7, 5)
    around = nn.Sequential(nn.Linear(2, 2), Configured(vocab_size=7, block_size=5))
    assert (vocab_size(around), context_length(around)) == (7, 5)
    assert (vocab_size(nn.Sequential(nn.Embedding(9, 2))), context_length(nn.Embedding(9, 2))) == (
        9,
        None,
    )
    assert (vocab_size(tiny()), learned_positions(tiny())) == (VOCAB, T), (
        "of two tables the head tells which is the tokens'"
    )
    assert learned_positions(nn.Sequential(nn.Embedding(9, 2), nn.Linear(2, 9))) is None
    assert (
        vocab_size(nn.Sequential(nn.Embedding(9, 2), nn.Embedding(5, 2), nn.Linear(2, 2))) is None
    ), "it makes no logits of these"


def failed_device(_device):
    raise RuntimeError("CUDA error: device-side assert triggered")


def test_a_device_that_ended_the_training_by_its_failure_does_not_hide_it(caplog, monkeypatch):
    """A failed CUDA device answers every later call, the wait for it before a capture among them,
    with the same error."""
    model = tiny()
    recorder, captures = recorded(model, Schedule.every(4))
    with pytest.raises(RuntimeError, match="out of memory"), recorder:
        train(model, recorder, 2)
        monkeypatch.setattr("tracker_viz.capture.recorder._wait_for", failed_device)
        raise RuntimeError("out of memory")
    assert [capture.step for capture in captures] == [0]
    assert "could not capture the last step, 2" in caplog.text


# -- after an alarm --------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 1])
def test_captures_come_densely_from_the_step_after_an_alarm_on(first):
    recorder, captures = recorded(tiny(), Schedule.every(100))
    model = recorder.camera.model
    train(model, recorder, 3, first=first)
    recorder.come_densely()
    train(model, recorder, 8, first=first + 3)
    recorder.come_densely()
    recorder.close()
    steps = [capture.step for capture in captures]
    assert steps == [0, 4, 5, 6, 7, 9, 11]


def test_a_closed_recorder_takes_no_dense_captures():
    recorder, captures = recorded(tiny(), Schedule.every(100))
    train(recorder.camera.model, recorder, 3)
    recorder.close()
    recorder.come_densely()
    train(recorder.camera.model, recorder, 2, first=4)
    assert [capture.step for capture in captures] == [0, 3]
