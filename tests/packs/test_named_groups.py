"""Groups by name: names, globs and predicates have the bits of slices, and nothing is chosen silently."""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

import lrcore
from lrcore import schedules
from optimizers.test_groups import assert_refused
from packs.trees import (
    OWN,
    PARTS,
    assert_same,
    deal,
    describe,
    draw,
    fill,
    grouped,
    model,
    names_of,
    slices,
    spans,
)
from support import assert_bits, make

AdamW: Any = lrcore.AdamW
SGD: Any = lrcore.SGD


def of_group(pack: Any, params: Any) -> Any:
    """Return the group of an optimizer with one group."""
    return SGD(pack, groups=[{"params": params}]).groups[1]


def with_elements(pack: Any, arrays: Any) -> tuple[str, ...]:
    """Return these first names in the order of the pack, without arrays that have no elements."""
    return tuple(name for name in names_of(pack) if name in {*arrays} & spans(pack).keys())


# ---- selecting arrays

VECTORS = [f"blocks.{i}.{name}" for i in range(2) for name in ("b", "norm.scale", "norm.shift")]
MATRICES = ["embed", "blocks.0.w", "blocks.1.w", "none"]

SELECTED: list[tuple[Any, list[str]]] = [
    ("embed", ["embed"]),
    ("head.w", ["embed"]),
    ("none", []),
    ("*", [*MATRICES, *VECTORS, "head.b"]),
    ("head.*", ["embed", "head.b"]),
    ("blocks.1.*", ["blocks.1.w", *VECTORS[3:]]),
    ("blocks.[!1].norm.s?[a-b]*", ["blocks.0.norm.scale"]),
    ("*b", [VECTORS[0], VECTORS[3], "head.b"]),
    ("[!b]*", ["embed", "none", "head.b"]),
    (["head.w", "embed", "head.*", "*.b"], ["embed", "head.b", VECTORS[0], VECTORS[3]]),
    (lambda _, shape: len(shape) == 1, [*VECTORS, "head.b"]),
    (lambda _, shape: shape == (4, 3), ["embed"]),
    (lambda name, _: np.bool_(name == "head.w"), ["embed"]),
    (["head.b", functools.partial(lambda end, name, _: name.endswith(end), ".1.b")], ["head.b", VECTORS[3]]),
]


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize(("params", "arrays"), SELECTED)
def test_what_is_selected(params: Any, arrays: list[str], pad: bool) -> None:
    """Globs match dots. Any name of a tied array selects it. The padding after an array is in its group."""
    pack = model(pad)
    rest, group = SGD(pack, groups=[{"params": params}]).groups
    assert group.names == with_elements(pack, arrays)
    assert group.ranges == tuple(slices(pack, arrays))
    assert rest.names == with_elements(pack, names_of(pack).keys() - {*arrays})
    assert group.size + rest.size == pack.flat.size


def test_a_name_comes_before_a_glob() -> None:
    pack = lrcore.Pack({"a[0]": 2, "a0": 3, "*": 4, "A0": 5})
    for params, names in (
        ("a[0]", ("a[0]",)),
        ("a[[]0]", ("a[0]",)),
        ("a?", ("a0",)),
        ("a*", ("a[0]", "a0")),
        ("*", ("*",)),
        ("?0", ("a0", "A0")),
    ):
        assert of_group(pack, params).names == names


@pytest.mark.parametrize("part", PARTS)
def test_names_are_those_of_the_part_and_predicates_get_all(part: str) -> None:
    """A predicate is called once with each name and shape, in order, including all names of tied arrays."""
    pack, calls = PARTS[part](model()), list[Any]()

    def predicate(name: str, shape: tuple[int, ...]) -> bool:
        calls.append((name, shape))
        return name.endswith("norm.scale")

    assert of_group(pack, predicate).names == tuple(name for name in names_of(pack) if name.endswith("scale"))
    assert calls == [(name, view.shape) for name, view in pack.named_arrays().items()]


def test_names_of_arrays_that_slices_cut() -> None:
    """They are in each of their groups. An optimizer of an array has no names."""
    pack = model()
    last: Any = lambda name, _: name == VECTORS[-1]
    opt = SGD(
        pack, groups=[{"params": slice(0, 3)}, {"params": [(3, 14), "head.b", last]}, {"params": "none"}]
    )
    assert [group.names for group in opt.groups] == [
        ("blocks.0.w", *VECTORS[:3], "blocks.1.w", *VECTORS[3:-1]),
        ("embed",),
        ("embed", "blocks.0.w", VECTORS[-1], "head.b"),
        (),
    ]
    with pytest.raises(AttributeError, match=r"^opt\.groups\[1\]\.names: "):
        opt.groups[1].names = ("embed",)
    assert [group.names for group in SGD(pack.flat, groups=[{"params": (0, 3)}]).groups] == [None, None]
    assert [group.names for group in SGD(pack, groups=[]).groups] == [with_elements(pack, names_of(pack))]


def test_reprs_have_the_names() -> None:
    assert re.search(r"embed.*head\.b", repr(of_group(model(), "head.*")))
    many = repr(of_group(lrcore.Pack({f"layer{i}": 1 for i in range(1000)}), "layer*"))
    assert "layer0" in many
    assert len(many) < 400


# ---- the bits of slices


@pytest.mark.parametrize(
    "rule", ["sgd_nesterov", "adagrad", "rmsprop_centered_momentum", "adam_amsgrad", "nadam", "lion"]
)
@pytest.mark.parametrize("seed", range(8))
def test_bits_of_slices(rule: str, seed: int) -> None:
    """Random packs and partitions, described by names, globs, predicates and slices; a group is frozen at times."""
    rng = np.random.default_rng([seed, *rule.encode()])
    pack = draw(rng)
    _, *groups = partition = deal(rng, pack)
    plain = grouped(rule, pack.flat.copy(), [slices(pack, each) for each in groups])
    opt = grouped(rule, pack, [describe(rng, pack, each) for each in groups], grads=pack.like())
    assert [group.names for group in opt.groups] == [with_elements(pack, each) for each in partition]
    assert [group.ranges for group in opt.groups] == [group.ranges for group in plain.groups]
    for t in range(6):
        for each in (opt, plain):
            each.groups[t % len(opt.groups)].frozen = t % 4 == 1
        fill(opt.grads, t)
        opt.step()
        plain.step(opt.grads.flat)
        assert_same(opt, plain, f"{rule}, {seed}, step {t}:")
    assert [group.step_count for group in opt.groups] == [group.step_count for group in plain.groups]


# ---- patterns that overlap or match nothing

names = st.lists(st.sampled_from("ab"), min_size=1, max_size=3).map(".".join)
pieces = st.sampled_from(["a", "b", "*", "?", "[ab]", "[!a]"])
globs = st.one_of(
    names, st.lists(pieces, min_size=1, max_size=3).map(".".join), st.builds("{}*{}".format, pieces, pieces)
)
given_groups = st.lists(st.lists(globs, min_size=1, max_size=2), min_size=1, max_size=3)


@settings(derandomize=True, deadline=None, database=None, max_examples=400)
@given(st.dictionaries(names, st.integers(0, 9), min_size=5), given_groups, st.booleans())
def test_patterns_that_overlap(arrays: dict[str, int], groups: list[list[str]], pad: bool) -> None:
    """Either all arrays have one group, or an error has an array of two groups or a pattern without arrays."""
    made = [np.zeros(size, np.float32) for size in range(10)]
    pack = lrcore.Pack({name: made[i] for name, i in arrays.items()}, pad=pad)
    every = names_of(pack)
    firsts = {name: first for first, names in every.items() for name in names}

    def model_of(pattern: str) -> set[str]:
        matched = [name for name in firsts if fnmatch.fnmatchcase(name, pattern)]
        return {firsts[name] for name in ([pattern] if pattern in firsts else matched)}

    chosen: list[set[str]] = [set().union(*map(model_of, each)) for each in groups]
    try:
        opt = SGD(pack, groups=[{"params": each} for each in groups])
    except ValueError as error:
        message = str(error)
        twice = re.match(r"groups\[(\d)\]: params: (\S+) is also in groups\[(\d)\]", message)
        nothing = re.match(r"groups\[(\d)\]: params: ", message)
        if twice:
            i, name, j = int(twice[1]), twice[2], int(twice[3])
            event("in two groups")
            assert i != j
            assert firsts[name] in chosen[i] & chosen[j]
        else:
            event("no array")
            assert nothing
            unmatched = [each for each in groups[int(nothing[1])] if not model_of(each)]
            assert any(each in message for each in unmatched), message
        return
    event("a partition")
    assert all(model_of(pattern) for each in groups for pattern in each)
    assert sum(map(len, chosen)) == len(set().union(*chosen))
    assert [group.names for group in opt.groups[1:]] == [with_elements(pack, each) for each in chosen]
    assert [group.ranges for group in opt.groups[1:]] == [tuple(slices(pack, each)) for each in chosen]


# ---- refusals


def fails(_: str, __: Any) -> bool:
    raise KeyError("no such entry")


def fails_by_type(_: str, __: Any) -> bool:
    raise TypeError("not a number")


REFUSED: list[tuple[Any, Any, tuple[str, ...]]] = [
    ("hed.b", ValueError, ("hed.b", r"did you mean .*head\.b", "embed")),
    ("Embed", ValueError, ("did you mean .*embed",)),
    ("head", ValueError, (r"did you mean .*head\.\*",)),
    ("blocks.0.norm", ValueError, (r"did you mean .*blocks\.0\.norm\.\*",)),
    ("blocks.2.*", ValueError, (r"blocks\.2\.\*",)),
    ("", ValueError, ()),
    (["blocks.*", "tail"], ValueError, ("tail",)),
    (lambda *_: False, ValueError, ()),
    ([], ValueError, ()),
    *((each, TypeError, ("expected",))
      for each in (None, 5, 0.5, b"embed", {"embed"}, [["embed"]], ["blocks.*", None], [b"embed"])),
    *((lambda *_, value=value: value, TypeError, ("embed",))
      for value in (None, 1, "yes", np.True_.reshape(1), np.array(True))),
    (fails, ValueError, ("embed", "no such entry")),
    (["blocks.*", fails_by_type], TypeError, ("embed", "not a number")),
    # twice
    ("*.b", ValueError, (r"head\.b is also in groups\[0\]",)),
    (slice(48, 50), ValueError, (r"groups\[0\]",)),
    (["blocks.*", (49, 50)], ValueError, (r"groups\[0\]",)),
    (lambda name, _: name == "none", ValueError, (r"none is also in groups\[0\]",)),
]  # fmt: skip


def test_a_range_inside_padding_is_refused() -> None:
    pack = lrcore.Pack({"a": 5, "b": 5}, pad=True)
    groups: list[Any] = [{"params": (6, 10)}, {"params": ["b", slice(5, 16)]}]
    for group in groups:
        with pytest.raises(ValueError, match=r"^groups\[0\]: params: .* which is padding$"):
            AdamW(pack, groups=[group])


@pytest.mark.parametrize(("params", "error", "words"), REFUSED)
@pytest.mark.parametrize("made_by", ["constructor", "decay_groups"])
def test_groups_that_are_refused(params: Any, error: Any, words: tuple[str, ...], made_by: str) -> None:
    """The message begins with the group's index in the list; nothing changes."""
    pack = model()
    groups = [{"params": ["head.b", "none"]}, {"params": params, "lr_scale": 0.5}]
    before = [{**each} for each in groups], pack.flat.copy()
    if made_by == "constructor":
        assert_refused(lambda: AdamW(pack, groups=groups), error, r"^groups\[1\]: params: ", *words)
    else:
        places = isinstance(params, slice) or (isinstance(params, list) and (49, 50) in params)
        error, words = (TypeError, ()) if places else (error, words)
        assert_refused(
            lambda: lrcore.decay_groups(pack, 0.1, groups), error, r"^groups\[1\]: params: ", *words
        )
    assert groups == before[0]
    assert_bits(pack.flat, before[1])


def test_a_name_of_an_array_that_a_slice_cuts_is_refused() -> None:
    make_it = functools.partial(AdamW, model(), groups=[{"params": (11, 13)}, {"params": "head.w"}])
    assert_refused(make_it, ValueError, r"^groups\[1\]: params: ", r"groups\[0\]")


def test_the_error_of_a_predicate_is_the_cause() -> None:
    for predicate, error in ((fails, KeyError), (fails_by_type, TypeError)):
        with pytest.raises((ValueError, TypeError), match=r"^groups\[0\]: params: ") as caught:
            AdamW(model(), groups=[{"params": predicate}])
        assert type(caught.value.__cause__) is error


def test_names_of_an_array_are_refused() -> None:
    for params in ("embed", [slice(0, 3), "embed"], lambda *_: True):
        make_it = functools.partial(AdamW, model().flat, groups=[{"params": params}])
        assert_refused(make_it, TypeError, r"^groups\[0\]: params: ", "Pack")


def test_messages_shorten_many_names() -> None:
    pack = lrcore.Pack({f"layer{i}": 1 for i in range(1000)})
    for params in ("layr7", "nothing.like.it", lambda *_: False):
        with pytest.raises(ValueError, match=r"^groups\[0\]: params: ") as caught:
            of_group(pack, params)
        assert len(str(caught.value)) < 600


# ---- decay_groups

COSINE = schedules.Cosine(0.01, steps=9)


def test_decay_groups() -> None:
    """Each group is divided into arrays with two or more dimensions and the others, and so is the rest."""
    groups: Any = [
        {"params": "blocks.0.*", "lr_scale": 0.5},
        {"params": ["head.*"], "weight_decay": 0.3, "lr": COSINE},
        {"params": lambda name, _: name == "blocks.1.b"},
    ]
    before = [{**each} for each in groups]
    found = lrcore.decay_groups(model(), 0.1, groups)
    assert found == [
        {"params": ["blocks.0.w"], "lr_scale": 0.5, "weight_decay": 0.1},
        {"params": VECTORS[:3], "lr_scale": 0.5, "weight_decay": 0.0},
        {"params": ["embed"], "weight_decay": 0.3, "lr": COSINE},
        {"params": ["head.b"], "weight_decay": 0.0, "lr": COSINE},
        {"params": ["blocks.1.b"], "weight_decay": 0.0},
        {"params": ["blocks.1.w", "none"], "weight_decay": 0.1},
        {"params": VECTORS[4:], "weight_decay": 0.0},
    ]
    assert groups == before
    for groups in (None, []):
        assert lrcore.decay_groups(model()["blocks"][1], 0.1, groups) == [
            {"params": ["w"], "weight_decay": 0.1},
            {"params": ["b", "norm.scale", "norm.shift"], "weight_decay": 0.0},
        ]


@pytest.mark.parametrize("seed", range(12))
def test_decay_groups_of_random_packs(seed: int) -> None:
    """Together they have every array once, and the bits of the same groups by slices."""
    rng = np.random.default_rng([seed, 5])
    pack = draw(rng)
    dims = {name: view.ndim for name, view in pack.named_arrays().items()}
    rest, *groups = deal(rng, pack)
    given = [
        {"params": describe(rng, pack, each, by_name=True), **own}
        for each, own in zip(groups, OWN[1:], strict=False)
    ]
    found = lrcore.decay_groups(pack, 0.5, given)
    expected = []
    for arrays, own in zip([*groups, rest], [*OWN[1 : len(groups) + 1], {}], strict=True):
        for decayed in (True, False):
            decay = own.get("weight_decay", 0.5) if decayed else 0.0
            if part := [name for name in names_of(pack) if name in arrays and (dims[name] >= 2) == decayed]:
                expected.append({**own, "params": sorted(part), "weight_decay": decay})
    assert [each | {"params": sorted(each["params"])} for each in found] == expected
    by_slices = [each | {"params": slices(pack, each["params"])} for each in expected]
    plain = make("adam", pack.flat.copy(), groups=[each for each in by_slices if each["params"]])
    opt = make("adam", pack, groups=found, grads=pack.like())
    for t in range(3):
        fill(opt.grads, t)
        opt.step()
        plain.step(opt.grads.flat)
    assert_same(opt, plain)


def test_decay_groups_are_of_packs() -> None:
    wrong: Any = {"params": "embed"}
    negative = [{"params": "*.b", "weight_decay": -1.0}]  # all of them have one dimension
    calls: list[tuple[Callable[[], Any], str]] = [
        (lambda: lrcore.decay_groups(model().flat, 0.1), "^pack: "),
        (lambda: lrcore.decay_groups({"w": 3}, 0.1), "^pack: "),
        (lambda: lrcore.decay_groups(model(), 0.1, [{"lr": 1.0}]), r"^groups\[0\]: "),
        (lambda: lrcore.decay_groups(model(), 0.1, wrong), "^groups: "),
        (lambda: lrcore.decay_groups(model(), 0.1, negative), r"^groups\[0\]: weight_decay: "),
    ]
    for call, words in calls:
        assert_refused(call, (TypeError, ValueError), words)
