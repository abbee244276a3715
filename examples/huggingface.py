"""Watch a small Llama in the Hugging Face Trainer with one callback, and log to MLflow.

The model starts from random weights and learns bytes.

python examples/huggingface.py          # needs transformers and accelerate, no download
"""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

import tracker_viz as tv
from tracker_viz.integrations.hf import TrackerVizCallback


def rows(length: int = 64) -> list[dict[str, torch.Tensor]]:
    """Return the sources of tracker_viz itself, as token ids that are bytes."""
    sources = sorted(Path(tv.__file__).parent.rglob("*.py"))
    text = bytearray(b"".join(path.read_bytes() for path in sources))
    ids = torch.frombuffer(text, dtype=torch.uint8).long().split(length)
    return [{"input_ids": row, "labels": row} for row in ids[:-1]]


def main(steps: int = 300) -> None:
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
    Trainer(
        LlamaForCausalLM(config),
        TrainingArguments(
            "outputs",
            report_to="mlflow",
            max_steps=steps,
            learning_rate=1e-3,
            logging_steps=10,
            save_strategy="no",
        ),
        train_dataset=rows(),
        callbacks=[callback],
    ).train()
    tv.render(callback.watcher)


if __name__ == "__main__":
    main()
