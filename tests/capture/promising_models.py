"""One small model of every kind that needs more than plain weights and a softmax, ready to train:
what ``test_promises.py`` holds the promises of a capture to."""

from __future__ import annotations

import types

import numpy as np
import peft
import torch
import torch.nn.functional as F
from adapted_models import adapted, lora
from container_decoders import MODELS as CONTAINERS
from hf_decoders import build
from hf_mixers import MIXERS
from plain_decoders import DK, VOCAB, FusedAttention, Model, Residual, T, randomised, two_layers
from quantized_models import PackedLinear, with_layers
from recurrent_decoders import CONVOLUTIONS, N_SCANS, SCANS, Convolved, Scanned, alone
from torch import nn

from tracker_viz.capture import make_probe

# Calls of the plain kernels below and of scans, by name.
N_CALLS = N_SCANS
N_CALLS |= {"memory_efficient_attention": 0, "SigmoidCore": 0, "delta": 0}


class Hidden(torch.autograd.Function):
    """Attention of which torch sees nothing, as of a fused kernel of somebody else's."""

    @staticmethod
    def forward(ctx, query, key, value):
        ctx.save_for_backward(query, key, value)
        of, to, mixed = (part.detach().numpy() for part in (query, key, value))
        weights = np.tril(np.exp(of @ to.swapaxes(-2, -1) * DK**-0.5))
        return torch.from_numpy(weights / weights.sum(-1, keepdims=True) @ mixed)

    @staticmethod
    def backward(ctx, gradient):
        parts = [part.detach().requires_grad_() for part in ctx.saved_tensors]
        with torch.enable_grad():
            mixed = F.scaled_dot_product_attention(*parts, is_causal=True)
        return torch.autograd.grad(mixed, parts, gradient)


def memory_efficient_attention(query, key, value):
    """xformers by its name; [batch, head, position, channel]."""
    N_CALLS["memory_efficient_attention"] += 1
    return Hidden.apply(query, key, value)


xops = types.SimpleNamespace(memory_efficient_attention=memory_efficient_attention)


def by_hidden_kernel(query, key, value):
    return xops.memory_efficient_attention(query, key, value)


class SigmoidCore(nn.Module):
    """Mixes tokens without a softmax."""

    def forward(self, q, k, v):
        N_CALLS["SigmoidCore"] += 1
        return torch.sigmoid(q @ k.mT * DK**-0.5).tril() @ v


def plain(attend):
    return randomised(
        lambda: Model(lambda _: Residual(FusedAttention(attend(), noted=False), two_layers()))
    )


def packed_under_lora():
    """As QLoRA: packed weights, of which one kind is plain and has an adapter."""
    base = with_layers(PackedLinear, ["k_proj", "v_proj", "gate_proj", "down_proj"])
    return peft.get_peft_model(base, lora(["q_proj"]))


# kind -> how to make a model of it
KINDS = {
    "LoRA": lambda: adapted("LoRA"),
    "DoRA": lambda: adapted("DoRA"),
    "LoHa, asked": lambda: adapted("LoHa, asked"),
    "mixture, softmax": lambda: build("mixtral"),
    "mixture, sigmoid": lambda: build("deepseek_v3"),
    "mixture of heads": lambda: build("jetmoe"),
    "sparse attention, indexer": lambda: build("deepseek_v32"),
    "mixer, asked": lambda: build("qwen3_next", MIXERS["qwen3_next"][0]),
    "mixer of channels, asked": lambda: build("mamba", MIXERS["mamba"][0]),
    "kernel, asked": lambda: plain(lambda: by_hidden_kernel),
    "loop, run again": lambda: randomised(lambda: alone(lambda: Scanned(SCANS["delta"]))),
    "convolution, run again": lambda: randomised(
        lambda: alone(lambda: Convolved(CONVOLUTIONS["short_convolution"]))
    ),
    "module, asked": lambda: plain(SigmoidCore),
    "packed weights and LoRA": packed_under_lora,
    "lists as layers": lambda: randomised(CONTAINERS["nn.ModuleList([attn, ff]) as a layer"][0]),
}


def made(kind):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return KINDS[kind]().train()


def probe_of(model):
    return make_probe(_vocabulary(model), T, text_ids=range(3, T + 3), score_rows=2)


def trainer(model):
    """Return a function that trains one step, and returns its loss."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.02)

    def train(step):
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(3, _vocabulary(model), (2, T), generator=generator)
        loss = _loss(model, ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return train


def _loss(model, ids):
    if hasattr(model, "config"):
        return model(input_ids=ids, labels=ids).loss
    return F.cross_entropy(model(ids).flatten(0, 1), ids.flatten())


def _vocabulary(model):
    return model.config.vocab_size if hasattr(model, "config") else VOCAB
