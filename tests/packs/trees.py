"""Packs with ties and padding, the elements of their arrays, and optimizers over them."""

from __future__ import annotations

import fnmatch
import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

import lrcore
from lrcore import schedules
from support import Array, assert_bits, gradients, make


def entries() -> dict[str, Any]:
    """Return the entries of `model`, with values that are always the same."""
    rng = np.random.default_rng(8)

    def w(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(np.float32)

    blocks = [{"w": w(3, 3), "b": w(3), "norm": {"scale": w(3), "shift": w(3)}} for _ in range(2)]
    embed = w(4, 3)
    return {"embed": embed, "blocks": blocks, "none": w(0, 3), "head": {"w": embed, "b": w(2)}}


def model(pad: bool = False) -> lrcore.Pack:
    """Return a pack of 50 elements without padding, in which embed and head.w are tied."""
    return lrcore.Pack(entries(), pad=pad)


PARTS: dict[str, Callable[[lrcore.Pack], Any]] = {
    "pack": lambda pack: pack,
    "list": lambda pack: pack["blocks"],
    "node": lambda pack: pack["blocks"][1],
}
"""The parts of `model` that have a buffer."""

OTHERS: dict[str, tuple[Callable[[Any], object], str]] = {
    "a name more": (lambda tree: tree.update(more=1), "more"),
    "an empty array more": (lambda tree: tree.update(more=(0, 2)), "more"),
    "another name": (lambda tree: tree["head"].update(bias=tree["head"].pop("b")), r"head\.b\b|head\.bias"),
    "another shape": (lambda tree: tree["blocks"][1].update(w=(9, 1)), r"blocks\.1\.w"),
    "another shape without elements": (lambda tree: tree.update(none=(3, 0)), "none"),
    "a tie less": (lambda tree: tree["head"].update(w=(4, 3)), r"head\.w|embed"),
    "a tie more": (lambda tree: tree["blocks"][1].update(b=tree["blocks"][0]["b"]), r"blocks\.[01]\.b"),
}  # fmt: skip
"""Changes of the entries of `model` that give other arrays, and the names that a message may have."""


def other_than_model(case: str, pad: bool = False) -> lrcore.Pack:
    """Return a pack made from changed entries."""
    tree = entries()
    OTHERS[case][0](tree)
    return lrcore.Pack(tree, pad=pad)


# ---- random packs

KEYS = ["w", "b", "norm", "head", "layers", "dotted.key"]
SHAPES: list[tuple[int, ...]] = [(), (1,), (3,), (17,), (40,), (2, 3), (4, 5), (2, 2, 3), (0, 4), (0,)]


def draw(rng: np.random.Generator) -> lrcore.Pack:
    """Return a random pack of nested dictionaries and lists, perhaps with ties and padding."""
    made: list[Array] = []

    def leaf() -> Array:
        if made and rng.random() < 0.25:
            return made[rng.integers(len(made))]
        made.append(np.array(rng.standard_normal(SHAPES[rng.integers(len(SHAPES))]), np.float32))
        return made[-1]

    def node(depth: int) -> Any:
        if rng.random() < 0.35 * (3 - depth):
            return leaf()
        count = int(rng.integers(1, 4))
        if rng.random() < 0.4:
            return [node(depth - 1) for _ in range(count)]
        return {str(key): node(depth - 1) for key in rng.permutation(KEYS)[:count]}

    tree = {str(key): node(2) for key in rng.permutation(KEYS)[:4]}
    tree["first" if rng.random() < 0.5 else "final.w"] = np.ones(3, np.float32)
    return lrcore.Pack(tree, pad=bool(rng.integers(2)))


def reordered(rng: np.random.Generator, pack: Any) -> lrcore.Pack:
    """Return a copy of a pack with the same names and ties in another order, perhaps with other nesting and padding."""
    views, nested = pack.named_arrays(), bool(rng.integers(2))
    found: dict[str, Any] = {}
    for name in map(str, rng.permutation([*views])):
        *path, last = name.split(".") if nested else [name]
        functools.reduce(lambda node, key: node.setdefault(key, {}), path, found)[last] = views[name]
    return lrcore.Pack(found, pad=bool(rng.integers(2)))


# ---- the arrays of a pack


def names_of(pack: Any) -> dict[str, list[str]]:
    """Return all names of each array, by its first name."""
    views = pack.named_arrays()
    firsts: dict[int, str] = {}
    found: dict[str, list[str]] = {}
    for name, view in views.items():
        found.setdefault(firsts.setdefault(id(view), name), []).append(name)
    return found


def spans(pack: Any) -> dict[str, tuple[int, int]]:
    """Return, by name, the elements of each array that has any, together with the padding after it."""
    start, size = pack.flat.ctypes.data, pack.flat.size
    views = pack.named_arrays().items()
    begins = {name: (view.ctypes.data - start) // 4 for name, view in views if view.size}
    bounds = sorted({*begins.values(), size})
    return {name: (begin, bounds[bounds.index(begin) + 1]) for name, begin in begins.items()}


def slices(pack: Any, names: Iterable[str]) -> list[tuple[int, int]]:
    """Return the slices that have the same elements as a group of these arrays, merged."""
    found: list[tuple[int, int]] = []
    for begin, end in sorted({place for name, place in spans(pack).items() if name in {*names}}):
        if found and found[-1][1] == begin:
            found[-1] = (found[-1][0], end)
        else:
            found.append((begin, end))
    return found


def assert_like(found: Any, pack: Any) -> None:
    """Assert that a pack has the same names, shapes, ties and padding, over other memory."""
    assert (repr(found), spans(found)) == (repr(pack), spans(pack))
    assert not np.shares_memory(found.flat, pack.flat)


def assert_same(opt: Any, plain: Any, what: str = "") -> None:
    """Assert that an optimizer over a pack has the bits of one over an array."""
    assert_bits(opt.params.flat, plain.params, f"{what} params")
    assert [*opt.state] == [*plain.state]
    for name, state in opt.state.items():
        assert_bits(state.flat, plain.state[name], f"{what} {name}")


# ---- groups

OWN: list[dict[str, Any]] = [
    {},
    {"weight_decay": 0.25},
    {"lr_scale": 0.5, "maximize": True},
    {"lr": schedules.Cosine(0.02, steps=20)},
    {"frozen": True},
]
"""What the groups of a partition have of their own, the rest first."""


def deal(rng: np.random.Generator, pack: Any) -> list[list[str]]:
    """Return the first names of the arrays of the rest and of up to four groups that have elements.

    Arrays are dealt one by one, or together if their names begin or end alike.
    """
    part = [slice(None), slice(0, 1), slice(-1, None)][rng.integers(3)]
    arrays = [*names_of(pack)]
    keys = {name: tuple(name.split(".")[part]) for name in arrays}
    owners = {key: int(rng.integers(len(OWN))) for key in keys.values()}
    groups = [[name for name in arrays if owners[keys[name]] == i] for i in range(len(OWN))]
    rest, *others = groups
    empty = [each for each in others if not slices(pack, each)]
    return [sum(empty, rest), *(each for each in others if each not in empty)]


def describe(rng: np.random.Generator, pack: Any, arrays: Sequence[str], by_name: bool = False) -> Any:
    """Return a random way to select some arrays of a pack: names, globs, a predicate, and ranges unless `by_name`."""
    every, places = names_of(pack), spans(pack)
    chosen = [str(rng.choice(every[name])) for name in arrays]
    if (how := rng.integers(3)) == 0:
        return lambda name, shape: name in chosen and shape == pack.named_arrays()[name].shape
    found: list[Any] = []
    left = {*arrays}
    ends = [(f"{name.split('.')[0]}*", f"*{name.split('.')[-1]}") for name in chosen if how == 1]
    for pattern in itertools.chain.from_iterable(ends):  # globs over several arrays
        matched = {first for first, names in every.items() if fnmatch.filter(names, pattern)}
        if matched <= {*arrays}:
            found.append(pattern)
            left -= matched
    for name in chosen:
        (first,) = (first for first, names in every.items() if name in names)
        if first in left:
            glob = f"{name[:-1]}[{name[-1]}]"
            found.append([name, glob, places.get(name, name)][rng.integers(2 if by_name else 3)])
    return found[0] if len(found) == 1 else found


def grouped(
    rule: str, pack: Any, groups: Sequence[Any], own: Sequence[dict[str, Any]] = OWN, **more: Any
) -> Any:
    """Return an optimizer with these `params` of its groups, each with the settings in `own`."""
    given = [{"params": params, **each} for params, each in zip(groups, own[1:], strict=False)]
    arguments = {"lr": schedules.Cosine(0.05, steps=30), "weight_decay": 0.1} | more
    return make(rule, pack, groups=given, **arguments)


def fill(grads: Any, t: int) -> Any:
    """Write gradients that depend only on the step and the names of each array, and return `grads`."""
    views = grads.named_arrays()
    for names in names_of(grads).values():
        view = views[names[0]]
        view[...] = gradients(np.random.default_rng([t, *min(names).encode()]), view.size).reshape(view.shape)
    return grads
