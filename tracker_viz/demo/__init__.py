"""A small LLaMA-style decoder, its data and its training loop, for ``train.py``.

    model.py       the decoder
    data.py        text and repeated random spans -> batches of tokens
    trainer.py     the training loop
    checkpoint.py  everything a resumed run needs, in one safetensors file

Your own model and loop take its place.
"""

from tracker_viz.demo.checkpoint import Checkpoint, CheckpointUploader, fetch_latest
from tracker_viz.demo.data import BOS, SPAN_TOKENS, VOCAB_SIZE, DataConfig, Mixture, token_text
from tracker_viz.demo.model import Decoder, ModelConfig
from tracker_viz.demo.trainer import Trainer, TrainerConfig

__all__ = [
    "BOS",
    "SPAN_TOKENS",
    "VOCAB_SIZE",
    "Checkpoint",
    "CheckpointUploader",
    "DataConfig",
    "Decoder",
    "Mixture",
    "ModelConfig",
    "Trainer",
    "TrainerConfig",
    "fetch_latest",
    "token_text",
]
