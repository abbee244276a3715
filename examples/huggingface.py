"""Watch a small Llama in the Hugging Face Trainer with one callback, and log to MLflow.

    pip install transformers accelerate
    python examples/huggingface.py

The model starts from random weights and learns to predict bytes. Nothing is downloaded.
"""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

import tracker_viz as tv
from tracker_viz.integrations.hf import TrackerVizCallback


def rows(length: int = 64) -> list[dict[str, torch.Tensor]]:
    """Return the source code of tracker_viz as training rows; each byte is one token."""
    sources = sorted(Path(tv.__file__).parent.rglob("*.py"))
    text = bytearray(b"".join(path.read_bytes() for path in sources))
    ids = torch.frombuffer(text, dtype=torch.uint8).long().split(length)
    return [{"input_ids": row, "labels": row} for row in ids[:-1]]


def main(steps: int = 300) -> None:
    """Train, and render the video into the same run."""
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=172,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    callback = TrackerVizCallback()
    arguments = TrainingArguments(
        "outputs",
        report_to="mlflow",
        max_steps=steps,
        learning_rate=1e-3,
        logging_steps=10,
        save_strategy="no",
    )
    trainer = Trainer(
        LlamaForCausalLM(config), arguments, train_dataset=rows(), callbacks=[callback]
    )
    trainer.train()
    tv.render(callback.watcher)


if __name__ == "__main__":
    main()
