"""A small LLaMA-style decoder, its data and its training loop, for ``train.py``.

    model.py       the decoder
    data.py        text and repeated random spans -> batches of tokens
    trainer.py     the training loop
    checkpoint.py  everything a resumed run needs, in one safetensors file
    rebuilt.py     model, checkpoints and held-out rows of a finished run, for ``pipeline.verify``

Replace it with your own model and loop.
"""

from tracker_viz.demo.checkpoint import Checkpoint, CheckpointUploader, fetch_latest
from tracker_viz.demo.data import BOS, SPAN_TOKENS, DataConfig, Mixture
from tracker_viz.demo.model import Decoder, ModelConfig
from tracker_viz.demo.rebuilt import stored_training
from tracker_viz.demo.trainer import Trainer, TrainerConfig, choose_device

__all__ = [
    "BOS",
    "SPAN_TOKENS",
    "Checkpoint",
    "CheckpointUploader",
    "DataConfig",
    "Decoder",
    "Mixture",
    "ModelConfig",
    "Trainer",
    "TrainerConfig",
    "choose_device",
    "fetch_latest",
    "stored_training",
]
