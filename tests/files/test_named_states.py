"""State dictionaries and files of optimizers over packs: states, groups and step counts follow the names."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrcore
from files.kinds import changed, header_of, put, split
from optimizers.test_groups import assert_refused
from packs.trees import (
    OTHERS,
    PARTS,
    assert_like,
    deal,
    describe,
    draw,
    entries,
    fill,
    grouped,
    model,
    names_of,
    other_than_model,
    reordered,
)
from support import assert_bits

AdamW: Any = lrcore.AdamW
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "format_1" / "adam.safetensors"
"""A file that was written before there were names."""


def by_dictionary(opt: Any, into: Any, _: Path) -> Any:
    into.load_state_dict(opt.state_dict())
    return into


def by_file(opt: Any, into: Any, path: Path) -> Any:
    opt.save(path)
    into.load(path)
    return into


def made_from_file(opt: Any, into: Any, path: Path) -> Any:
    opt.save(path)
    return lrcore.load(path, into.params)


WAYS: dict[str, Callable[[Any, Any, Path], Any]] = {
    "dictionary": by_dictionary,
    "file": by_file,
    "lrcore.load": made_from_file,
}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def shown(opt: Any) -> list[Any]:
    """Return the settings of each group, its step count, and its arrays, each by the least of its names."""
    least = {first: min(names) for first, names in names_of(opt.params).items()}
    return [
        (sorted(least[name] for name in group.names), dict(group.hyper), group.schedule, group.lr_scale,
         group.maximize, group.frozen, group.step_count)
        for group in opt.groups
    ]  # fmt: skip


def go(opt: Any, begin: int, end: int) -> None:
    """Take some steps, in which groups are frozen and thawed."""
    for t in range(begin, end):
        for i, group in enumerate(opt.groups):
            group.frozen = (t + i) % len(opt.groups) == 1 and t < 6
        opt.step(fill(opt.params.like(), t))


def assert_same_by_name(opt: Any, expected: Any) -> None:
    """Assert that parameters and states have the same bits under the same names, and that padding is 0."""
    assert [*opt.state] == [*expected.state]
    for found, wanted in zip(
        (opt.params, *opt.state.values()), (expected.params, *expected.state.values()), strict=True
    ):
        views = wanted.named_arrays()
        for name, view in found.named_arrays().items():
            assert_bits(view, views[name], name)
    assert np.count_nonzero(opt.params.flat) == np.count_nonzero(lrcore.Pack(opt.params).flat)


@each_way
@pytest.mark.parametrize(
    "rule", ["sgd_momentum", "adagrad", "rmsprop_centered", "adam_amsgrad", "nadam", "radam"]
)
@pytest.mark.parametrize("seed", range(3))
def test_a_run_goes_on_in_another_order(rule: str, seed: int, way: Any, tmp_path: Path) -> None:
    """The later bits are those of the uninterrupted run, and of a run that had the other order from the start.

    The optimizer that loads has other nesting and padding, other descriptions of its groups, and other settings.
    """
    rng = np.random.default_rng([seed, *rule.encode()])
    pack = draw(rng)
    _, *groups = deal(rng, pack)
    pack_from_start = reordered(rng, pack)
    opt = grouped(rule, pack, [describe(rng, pack, each) for each in groups])
    by_names = [[str(rng.choice(names_of(pack)[name])) for name in each] for each in groups]
    from_start = grouped(rule, pack_from_start, by_names)
    for each in (opt, from_start):
        go(each, 0, 5)
    others = [{"frozen": True, "lr_scale": 0.25}] * 5
    into = grouped(rule, reordered(rng, pack), by_names, others, lr=7.0, weight_decay=0.5)
    resumed = way(opt, into, tmp_path / "file.safetensors")
    assert shown(resumed) == shown(opt)
    assert (resumed.step_count, resumed.schedule, dict(resumed.hyper)) == (5, opt.schedule, dict(opt.hyper))
    for each in (opt, from_start, resumed):
        go(each, 5, 9)
    for expected in (opt, from_start):
        assert_same_by_name(resumed, expected)
        assert shown(resumed) == shown(expected)


@each_way
def test_parts_of_arrays_follow_their_arrays(way: Any, tmp_path: Path) -> None:
    """A group of slices has the same elements of the same arrays, wherever these are."""
    pack = lrcore.Pack({"a": 3, "b": (2, 2), "c": 2})
    other = lrcore.Pack({"c": 2, "b": (2, 2), "a": 3})
    opt = AdamW(pack, groups=[{"params": [(1, 3), (5, 8)], "frozen": True}])
    go(opt, 0, 3)
    resumed = way(opt, AdamW(other, groups=[{"params": [(0, 1), (4, 6), (7, 9)]}]), tmp_path / "file")
    other.assign({name: np.array(view) for name, view in pack.named_arrays().items()})
    assert resumed.groups[1].ranges == ((0, 1), (4, 6), (7, 9))
    assert shown(resumed) == shown(opt)
    for each in (opt, resumed):
        go(each, 3, 6)
    assert_same_by_name(resumed, opt)


# ---- the entry `names`

BEGINS = {
    False: [0, 12, 21, 24, 27, 30, 39, 42, 45, 48, 0, 48],
    True: [0, 16, 32, 48, 64, 80, 96, 112, 128, 144, 0, 144],
}
"""The offsets of the arrays of `model`, without and with padding."""


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("part", PARTS)
def test_the_names_of_a_dictionary(pad: bool, part: str, tmp_path: Path) -> None:
    """They are relative to the part, and in its order. Dictionaries of arrays have none."""
    pack = PARTS[part](model(pad))
    views = pack.named_arrays()
    prefix = {"pack": "", "list": "blocks.", "node": "blocks.1."}[part]
    begins = dict(zip(model().named_arrays(), BEGINS[pad], strict=True))
    first = begins[prefix + next(iter(views))]
    expected = [
        {"name": name, "begin": begins[prefix + name] - first, "shape": [*view.shape]}
        for name, view in views.items()
    ]
    opt = AdamW(pack)
    dictionary = opt.state_dict()
    assert dictionary.pop("names") == expected
    assert dictionary.keys() == AdamW(pack.flat).state_dict().keys()
    opt.save(path := tmp_path / "file")
    assert json.loads(header_of(path)["__metadata__"]["lrcore"])["names"] == expected
    resumed: Any = lrcore.load(path, pack, grads=(grads := pack.like()))
    assert (resumed.params is pack, resumed.grads is grads) == (True, True)
    assert_like(resumed.state["exp_avg"], pack)


# ---- refusals


def contents(opt: Any) -> Any:
    """Return everything that a load could change."""
    dictionary = opt.state_dict()
    params = opt.params if isinstance(opt.params, np.ndarray) else opt.params.flat
    return dictionary, [each.tobytes() for each in (params, *dictionary.pop("state").values())]


def assert_not_loaded(source: Any, into: Any, path: Path, *words: str, anew: bool = True) -> None:
    """Assert that no way loads the state of `source` into `into`, and that nothing changes."""
    before = contents(into)
    source.save(path)
    assert_refused(partial(into.load_state_dict, source.state_dict()), ValueError, *words)
    in_file = [str(path), *(word.removeprefix("^") for word in words)]
    assert_refused(partial(into.load, path), ValueError, *in_file)
    if anew:
        assert_refused(partial(lrcore.load, path, into.params), ValueError, *in_file)
    assert contents(into) == before


def trained(params: Any, groups: Any = None) -> Any:
    """Return an optimizer after two steps."""
    opt = AdamW(params, weight_decay=0.1, groups=groups)
    for _ in range(2):
        opt.step(np.ones(opt.size, np.float32))
    return opt


@pytest.mark.parametrize("case", OTHERS)
def test_other_arrays_are_refused(case: str, tmp_path: Path) -> None:
    """The message has the names or shapes of both sides, in either direction."""
    words = [OTHERS[case][1]]
    words += {"another name": [r"head\.bias", r"head\.b\b"], "another shape": ["9, 1", "3, 3"]}.get(case, [])
    opts = [trained(each) for each in (model(), other_than_model(case, pad=True), model(pad=True))]
    for source, into in ((0, 1), (1, 0), (1, 2)):
        assert_not_loaded(opts[source], opts[into], tmp_path / "file", "^names: ", *words)


def test_packs_and_arrays_are_not_exchanged(tmp_path: Path) -> None:
    pack, flat = model(), model().flat
    assert_not_loaded(trained(pack), trained(flat), tmp_path / "file", "(?i)pass the pack")
    assert_not_loaded(trained(flat), trained(pack), tmp_path / "file", r"\bflat\b")
    assert_refused(partial(lrcore.load, GOLDEN, lrcore.Pack({"a": 5})), ValueError, str(GOLDEN), r"\bflat\b")


@pytest.mark.parametrize(
    ("groups", "others"),
    [
        (["*.b"], ["head.b"]),
        (["head.b", "*.norm.*"], ["*.norm.*", "head.b"]),
        (["head.b", "*.norm.*"], ["head.b", "*.norm.scale"]),
        (["head.b"], [(12, 13)]),  # half of it
        (["head.b"], []),
        ([], ["*"]),
    ],
)
def test_groups_of_other_arrays_are_refused(groups: Any, others: Any, tmp_path: Path) -> None:
    """The message names the group if both have as many groups."""
    pack = lrcore.Pack(dict(reversed(entries().items())))
    opts = [
        trained(params, [{"params": each} for each in of_pack])
        for params, of_pack in ((model(), groups), (pack, others))
    ]
    word = r"groups\[\d\]: " if len(groups) == len(others) else "groups: "
    for source, into in (opts, opts[::-1]):
        assert_not_loaded(source, into, tmp_path / "file", word, anew=False)


# ---- damaged entries


def entry(changes: dict[str, Any], i: int = 1) -> Callable[[list[Any]], Any]:
    """Return a function that changes an entry of the names; ``...`` removes a value."""
    return lambda names: [*names[:i], changed(names[i], changes), *names[i + 1 :]]


WRONG_NAMES: list[Any] = [None, 3, "embed", {}, [], {"embed": 0}, [None], [[]], ["embed"]]
WRONG_ENTRIES: dict[str, list[Any]] = {
    "name": [..., None, 3, "", ["blocks.0.w"], "embed", "head.b", "blocks.0.x"],
    "begin": [..., None, -1, -38, 12.5, "12", True, [12], 0, 11, 13, 42, 45, 50, 2**31, 2**63, 10**30],
    "shape": [
        ..., None, 9, "33", {}, [9], [3, 4], [3, -3], [-3, -3], [3, 3.5], [3, "3"], [True, 9], [[3, 3]],
        [2**32, 2**32], [10**30], [3, 3, 2**62], [0], [1] * 70,
    ],
}  # fmt: skip
"""Values for the second entry, of blocks.0.w, which begins at 12; ``...`` removes the value."""

DAMAGES: list[Callable[[list[Any]], Any]] = [
    *(partial(lambda value, _: value, each) for each in WRONG_NAMES),
    *(entry({key: value}) for key, values in WRONG_ENTRIES.items() for value in values),
    lambda names: names[:-1],
    lambda names: [*names, names[0]],
    lambda names: [*names, {"name": "more", "begin": 50, "shape": []}],
    entry({"begin": 12}, 10),  # head.w, which is tied to embed
    entry({"begin": 1}, 10),
    entry({"shape": [12]}, 10),
    entry({"begin": -1}, 9),  # an array without elements
    lambda names: [each | {"begin": each["begin"] + 1} for each in names],
    lambda names: [each | {"begin": 0} for each in names],
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_names_are_refused(damage: Callable[[list[Any]], Any], tmp_path: Path) -> None:
    """The error is a TypeError or ValueError, and a ValueError with the path if they are in a file."""
    source, into = trained(model()), trained(model(pad=True))
    before = contents(into)
    dictionary = source.state_dict()
    names = dictionary["names"] = damage(dictionary["names"])
    words = "names|exp_avg: expected .* like names"
    assert_refused(partial(into.load_state_dict, dictionary), (TypeError, ValueError), words)
    source.save(path := tmp_path / "file")
    header, data = header_of(path), split(path)[1]
    text = json.dumps(json.loads(header["__metadata__"]["lrcore"]) | {"names": names})
    checksum = f"{zlib.crc32(data, zlib.crc32(text.encode())):08x}"
    put(path, header | {"__metadata__": {"lrcore": text, "lrcore.crc32": checksum}}, data)
    for call in (partial(into.load, path), partial(lrcore.load, path, into.params)):
        assert_refused(call, ValueError, str(path), words)
    assert contents(into) == before


def test_states_that_end_before_the_arrays() -> None:
    into = trained(model(pad=True))
    before = contents(into)
    for shortened in (["exp_avg", "exp_avg_sq"], ["exp_avg_sq"]):
        dictionary = trained(model()).state_dict()
        for name in shortened:
            dictionary["state"][name] = dictionary["state"][name][:49]
        assert_refused(partial(into.load_state_dict, dictionary), ValueError, "names|exp_avg")
        assert contents(into) == before


def test_damaged_groups_are_refused() -> None:
    """Anything but a list is refused, even if its entries are right."""
    into = trained(model(pad=True), groups=[{"params": "*.b"}])
    before, dictionary = contents(into), into.state_dict()
    for groups in (iter(dictionary["groups"]), dict(enumerate(dictionary["groups"])), 3, "groups"):
        wrong = dictionary | {"groups": groups}
        assert_refused(partial(into.load_state_dict, wrong), (TypeError, ValueError), "^groups: expected")
    assert contents(into) == before
