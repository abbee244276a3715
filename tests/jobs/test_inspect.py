"""``tracker-viz inspect``: the dry run as a command."""

from __future__ import annotations

import os
from pathlib import Path

BUILDER = """
from tracker_viz.demo.model import Decoder, ModelConfig

def build():
    return Decoder(ModelConfig(n_blocks=2, n_heads=2, n_kv_heads=2, d_model=16, d_ffn=24,
                               context_length=32, vocab_size=40))
"""


def test_a_model_is_inspected_from_the_command_line_and_nothing_is_left(tracker_viz):
    Path("my_model_of_inspect.py").write_text(BUILDER)
    result = tracker_viz("inspect", "model=my_model_of_inspect.build", "every=5", "total_steps=11")
    assert result.code == 0, result.err
    assert "blocks.0 to 1: 2 heads, 2 key/value heads" in result.out
    assert "tokens.weight" in result.out
    assert "captures: 4 in 11 steps" in result.out
    assert not Path("spool").exists()
    assert not Path("mlflow.db").exists()
    assert [name for name in os.listdir() if name.endswith(".safetensors")] == []


def test_a_misspelled_option_is_named_with_the_near_one(tracker_viz):
    result = tracker_viz("inspect", "model=my_model.build", "evry=5")
    assert result.code == 2
    assert "unknown option 'evry'; did you mean 'every'" in result.err


def test_its_help_says_what_each_option_means(tracker_viz):
    result = tracker_viz("inspect", "--help")
    assert "total_steps=null" in result.out
    assert "Total seconds that captures may take" in result.out
