"""Routers of mixtures, against what each model says of its own, and against sums by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import transformers
from hf_decoders import INDEXER, build, probe_ids
from hf_mixtures import INDEXED, MIXTURES, compare_indexers, compare_routers, mixture_row
from plain_decoders import VOCAB, D, FusedAttention, Model, Residual, T, by_kernel
from torch import nn

from tracker_viz.capture import Schedule, make_probe, record
from tracker_viz.capture.discover.blocks import discover
from tracker_viz.capture.isolation import isolated
from tracker_viz.capture.routing.by_block import Choices, choices_by_block
from tracker_viz.capture.routing.routers import RouterWatch

ROOT = Path(__file__).parents[2]
TOLERANCE = 1e-5
E, K = 5, 2
LISTED = {
    cells[0]: cells
    for line in (ROOT / "docs" / "pages" / "supported_models.md").read_text().splitlines()
    if line.startswith("| ")
    and (cells := tuple(cell.strip() for cell in line.strip("|").split("|")))
}
PAGE_IS_OF_THIS_VERSION = (
    f"transformers=={transformers.__version__}" in (ROOT / "constraints.txt").read_text().split()
)


@pytest.mark.parametrize("name", sorted(MIXTURES))
def test_a_public_mixtures_routers_are_its_own(name):
    routers, _, difference, of_weights, same = compare_routers(name)
    assert routers
    assert difference <= TOLERANCE
    assert of_weights is None or of_weights <= TOLERANCE
    assert same
    assert float(LISTED[name][3]) <= TOLERANCE
    if PAGE_IS_OF_THIS_VERSION:
        assert LISTED[name][:3] == mixture_row(name)[:3], (
            "run: python tests/capture/hf_decoders.py > docs/pages/supported_models.md"
        )


@pytest.mark.parametrize("model_type", INDEXED)
def test_the_keys_that_an_indexer_chose_are_its_own_and_attention_is_to_them_alone(model_type):
    n_chosen, apart, outside = compare_indexers(model_type)
    assert n_chosen == INDEXER["index_topk"]
    assert apart == 0
    assert outside == 0
    assert LISTED[f"{model_type} indexer"][1:] == ("5", "0%", "0e+00")


class Mixture(nn.Module):
    """Experts in a list; ``route`` gives (probabilities, chosen, weights), each [token, ...], and
    notes them."""

    noted: list = []  # noqa: RUF012 - one list for all, emptied by each test

    def __init__(self, route, n_experts=E):
        super().__init__()
        self.gate, self.route = nn.Linear(D, n_experts), route
        self.experts = nn.ModuleList(nn.Linear(D, D) for _ in range(n_experts))

    def forward(self, x):
        flat = x.flatten(0, -2)
        probabilities, chosen, weights = self.route(self.gate, flat)
        Mixture.noted.append((probabilities.detach(), chosen, weights.detach()))
        out = torch.zeros_like(flat)
        for index, expert in enumerate(self.experts):
            token, place = torch.where(chosen == index)
            out = out.index_add(0, token, weights[token, place, None] * expert(flat[token]))
        return out.view_as(x)


def softmax_then_top_k(gate, x):
    probabilities = gate(x).softmax(-1)
    weights, chosen = probabilities.topk(K)
    return probabilities, chosen, weights / weights.sum(-1, keepdim=True)


def top_k_then_softmax(gate, x):
    logits = x @ gate.weight.t() + gate.bias
    values, chosen = torch.topk(logits, K, dim=-1)
    return logits.double().softmax(-1).float(), chosen, F.softmax(values, dim=-1)


def sigmoid_with_a_bias(gate, x):
    probabilities = torch.sigmoid(gate(x))
    bias = torch.linspace(-1, 1, E)
    chosen = (probabilities + bias).topk(K, dim=1, sorted=False).indices
    weights = probabilities.gather(1, chosen)
    weights /= weights.sum(-1, keepdim=True)
    return probabilities, chosen, 2.5 * weights


def one_expert(gate, x):
    """Switch Transformer."""
    probabilities = F.softmax(gate(x), dim=-1)
    weights, chosen = probabilities.max(dim=-1, keepdim=True)
    return probabilities, chosen, weights


def one_expert_by_argmax(gate, x):
    probabilities = F.softmax(gate(x), dim=-1)
    chosen = probabilities.argmax(-1, keepdim=True)
    return probabilities, chosen, probabilities.gather(-1, chosen)


def sqrt_of_softplus(gate, x):
    """DeepSeek-V4."""
    probabilities = F.softplus(gate(x)).sqrt()
    weights, chosen = probabilities.topk(K)
    return probabilities, chosen, weights / weights.sum(-1, keepdim=True)


def top_k_then_softplus(gate, x):
    logits = gate(x)
    values, chosen = logits.topk(K)
    return F.softplus(logits), chosen, F.softplus(values)


ROUTES = [
    softmax_then_top_k,
    top_k_then_softplus,
    top_k_then_softmax,
    sigmoid_with_a_bias,
    one_expert,
    one_expert_by_argmax,
    sqrt_of_softplus,
]


def mixture_model(route=softmax_then_top_k, **options):
    torch.manual_seed(0)
    return Model(
        lambda _: Residual(FusedAttention(by_kernel, noted=False), Mixture(route, **options))
    )


def examine(model):
    ids = torch.randint(VOCAB, (2, T), generator=torch.Generator().manual_seed(2))
    watch = RouterWatch(tuple(ids.shape))
    named = [(name, module) for name, module in model.named_modules() if name]
    with isolated(model), watch.following(named):
        structure, _ = discover(model, ids)
    return choices_by_block(watch, structure)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.__name__)
def test_a_mixture_in_plain_pytorch_is_seen_as_it_routes(route):
    Mixture.noted.clear()
    found = examine(mixture_model(route))
    assert list(found.experts) == [0, 1]
    assert not found.left_out
    for routing, (probabilities, chosen, weights) in zip(
        found.experts.values(), Mixture.noted, strict=True
    ):
        assert torch.allclose(routing.probabilities.flatten(0, 1), probabilities, atol=1e-6)
        assert torch.equal(routing.chosen.flatten(0, 1), chosen)
        assert torch.equal(routing.weights.flatten(0, 1), weights)


class InTheBlock(nn.Module):
    """Everything in the block itself, tokens in rows."""

    def __init__(self):
        super().__init__()
        self.attn, self.switch = FusedAttention(by_kernel, noted=False), nn.Linear(D, E)
        self.branches = nn.ModuleList(nn.Linear(D, D) for _ in range(E))

    def forward(self, x):
        x = x + self.attn(x)
        weights, chosen = torch.softmax(self.switch(x), dim=2).topk(K, dim=2)
        every = torch.stack([branch(x) for branch in self.branches], dim=-2)
        picked = every.gather(-2, chosen[..., None].expand(*chosen.shape, D))
        return x + (weights[..., None] * picked).sum(-2)


def test_a_mixture_without_a_module_of_its_own_is_seen():
    torch.manual_seed(0)
    model = Model(lambda _: InTheBlock())
    routers = examine(model).experts
    assert [tuple(routing.weights.shape) for routing in routers.values()] == [(2, T, K)] * 2


class TopKActivation(nn.Module):
    """The largest activations of a wide layer, and no experts."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(D, 4 * D), nn.Linear(4 * D, D)

    def forward(self, x):
        h = F.relu(self.up(x))
        values, indices = h.topk(8, dim=-1)
        return self.down(torch.zeros_like(h).scatter(-1, indices, values))


class MixtureOfDepths(nn.Module):
    """The tokens of a row that go through the layer are chosen, not experts of a token."""

    def __init__(self):
        super().__init__()
        self.router, self.layer = nn.Linear(D, 1), nn.Linear(D, D)

    def forward(self, x):
        probabilities = torch.sigmoid(self.router(x)[..., 0])
        weights, chosen = probabilities.topk(T // 2, dim=-1)
        picked = x.gather(1, chosen[..., None].expand(-1, -1, D))
        return torch.zeros_like(x).scatter(
            1, chosen[..., None].expand(-1, -1, D), weights[..., None] * self.layer(picked)
        )


@pytest.mark.parametrize("layer", [TopKActivation, MixtureOfDepths])
def test_what_chooses_no_experts_is_no_router(layer):
    torch.manual_seed(0)
    model = Model(lambda _: Residual(FusedAttention(by_kernel, noted=False), layer()))
    assert examine(model) == Choices()


class Balanced(nn.Module):
    """Counts loads and moves the experts' bias in buffers, keeps its auxiliary losses in a list,
    adds noise to the logits: whatever the mode."""

    def __init__(self):
        super().__init__()
        self.gate, self.mixture = nn.Linear(D, E), Mixture(self.route)
        self.register_buffer("bias", torch.zeros(E))
        self.register_buffer("counts", torch.zeros(E))
        self.losses = []

    def route(self, _gate, x):
        logits = self.gate(x)
        probabilities = (logits + 0.1 * torch.randn_like(logits)).sigmoid()
        chosen = (probabilities + self.bias).topk(K).indices
        with torch.no_grad():
            self.counts += torch.bincount(chosen.flatten(), minlength=E)
            self.bias += 1e-2 * (self.counts.mean() - self.counts).sign()
        self.losses.append(probabilities.mean())
        return probabilities, chosen, probabilities.gather(1, chosen)

    def forward(self, x):
        return self.mixture(x)


def trained(*, capture):
    torch.manual_seed(0)
    model = Model(lambda _: Residual(FusedAttention(by_kernel, noted=False), Balanced()))
    if capture:
        recorder, captures = recorded(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(1, 4):
        ids = torch.randint(VOCAB, (2, T))
        loss = F.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if capture:
            recorder.step(step)
    assert not capture or all("blocks.1.mlp.router" in each.arrays for each in captures)
    n_losses = [len(block.mlp.losses) for block in model.blocks]
    return losses, model.state_dict(), n_losses, torch.rand(())


def recorded(model, **options):
    captures = []
    text = make_probe(VOCAB, T, text_ids=range(T))
    return record(model, text, Schedule.every(1), captures.append, **options), captures


def test_a_mixture_trains_to_the_same_bits_with_its_routers_captured():
    without, captured = trained(capture=False), trained(capture=True)
    assert captured[0] == without[0]
    assert captured[2:] == without[2:]
    for name, tensor in without[1].items():
        assert torch.equal(tensor, captured[1][name]), name


def test_between_captures_nothing_of_the_watch_is_left_in_the_model():
    model = mixture_model()
    recorder, captures = recorded(model)
    recorder.step(1)
    assert "blocks.0.mlp.router.chosen" in captures[-1].arrays
    assert torch._C._len_torch_function_stack() == 0
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_a_model_without_a_mixture_is_not_watched_again_for_routers(monkeypatch):
    torch.manual_seed(0)
    model = Model(lambda _: Residual(FusedAttention(by_kernel, noted=False), nn.Linear(D, D)))
    recorder, captures = recorded(model)
    monkeypatch.setattr(RouterWatch, "following", None)
    recorder.step(1)
    assert captures[-1].step == 1


def test_a_capture_holds_the_routers_of_the_chosen_blocks_on_all_rows_with_their_axes():
    recorder, captures = recorded(mixture_model(), only_blocks=[1])
    recorder.step(1)
    capture = captures[-1]
    held = {name: array for name, array in capture.arrays.items() if ".router" in name}
    n_rows = len(capture.probe["rows"])
    assert {name: array.shape for name, array in held.items()} == {
        "blocks.1.mlp.router": (n_rows, T, E),
        "blocks.1.mlp.router.chosen": (n_rows, T, K),
        "blocks.1.mlp.router.weight": (n_rows, T, K),
    }
    assert capture.axes["blocks.1.mlp.router"] == ("probe", "token", "expert")
    assert capture.axes["blocks.1.mlp.router.chosen"] == ("probe", "token", "choice")
    assert capture.model["routers"] == {
        "blocks": [0, 1],
        "experts": [E, E],
        "chosen": [K, K],
        "squashing": ["softmax", "softmax"],
    }


def test_a_capture_holds_what_an_indexer_chose_beside_attention():
    captures = []
    record(build("deepseek_v32"), probe_ids(), Schedule.every(1), captures.append).close()
    (capture,) = captures
    name = "blocks.1.attn.indexer"
    assert capture.axes[name] == ("probe", "query", "key")
    attended = (capture.arrays["blocks.1.attn.pattern"] > 0).any(1)
    assert (attended <= (capture.arrays[name] > 0)).all()
    assert capture.model["indexers"] == {"blocks": [0, 1], "chosen": [5, 5]}
