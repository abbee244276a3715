"""Mixtures of experts among the tiny public architectures, and what each says of its own routers:
the logits that it returns (``output_router_logits``), or those that its router module returns; and
what their indexers of sparse attention return."""

from __future__ import annotations

import torch
from hf_decoders import LENGTH, MLA, MODELS, MOE, N_ROWS, build, probe_ids

from tracker_viz.capture.discover.blocks import discover
from tracker_viz.capture.isolation import isolated
from tracker_viz.capture.routing.by_block import choices_by_block
from tracker_viz.capture.routing.routers import RouterWatch

GROUPS = MOE | {
    "num_experts": 8,
    "num_local_experts": 8,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
}
ONE = MOE | {"num_experts_per_tok": 1}

# name in the table -> (model type, options of its configuration)
MIXTURES = {
    name: (name, None)
    for name, (options, _) in MODELS.items()
    if "num_experts" in options or name == "dbrx"
}
MIXTURES |= {
    "deepseek_v2, groups": ("deepseek_v2", GROUPS | MLA | {"topk_method": "group_limited_greedy"}),
    "deepseek_v3, groups": ("deepseek_v3", GROUPS | MLA),
    "glm4_moe, groups": ("glm4_moe", GROUPS),
    "mixtral, one expert": ("mixtral", ONE),
    "llama4_text, one expert": ("llama4_text", ONE | {"intermediate_size_mlp": 48}),
    "jetmoe, heads": ("jetmoe", None),
}
SQUASHING = {"softmax": lambda logits: logits.softmax(-1), "sigmoid": torch.sigmoid}


def built(name):
    """A tiny mixture whose buffers of the experts' biases are not 0: a choice without them would
    show."""
    model_type, options = MIXTURES[name]
    model = build(model_type, options)
    generator = torch.Generator().manual_seed(3)
    for buffer_name, buffer in model.named_buffers():
        if "bias" in buffer_name:
            buffer.normal_(0, 0.3, generator=generator)
    return model


def examine(model):
    """Return what was chosen, by block."""
    watch = RouterWatch((N_ROWS, LENGTH))
    named = [(name, module) for name, module in model.named_modules() if name]
    with isolated(model), watch.following(named):
        structure, _ = discover(model, probe_ids())
    return choices_by_block(watch, structure)


def own_outputs(model, modules):
    """Return what the model itself returns: its router logits in the order of the blocks (None if
    it returns none), and module -> its output."""
    outputs = {}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: outputs.setdefault(name, output)
        )
        for name in modules
    ]
    try:
        with torch.no_grad():
            returned = model(input_ids=probe_ids(), output_router_logits=True, use_cache=False)
    except (TypeError, ValueError):
        with torch.no_grad():
            returned = model(input_ids=probe_ids(), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return getattr(returned, "router_logits", None), outputs


def compare_routers(name):
    """Return (block -> router, whose logits, largest difference of probabilities, that of the
    weights or None where the router returns none, whether the choices are the same)."""
    model = built(name)
    choices = examine(model)
    routers = choices.heads if name.endswith("heads") else choices.experts
    of_module = {block: routing.modules[-1] for block, routing in routers.items()}
    of_module = {block: _with_router(model, module) for block, module in of_module.items()}
    logits, outputs = own_outputs(model, of_module.values())
    source = "its own router_logits"
    if logits is None or len(logits) != len(routers):
        source, logits = "its router's output", [None] * len(routers)
    difference, of_weights, same = 0.0, None, True
    for (block, routing), returned in zip(routers.items(), logits, strict=True):
        tensors = [t for t in _flat(outputs[of_module[block]]) if isinstance(t, torch.Tensor)]
        if returned is None:
            # Llama 4 returns weights and logits, in this order; the others logits first.
            dense = [t for t in tensors if t.numel() == routing.probabilities.numel()]
            returned = dense[-1]
        own = SQUASHING[routing.squashing](returned.float()).reshape(routing.probabilities.shape)
        difference = max(difference, float((own - routing.probabilities).abs().max()))
        chosen, weights = _own_choice(tensors, routing)
        if chosen is not None:
            same = same and torch.equal(chosen, routing.chosen)
        if weights is not None:
            apart = float((weights - routing.weights).abs().max())
            of_weights = max(of_weights or 0.0, apart)
    return routers, source, difference, of_weights, same


def mixture_row(name):
    """Return the cells of one mixture in the table."""
    routers, source, difference, of_weights, same = compare_routers(name)
    first = next(iter(routers.values()))
    how = f"{first.squashing}, {first.chosen.shape[-1]} of {first.n_experts}"
    weights = "–" if of_weights is None else f"{of_weights:.0e}"
    assert same
    return name, how, source, f"{difference:.0e}", weights


def mixture_lines():
    for name in sorted(MIXTURES):
        yield "| " + " | ".join(mixture_row(name)) + " |"


INDEXED = ("axk2", "deepseek_v32", "glm_moe_dsa", "hy_v4")


def compare_indexers(model_type):
    """Return (number of keys that an indexer chooses, share of chosen keys that are not its own or
    the other way round, the most attention to a key that it did not choose)."""
    model = build(model_type)
    watch = RouterWatch((N_ROWS, LENGTH))
    named = [(name, module) for name, module in model.named_modules() if name]
    with isolated(model), watch.following(named):
        structure, attention = discover(model, probe_ids())
    choices = choices_by_block(watch, structure).keys
    assert list(choices) == [0, 1]
    _, returned = own_outputs(model, [choice.modules[-1] for choice in choices.values()])
    apart, outside = 0.0, 0.0
    for block, choice in choices.items():
        own = torch.zeros(N_ROWS, LENGTH, LENGTH, dtype=torch.bool)
        own = own.scatter(-1, returned[choice.modules[-1]].long(), True).tril()
        apart = max(apart, float((own != choice.chosen).float().mean()))
        unchosen = attention[block].masked_fill(choice.chosen[:, None], 0)
        outside = max(outside, float(unchosen.max()))
    return choice.n_chosen, apart, outside


def indexer_row(model_type):
    n_chosen, apart, outside = compare_indexers(model_type)
    return f"{model_type} indexer", str(n_chosen), f"{apart:.0%}", f"{outside:.0e}"


def indexer_lines():
    for model_type in INDEXED:
        yield "| " + " | ".join(indexer_row(model_type)) + " |"


def _with_router(model, module):
    """Return the module that returns logits: DBRX's is inside the one that chooses."""
    inner = f"{module}.router"
    return inner if inner in dict(model.named_modules()) else module


def _own_choice(tensors, routing):
    """Return (experts, weights) as a router returns them, None where it does not. JetMoE's are
    sorted by expert, and so cannot be compared token by token."""
    whole = [t for t in tensors if tuple(t.shape) == (N_ROWS * LENGTH, routing.chosen.shape[-1])]
    chosen = [t.reshape(routing.chosen.shape) for t in whole if not t.is_floating_point()]
    weights = [t.reshape(routing.chosen.shape) for t in whole if t.is_floating_point()]
    if not chosen and routing.squashing == "sigmoid":
        dense = [t for t in tensors if t.numel() == routing.probabilities.numel()]
        if len(dense) == 2:  # Llama 4: one number for every expert
            by_token = dense[0].reshape(routing.probabilities.shape)
            return None, by_token.gather(-1, routing.chosen)
    return next(iter(chosen), None), next(iter(weights), None)


def _flat(output):
    return output if isinstance(output, tuple | list) else (output,)
