"""Run by torchrun with two processes: trains under DDP, FSDP2 and accelerate, with and without
capture, and writes what came of it.

torchrun --nproc_per_node 2 distributed_training.py <output directory>
"""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).parent))
from plain_decoders import (
    DK,
    VOCAB,
    D,
    FusedAttention,
    GroupedAttention,
    H,
    Model,
    Residual,
    SwappedGate,
    T,
    by_kernel,
    merge,
    split,
    two_layers,
)

from tracker_viz.capture import CostLimit, Governor, Schedule, make_probe, record
from tracker_viz.capture.weights.matrices import POOLINGS, Projection, read
from tracker_viz.capture.weights.norms import krylov, norms
from tracker_viz.errors import UnsupportedModelError

STEPS = 6


def make_model():
    torch.manual_seed(0)
    kinds = [
        lambda: (GroupedAttention(noted=False), SwappedGate()),
        lambda: (FusedAttention(by_kernel, noted=False), two_layers()),
    ]
    return Model(lambda index: Residual(*kinds[index]()))


def train(
    trained,
    parameters,
    *,
    capture,
    sink=None,
    backward=None,
    after_step=None,
    counted=None,
    same_data=False,
    **options,
):
    """(losses, captures of this process). ``counted``: the Traffic that sees the recorder's
    calls."""
    captures = []
    recorder = None
    if capture:
        probe = make_probe(VOCAB, T, text_ids=range(T))
        recorder = record(
            trained, probe, Schedule.every(2, STEPS), sink or captures.append, **options
        )
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    losses = []
    for step in range(1, STEPS + 1):
        seed = step if same_data else step + 100 * dist.get_rank()
        ids = torch.randint(VOCAB, (2, T), generator=torch.Generator().manual_seed(seed))
        loss = F.cross_entropy(trained(ids).flatten(0, 1), ids.flatten())
        optimizer.zero_grad()
        (backward or torch.Tensor.backward)(loss)
        optimizer.step()
        if recorder:
            with counted or nullcontext():
                recorder.step(step, loss=loss)
        if after_step:
            after_step(step)
        losses.append(loss.item())
    if recorder:
        recorder.close()
    return losses, captures


def ddp(capture, **options):
    model = make_model()
    trained = DistributedDataParallel(model)
    passes = []
    model.register_forward_hook(lambda *_: passes.append(1))
    # A dispatch mode would be seen in the probe's pass, so only where there is none
    counted = Traffic() if dist.get_rank() else None
    made = train(trained, trained.parameters(), capture=capture, counted=counted, **options)
    return *made, len(passes), counted.n_collectives if counted else None


def fsdp2(capture, **options):
    model = make_model()
    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)
    return train(model, model.parameters(), capture=capture, **options)


def fsdp1(capture, *, by_block=True, use_orig_params=True, **options):
    model = FullyShardedDataParallel(
        make_model(),
        auto_wrap_policy=ModuleWrapPolicy({Residual}) if by_block else None,
        use_orig_params=use_orig_params,
        device_id=torch.device("cpu"),
    )
    # As accelerate does, the outermost one is given a forward of its own.
    forward, calls = model.forward, []

    def counted(ids):
        calls.append(1)
        return forward(ids)

    model.forward = counted
    return *train(model, model.parameters(), capture=capture, **options), len(calls)


def fsdp1_flat(capture, **options):
    """One flat parameter of all blocks, in place of the model's own."""
    return fsdp1(capture, by_block=False, use_orig_params=False, **options)


def fsdp2_mixed(capture, **options):
    """Sharded, and gathered in bfloat16 for each pass."""
    model = make_model()
    mixed = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for block in model.blocks:
        fully_shard(block, mp_policy=mixed)
    fully_shard(model, mp_policy=mixed)
    return train(model, model.parameters(), capture=capture, **options)


def fsdp2_compiled(capture, **options):
    """Copies of shards, compiled block by block."""
    model = make_model()
    mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("copies", "shards"))
    for block in model.blocks:
        block.compile(backend="eager")
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return train(model, model.parameters(), capture=capture, **options)


def fsdp2_late(capture, **options):
    """Watched before it is sharded: the other process does not know that there is a probe."""
    model = make_model()
    captures = []
    recorder = (
        record(model, make_probe(VOCAB, T), Schedule.every(2), captures.append) if capture else None
    )
    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)
    losses, *_ = train(
        model, model.parameters(), capture=False, after_step=recorder.step if recorder else None
    )
    return losses, captures


def accelerate(capture, *, state=None, **options):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=True, mixed_precision="no" if state else "bf16")
    for name, value in (state or {}).items():
        setattr(accelerator.state, name, value)
    model = make_model()
    trained, _ = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    return train(
        trained, trained.parameters(), capture=capture, backward=accelerator.backward, **options
    )


def accelerate_fsdp2(capture, **options):
    """As on GPUs: accelerate itself takes CPUs for no place to shard, so its state is set by
    hand."""
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["Residual"],
        cpu_ram_efficient_loading=False,
    )
    return accelerate(
        capture, state={"fsdp_plugin": plugin, "distributed_type": DistributedType.FSDP}, **options
    )


class OwnHeads(nn.Module):
    """Takes as many heads as the projections give this process; two key/value heads for four
    query heads."""

    def __init__(self):
        super().__init__()
        self.wq, self.wk, self.wv, self.wo = (
            nn.Linear(D, width, bias=False) for width in (D, D // 2, D // 2, D)
        )

    def forward(self, x):
        q, k, v = (
            layer(x).unflatten(-1, (-1, DK)).transpose(1, 2)
            for layer in (self.wq, self.wk, self.wv)
        )
        return self.wo(
            merge(F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True))
        )


def make_own_heads():
    torch.manual_seed(0)
    model = Model(lambda _: Residual(OwnHeads(), two_layers()))
    with torch.no_grad():
        for block in model.blocks:  # uniform attention would hide heads in a wrong order
            block.attn.wq.weight.mul_(3)
            block.attn.wk.weight.mul_(3)
    return model


def heads_whole(capture, **options):
    """Train on every process by itself the model that the next two split."""
    model = make_own_heads()
    return train(model, model.parameters(), capture=capture, same_data=True, **options)


PLAN = {
    **{f"attn.w{letter}": ColwiseParallel() for letter in "qkv"},
    "attn.wo": RowwiseParallel(),
    "mlp.0": ColwiseParallel(),
    "mlp.2": RowwiseParallel(),
}


def tensor_parallel(capture, *, fsdp=False, **options):
    """Each process has half of the heads and of the neurons."""
    mesh = init_device_mesh("cpu", (1, 2), mesh_dim_names=("shards", "layers"))
    model = make_own_heads()
    for block in model.blocks:
        parallelize_module(block, mesh["layers"], PLAN)
        if fsdp:
            fully_shard(block, mesh=mesh["shards"])
    if fsdp:
        fully_shard(model, mesh=mesh["shards"])
    return train(model, model.parameters(), capture=capture, same_data=True, **options)


def tensor_parallel_fsdp2(capture, **options):
    return tensor_parallel(capture, fsdp=True, **options)


def refusals():
    """Return the error about layers that are split where the heads cannot be told."""
    plan = {"blocks.1.attn.c_attn": ColwiseParallel(use_local_output=False)}
    model = parallelize_module(make_model(), init_device_mesh("cpu", (2,)), plan)
    model.blocks[1].attn = HiddenOrigin(model.blocks[1].attn)
    try:
        record(model, make_probe(VOCAB, T), Schedule.every(1), print)
    except UnsupportedModelError as error:
        return str(error)
    return "nothing"


class HiddenOrigin(nn.Module):
    """Attention whose queries went where no function is seen."""

    def __init__(self, attn):
        super().__init__()
        self.attn = attn

    def forward(self, x):
        q, k, v = (split(part, H) for part in self.attn.c_attn(x).full_tensor().split(D, dim=-1))
        q = torch.from_numpy(q.numpy().copy())
        return self.attn.c_proj(merge(by_kernel(q, k, v)))


def counted_clock(*, capture_s, training_s=3.0):
    """Seconds as the Governor reads them: twice before training, then at the beginning and the end
    of every capture."""
    now, n_read = 0.0, 0

    def clock():
        nonlocal now, n_read
        n_read += 1
        if n_read > 2:
            now += training_s if n_read % 2 else capture_s
        return now

    return clock


class Traffic(TorchDispatchMode):
    """Counts collectives, and the bytes that they are given."""

    nbytes = n_collectives = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "c10d" in func.namespace:
            self.n_collectives += 1
            self.nbytes += sum(
                leaf.nbytes
                for leaf in tree_leaves((args, kwargs))
                if isinstance(leaf, torch.Tensor)
            )
        return func(*args, **(kwargs or {}))


def reads():
    """layout -> [largest difference from the plain tensor's, over every way of reading; bytes of
    the largest read; bytes of the tensor; largest relative difference of the norms]."""
    generator = torch.Generator().manual_seed(0)
    flat, stack = (
        torch.randn(50, 36, generator=generator),
        torch.randn(5, 50, 36, generator=generator),
    )
    one, copied, sharded = (init_device_mesh("cpu", shape) for shape in ((2,), (2, 1), (1, 2)))
    layouts = {
        "rows": (flat, one, [Shard(0)]),
        "columns": (flat, one, [Shard(-1)]),
        "copies of shards": (flat, copied, [Replicate(), Shard(0)]),
        "shards of one copy": (flat, sharded, [Replicate(), Shard(0)]),
        "copies": (flat, one, [Replicate()]),
        "both axes": (flat, sharded, [Shard(1), Shard(0)]),
        "experts": (stack, one, [Shard(0)]),
        "rows of experts": (stack, one, [Shard(1)]),
    }
    report = {}
    for name, (tensor, mesh, placements) in layouts.items():
        shared = distribute_tensor(tensor, mesh, placements)
        differences, traffic, of_norms = [], [], []
        for transposed in (False, True):
            shape = (36, 50) if transposed else (50, 36)
            halves = {"shape": (shape[0] // 2, shape[1]), "rows": ((0, shape[0]),), "stride": 2}
            for options in (
                {"shape": shape},
                halves,
                *({"shape": shape, "expert": expert} for expert in (0, 4) if tensor.ndim == 3),
            ):
                projection = Projection(0, "mlp.w_in", ("w",), transposed=transposed, **options)
                if tensor.ndim == 2 or "expert" in options:
                    here, alone = (
                        norms(krylov({"w": held}, projection).numpy(), projection.shape)
                        for held in (shared, tensor)
                    )
                    of_norms.append(float(np.abs(here / alone - 1).max()))
                for pooling in POOLINGS:
                    for limits in ((7, 5), (1000, 1000)):
                        with Traffic() as counted:
                            got = read({"w": shared}, projection, limits, pooling)
                        differences.append(
                            float(
                                (got - read({"w": tensor}, projection, limits, pooling)).abs().max()
                            )
                        )
                        traffic.append(counted.nbytes if limits == (7, 5) else 0)
        report[name] = [max(differences), max(traffic), tensor.nbytes, max(of_norms)]
    return report


KINDS = (
    ddp,
    fsdp2,
    fsdp1,
    fsdp1_flat,
    fsdp2_mixed,
    fsdp2_compiled,
    fsdp2_late,
    accelerate,
    accelerate_fsdp2,
    heads_whole,
    tensor_parallel,
    tensor_parallel_fsdp2,
)


def broken_parameter():
    """Capture a sharded model of which one process holds a NaN."""
    model = make_model()
    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)
    name = next(
        name
        for name, each in model.named_parameters()
        if name[:9] == "blocks.1." and each.ndim == 2
    )
    captures = []
    probe = make_probe(VOCAB, T, text_ids=range(T))
    with record(model, probe, Schedule.every(2, STEPS), captures.append) as recorder:
        recorder.step(0)
        if dist.get_rank() == 1:
            model.get_parameter(name).to_local().detach().view(-1)[0] = torch.nan
        recorder.step(2)
    return name, [capture.model.get("not_finite") for capture in captures]


def main(directory):
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    report = {}
    for kind in KINDS:
        without, *_ = kind(False)
        losses, captures, *counts = kind(True)
        report[kind.__name__] = {
            "without": without,
            "with": losses,
            "steps": [capture.step for capture in captures],
            "counts": counts,
            "model": captures[0].model["name"] if captures else None,
            "n_parameters": captures[0].model["n_parameters"] if captures else None,
        }
        if captures:
            for capture in (captures[0], captures[-1]):
                np.savez(directory / f"{kind.__name__}-{capture.step}.npz", **capture.arrays)

    # Two processes whose clocks disagree must still agree on when to capture, and a full disk on
    # one must not stop the other.
    clock = counted_clock(capture_s=3.0 if rank == 0 else 1e-6)
    governor = Governor(Schedule.every(2, STEPS), CostLimit(0.05, free_s=0), clock=clock)
    _, captures, *_ = fsdp2(True, governor=governor)
    report["disagreeing clocks"] = [capture.step for capture in captures]

    # Only the main process knows what the run held before a resume.
    _, captures, *_ = fsdp2(True, captured=[0, 4] if rank == 0 else [])
    report["resumed"] = [capture.step for capture in captures]

    def full(_capture):
        raise OSError("disk full")

    report["full disk"] = {"with": fsdp2(True, sink=full)[0]}
    report["reads"], report["refused"] = reads(), refusals()
    report["broken parameter"] = broken_parameter()
    (directory / f"rank{rank}.json").write_text(json.dumps(report))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
