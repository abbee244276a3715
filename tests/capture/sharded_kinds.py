"""The ways of sharding on the page of supported models; ``test_distributed.py`` holds the page to
what it runs."""

from __future__ import annotations

# kind of ``distributed_training.py`` -> (how it is sharded, what is captured)
CAPTURED = {
    "ddp": ("DistributedDataParallel", "by the first process alone; the others wait for nothing"),
    "fsdp2": ("FSDP2 (`fully_shard`)", "as the whole model, map by map"),
    "fsdp1": ("FSDP1 (`FullyShardedDataParallel`)", "as the whole model, block by block"),
    "fsdp1_flat": ("FSDP1, `use_orig_params=False`, unwrapped blocks", "as the whole model"),
    "fsdp2_mixed": ("FSDP2, gathered in bfloat16", "in the precision of the pass"),
    "fsdp2_compiled": ("FSDP2, copies of shards, compiled block by block", "uncompiled"),
    "accelerate": ("accelerate, DDP, bfloat16", "by the first process alone"),
    "accelerate_fsdp2": ("accelerate, FSDP2", "as FSDP2"),
    "tensor_parallel": (
        "tensor parallel (`parallelize_module`, DTensor)",
        "as the whole model, map by map: the heads and neurons of all processes",
    ),
    "tensor_parallel_fsdp2": ("tensor parallel inside FSDP2", "as tensor parallel"),
}
# The same, of what is no dependency of the tests: ``test_zero3.py`` runs where it is installed.
BY_HAND = {
    "DeepSpeed ZeRO-3 (0.19.8)": "as the whole model, block by block; tried by hand",
}
REFUSED = {
    "tensor parallel where heads cannot be told": "refused, or `backfill` from checkpoints",
}


def sharded_lines():
    """Return the rows of the page's table."""
    lines = [f"| {how} | {what} |" for how, what in CAPTURED.values()]
    return lines + [f"| {how} | {what} |" for how, what in (BY_HAND | REFUSED).items()]
