"""Find the modules that are a model's decoder blocks, from where attention was seen.

A block is a numbered module with attention and what belongs to it. It need not be called itself:
``nn.ModuleList([attention, feed_forward])`` as a layer, or a list of attentions beside a list of
feed-forward parts. Called by ``blocks.discover``.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from tracker_viz.errors import ConfigError

_NUMBERED = re.compile(r"(.*?)(\d+)$")
_CONTAINERS = (nn.ModuleList, nn.ModuleDict)
# Names of the modules that were running at a call, outermost first.
Running = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """One decoder block.

    Attributes:
        name: of its module.
        beside: names of further modules that belong to it: the feed-forward part of the same
            number in another list.
    """

    name: str
    beside: tuple[str, ...] = ()

    def first_inside(self, running: Running) -> str | None:
        """Return the outermost of the running modules that is the block or inside it, or None. A
        container never runs, but what is inside it does."""
        for module in running:
            if self.name == "" or module == self.name or module.startswith(f"{self.name}."):
                return module
        return None


def found_blocks(model: nn.Module, calls: Sequence[Running]) -> list[Block]:
    """Return the blocks around ``calls``, and their numbered siblings that do not attend."""
    modules = dict(model.named_modules())
    chosen = {running: _block_around(running, modules) for running in dict.fromkeys(calls)}
    numbered = [name for name in chosen.values() if name is not None]
    if not numbered:
        return [Block(name) for name in _forks(calls, modules)]
    counts: dict[str, int] = {}
    for running in calls:
        name = chosen[running]
        if name is not None:
            stem = _stem(name)
            counts[stem] = counts.get(stem, 0) + 1
    main = max(counts, key=lambda stem: counts[stem])
    kinds = {type(modules[name]) for name in numbered if _stem(name) == main}

    attending = {module for running in calls for module in running}
    blocks: list[Block] = []
    for stem in counts:
        of_stem = [name for name in numbered if _stem(name) == stem]
        # Another kind of module: a vision tower, a head that predicts further tokens.
        if stem != main and not any(type(modules[name]) in kinds for name in of_stem):
            continue
        siblings = _siblings(modules, stem, attending)
        blocks += _with_what_is_beside(siblings, set(of_stem), calls, modules)
    return blocks


def named_blocks(
    model: nn.Module, blocks: str | Sequence[str], calls: Sequence[Running]
) -> list[Block]:
    """Return the blocks with these names, or whose names match the pattern, with what is beside
    them in other lists.

    Raises:
        ConfigError: there are no such modules.
    """
    known = [name for name, _ in model.named_modules() if name]
    if isinstance(blocks, str):
        depth = blocks.count(".")
        chosen = [name for name in fnmatch.filter(known, blocks) if name.count(".") == depth]
    elif isinstance(blocks, Sequence) and all(isinstance(name, str) for name in blocks):
        chosen = [name for name in blocks if name in known]
        if len(chosen) < len(blocks):
            raise ConfigError(
                f"blocks={sorted(set(blocks) - set(known))} are not modules of "
                f"the model; it has {_first_names(known)}"
            )
    else:
        raise ConfigError(
            f"blocks are names of modules, or a pattern like 'model.layers.*'; got {blocks!r} "
            "(only_blocks= chooses among them by number)"
        )
    if not chosen:
        raise ConfigError(
            f"blocks={blocks!r} matches no module of the model; it has {_first_names(known)}"
        )
    modules = dict(model.named_modules())
    attentions = {_holder(running[-1], modules) for running in calls if running}
    if set(chosen) <= attentions:
        return [Block(name, _of_other_lists(name, attentions, modules)) for name in chosen]
    return [Block(name) for name in chosen]


def _block_around(running: Running, modules: Mapping[str, nn.Module]) -> str | None:
    """Return the innermost numbered module around a call that holds more matrices than the
    attention itself; the outermost numbered one where none does; None where none is numbered."""
    if not running:
        return None
    attention = _holder(running[-1], modules)
    numbered = list(dict.fromkeys(_numbered_around(running)))
    for name in reversed(numbered):
        if not name.rpartition(".")[2].isdigit():
            continue
        if name == attention or name.startswith(f"{attention}."):
            continue
        if _matrices(modules[name]) > _matrices(modules[attention]):
            return name
    return numbered[0] if numbered else None


def _numbered_around(running: Running) -> list[str]:
    """Return the numbered modules around a call, outermost first: ``model.layers.3``,
    ``layer_3``."""
    found = []
    for module in running:
        parts = module.split(".")
        for position, part in enumerate(parts):
            if _NUMBERED.fullmatch(part):
                found.append(".".join(parts[: position + 1]))
    return found


def _holder(module: str, modules: Mapping[str, nn.Module]) -> str:
    """Return the module, or the one around it that holds matrices (a bare ``nn.Softmax`` may have
    been the caller)."""
    while module and not _matrices(modules[module]):
        module = module.rpartition(".")[0]
    return module


def _matrices(module: nn.Module) -> int:
    # Convolutions over heads (talking heads) have more axes.
    return sum(parameter.ndim in (2, 3) for parameter in module.parameters())


def _stem(name: str) -> str:
    """Return a numbered module's name without its number."""
    match = _NUMBERED.fullmatch(name.rpartition(".")[2])
    assert match is not None, "blocks are numbered"
    around = name.rpartition(".")[0]
    return f"{around}.{match[1]}" if around else match[1]


def _siblings(modules: Mapping[str, nn.Module], stem: str, attending: set[str]) -> list[str]:
    siblings = []
    for name, module in modules.items():
        if not name.startswith(stem) or not name[len(stem) :].isdigit():
            continue
        # In an nn.Sequential of everything the embedding and the head are numbered too.
        if name in attending or any(module.children()):
            siblings.append(name)
    return sorted(siblings, key=lambda name: int(name.removeprefix(stem)))


def _with_what_is_beside(
    siblings: Sequence[str],
    attending: set[str],
    calls: Sequence[Running],
    modules: Mapping[str, nn.Module],
) -> list[Block]:
    """Return the siblings as blocks. Where the attending ones hold nothing but their attention,
    their feed-forward parts are looked for beside them."""
    attentions = {_holder(running[-1], modules) for running in calls if running}
    for name in attending:
        inside = sum(_matrices(modules[each]) for each in attentions if _is_inside(each, name))
        if not inside or _matrices(modules[name]) > inside:
            return [Block(name) for name in siblings]
    if len(attending) < len(siblings):
        return _alternating(siblings, attending, modules)
    return [Block(name, _of_other_lists(name, attentions, modules)) for name in siblings]


def _alternating(
    siblings: Sequence[str], attending: set[str], modules: Mapping[str, nn.Module]
) -> list[Block]:
    """Return a block for each sibling; where they are containers, one for each attending one and
    those around it: x-transformers' list of attention, feed-forward, attention, ...; with as many
    before each attention as are before the first (macaron)."""
    if not all(isinstance(modules[name], _CONTAINERS) for name in siblings):
        return [Block(name) for name in siblings]
    places = [place for place, name in enumerate(siblings) if name in attending]
    n_before = places[0]
    starts = [place - n_before for place in places]
    blocks = []
    for place, start, end in zip(places, starts, [*starts[1:], len(siblings)], strict=True):
        name = siblings[place]
        blocks.append(Block(name, tuple(each for each in siblings[start:end] if each != name)))
    return blocks


def _of_other_lists(
    name: str, attentions: set[str], modules: Mapping[str, nn.Module]
) -> tuple[str, ...]:
    """Return the modules of the same number in lists that are as long, beside the one of ``name``,
    and hold matrices but no attention."""
    around, _, number = name.rpartition(".")
    if not isinstance(modules.get(around), _CONTAINERS):
        return ()
    parent = around.rpartition(".")[0]
    found = []
    for child, module in modules[parent].named_children():
        other = f"{parent}.{child}".strip(".")
        if other == around or not isinstance(module, _CONTAINERS):
            continue
        is_as_long = len(module) == len(modules[around])  # type: ignore[arg-type]
        attends = any(_is_inside(each, other) for each in attentions)
        beside = f"{other}.{number}"
        if is_as_long and not attends and beside in modules and _matrices(modules[beside]):
            found.append(beside)
    return tuple(found)


def _is_inside(name: str, around: str) -> bool:
    return name == around or name.startswith(f"{around}.")


def _forks(calls: Sequence[Running], modules: Mapping[str, nn.Module]) -> list[str]:
    """Return the modules around un-numbered calls, just below what these have in common:
    ``stages.early``, ``stages.late``; what is around each call where that is the attention
    alone."""
    attending = list(dict.fromkeys(running[-1] for running in calls if running))
    paths = [module.split(".") for module in attending]
    shared = 0
    while all(len(path) > shared + 1 for path in paths) and len({p[shared] for p in paths}) == 1:
        shared += 1
    forks = [".".join(path[: shared + 1]) for path in paths]
    holders = {_holder(module, modules) for module in attending}
    if len(attending) < 2 or set(forks) & holders:
        forks = [module.rpartition(".")[0] or module for module in attending]
    return list(dict.fromkeys(forks)) or [""]


def _first_names(names: Sequence[str]) -> str:
    """Return the outermost ones, where a block would be looked for."""
    outermost = sorted(names, key=lambda name: name.count("."))
    text = ", ".join(outermost[:20])
    if len(names) > 20:
        text += " ..."
    return text
