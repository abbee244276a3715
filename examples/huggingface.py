"""One callback in the Hugging Face Trainer: a small Llama with random weights, trained on bytes,
watched into MLflow.

python examples/huggingface.py          # needs transformers and accelerate, no download
"""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

import tracker_viz as tv
from tracker_viz.integrations.hf import TrackerVizCallback


def rows(length: int = 64) -> list[dict[str, torch.Tensor]]:
    """The sources of tracker_viz itself, as token ids that are bytes."""
    text = b"".join(path.read_bytes() for path in sorted(Path(tv.__file__).parent.rglob("*.py")))
    return [
        {"input_ids": row, "labels": row}
        for row in torch.frombuffer(bytearray(text), dtype=torch.uint8).long().split(length)[:-1]
    ]


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
    callback = TrackerVizCallback(
        max_overhead=1.0
    )  # a step of so small a model takes less time than a capture of it
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
    tv.render(callback.watcher.ref)


if __name__ == "__main__":
    main()
