"""Small models that store their weights in another way than they use them: what
``test_quantized.py`` tries, and the section of ``docs/pages/supported_models.md`` about them."""

from __future__ import annotations

import tempfile
import warnings

import accelerate
import torch
import torch.nn.functional as F
import transformers
from adapted_models import llama, looked_at
from torch import nn

# name -> largest difference to the weights before, as a share of their norm, that eight bits allow
ROUNDING = {"torch.ao, dynamic int8": 0.02, "float8 weights": 0.05, "packed codes and scales": 0.02}


def dynamic_int8():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated in favor of torchao
        return torch.ao.quantization.quantize_dynamic(llama(), {nn.Linear}, dtype=torch.qint8)


class Float8Linear(nn.Linear):
    """Stores a byte a weight, and multiplies in its input's dtype."""

    def forward(self, x):
        return F.linear(x, self.weight.to(x.dtype))


def float8():
    model = llama()
    for module in model.model.layers.modules():
        if isinstance(module, nn.Linear):
            module.__class__ = Float8Linear
            module.weight.data = module.weight.data.to(torch.float8_e4m3fn)
    return model


class PackedLinear(nn.Module):
    """bitsandbytes, HQQ, GPTQ: codes in one tensor, scales in another, no weight."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        scales = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        codes = (linear.weight.detach() / scales).round().to(torch.int8)
        self.register_buffer("codes", codes.t().contiguous())
        self.register_buffer("scales", scales)

    def forward(self, x):
        return x @ (self.codes.t() * self.scales).t().to(x.dtype)


class WithoutAMatrix(PackedLinear):
    """Its kernel runs inside the model alone."""

    def forward(self, x):
        if x.ndim < 3:
            raise RuntimeError("expected a batch of the model's own")
        return super().forward(x)


def with_layers(layer, names=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj")):
    model = llama()
    for block in model.model.layers:
        for part in (block.self_attn, block.mlp):
            for name, module in list(part.named_children()):
                if name in names:
                    setattr(part, name, layer(module))
    return model


def offloaded_to_cpu():
    return accelerate.cpu_offload(llama(), torch.device("cpu"))


def offloaded_to_disk():
    directory = tempfile.mkdtemp()
    return accelerate.disk_offload(llama(), directory, torch.device("cpu"))


def in_inference_mode():
    with torch.inference_mode():
        return llama()


STORED = {
    "torch.ao, dynamic int8": dynamic_int8,
    "float8 weights": float8,
    "packed codes and scales": lambda: with_layers(PackedLinear),
    "accelerate, offloaded to the CPU": offloaded_to_cpu,
    "accelerate, offloaded to the disk": offloaded_to_disk,
    "made in inference mode": in_inference_mode,
}


def error_of(name):
    """Largest share by which a matrix differs from what it was before."""
    before = looked_at(llama())[2]
    structure, _, now = looked_at(STORED[name]())
    assert structure.left_out == ()
    assert set(now) == set(before)
    return max(float((now[each] - before[each]).norm() / before[each].norm()) for each in before)


def section():
    """Markdown for the page of supported models."""
    lines = []
    for name in STORED:
        allowed = ROUNDING.get(name, 0)
        assert error_of(name) <= allowed
        lines.append(f"| {name} | {f'within {allowed:.0%}' if allowed else 'equal'} |")
    return f"""## Quantized and offloaded

Maps show the matrix that a layer multiplies by. Quantized tensors that can dequantize themselves do
so; every other layer is called with the identity. Weights of a layer that cannot run by itself are
left out, and the log and the capture say why; attention is captured all the same. The matrices are
compared with the weights before quantization or offloading (transformers
{transformers.__version__}, accelerate {accelerate.__version__}):

| how weights are stored | largest difference, as a share of the norm |
|---|---|
{chr(10).join(lines)}

Also compared by hand on a CPU: torchao 0.18 (int8 weight-only and dynamic, 0.7 %;
float8, 2.6 %), bitsandbytes 0.50 (8 bit, 0.6 %; 4 bit nf4, 9.3 %), optimum-quanto 0.2.7 (int8,
0.6 %; float8, 2.6 %; int4, 9.8 %), HQQ 0.2.8 (4 bit, 9.0 %). A model whose parameters are on the
meta device is refused: it has no values yet.
"""
