"""Packs in files: names, nesting and ties are restored.

Files from other programs are read as well. Files that do not fit are refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrcore
from files.kinds import KINDS, assert_refused, changed, header_of, put, put_small, refusing, tensor
from gpu.fake_cuda import FakeCuda
from lrcore.pack._tree import tree_map
from support import assert_bits

PACK = KINDS["pack"]

LAYER = {"w": (2, 3), "b": 3}
HEAD = {"s": (), "none": [], "zero": (0, 3)}
ENTRIES: dict[str, Any] = {"layers": [LAYER, LAYER], "head": HEAD, "c": 2}
NAMES = ["layers.0.w", "layers.0.b", "layers.1.w", "layers.1.b", "head.s", "head.zero", "c"]
ONE_TO_21 = np.arange(1, 22, dtype=np.float32)


def model(xp: Any = np, pad: bool = False) -> lrcore.Pack:
    """Return a pack of 21 elements, numbered from 1."""
    pack = lrcore.Pack(ENTRIES)
    pack.flat[:] = ONE_TO_21
    return lrcore.Pack(pack, xp, pad=pad)


def tied(xp: Any = np, pad: bool = False) -> lrcore.Pack:
    """Return a pack of 10 elements, numbered from 1; one array has three names, another two."""
    w, s = np.arange(1, 7, dtype=np.float32).reshape(2, 3), np.array(9, np.float32)
    entries = {
        "embed": w,
        "layers": [{"w": w, "b": np.array([7, 8], np.float32)}, {"s": s}],
        "head": {"w": w, "s": s, "c": np.array([10], np.float32)},
    }
    return lrcore.Pack(entries, xp, pad=pad)


def untied() -> lrcore.Pack:
    """Return a pack with the same names and values, in which each name has its own array."""
    return lrcore.Pack(tree_map(lambda _, view: view.copy(), tied().tree()))


def by_others(path: Path, arrays: Mapping[str, Any], **metadata: str) -> None:
    """Write a file without lrcore's text, as another program would."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    data = b""
    for name, each in arrays.items():
        values = np.array(each, np.float32)
        header[name] = tensor([*values.shape], len(data), len(data) + values.nbytes)
        data += values.tobytes()
    put(path, header, data)


def loaded(path: Path, pack: lrcore.Pack) -> lrcore.Pack:
    """Return a pack after loading a file over other values."""
    pack.flat = -1
    pack.load(path)
    return pack


def assert_does_not_fit(path: Path, match: str, pack: lrcore.Pack) -> None:
    """Assert that a pack refuses the file, which is valid, and keeps its values."""
    lrcore.Pack.from_file(path)
    with refusing(path, f"^{path}: {match}", into=pack):
        pack.load(path)


# ---- round trips


@pytest.mark.parametrize("make", [model, tied])
@pytest.mark.parametrize("pad", [False, True])
def test_there_and_back(make: Callable[..., lrcore.Pack], pad: bool, path: Path) -> None:
    """Names and their order, nesting, ties and all bits of the values are restored; padding is not stored."""
    pack = make(pad=pad)
    bits = np.array([0x7FC01234, 0xFFC00001, 0x80000000, 1, 0x7F800000, 0xFF7FFFFF], np.uint32)
    pack.flat[:6] = bits.view(np.float32)
    pack.save(path)
    expected = {name: view.tobytes() for name, view in pack.named_arrays().items()}
    for pad_there in (False, True):
        made = lrcore.Pack.from_file(path, pad=pad_there)
        into = make(pad=pad_there)
        views = into.named_arrays()
        loaded(path, into)
        for each in (made, into):
            assert repr(each) == repr(make(pad=pad_there))
            assert {name: view.tobytes() for name, view in each.named_arrays().items()} == expected
        assert all(view is views[name] for name, view in into.named_arrays().items())
    assert [*path.parent.iterdir()] == [path]
    with pytest.raises(TypeError, match="^pad: expected True or False"):
        lrcore.Pack.from_file(path, pad=64)  # type: ignore[arg-type]


def test_an_empty_pack(path: Path) -> None:
    trees: list[dict[str, Any]] = [{}, {"a": [], "b": {}}]
    for entries in trees:
        lrcore.Pack(entries).save(path)
        assert repr(lrcore.Pack.from_file(path)) == repr(lrcore.Pack(entries))
        lrcore.Pack(entries).load(path)


def test_the_file_says_how_it_is_nested_and_tied(path: Path) -> None:
    """A tied array is stored once, under its first name; the text lists its other names."""
    layer = {"w": "[2, 3]", "b": "[3]"}
    head = {"s": "[]", "none": [], "zero": "[0, 3]"}
    own = {"format": 2, "version": lrcore.__version__, "class": "Pack"}
    model().save(path)
    header = header_of(path)
    assert {*header} == {"__metadata__", *NAMES}
    structure = {"layers": [layer, layer], "head": head, "c": "[2]"}
    assert json.loads(header["__metadata__"]["lrcore"]) == own | {"structure": structure}
    tied().save(path)
    header = header_of(path)
    assert {*header} == {"__metadata__", "embed", "layers.0.b", "layers.1.s", "head.c"}
    text = json.loads(header["__metadata__"]["lrcore"])
    assert text["ties"] == {"layers.0.w": "embed", "head.w": "embed", "head.s": "layers.1.s"}
    assert text["structure"]["head"] == {"w": "[2, 3]", "s": "[]", "c": "[1]"}


@pytest.mark.parametrize("metadata", [{}, {"format": "pt"}, {"lrcore_run": "7"}])
def test_a_file_by_others(metadata: dict[str, str], path: Path) -> None:
    """The file's names have dots. A pack made from it is flat; a pack that loads it keeps its own nesting.

    Other metadata are ignored, even if their name starts with ``lrcore``.
    """
    by_others(path, model().named_arrays(), **metadata)
    made = lrcore.Pack.from_file(path)
    assert {*made} == {*NAMES}
    assert_bits(made["layers.1.w"], model()["layers"][1]["w"])
    for other in (model(), lrcore.Pack(model().named_arrays())):
        assert_bits(loaded(path, other).flat, ONE_TO_21)


def test_a_part_with_ties(path: Path) -> None:
    """If an array in a part is tied to one outside, it is stored with the part and loaded in place."""
    w = np.arange(1, 3, dtype=np.float32)
    pack = lrcore.Pack({"embed": w, "layers": [{"w": w}, {"w": w, "b": 1}]})
    pack["layers"][1].save(path)
    made = lrcore.Pack.from_file(path)
    assert repr(made) == "Pack({'w': (2,), 'b': (1,)}, xp=numpy)"
    assert_bits(made.flat, np.array([1, 2, 0], np.float32))
    made.flat = [5, 6, 7]
    made.save(path)
    pack["layers"][1].load(path)
    assert_bits(pack.flat, np.array([5, 6, 7], np.float32))


@pytest.mark.parametrize("make", [model, tied])
@pytest.mark.parametrize("pad", [False, True])
def test_between_devices(make: Callable[..., lrcore.Pack], pad: bool, path: Path) -> None:
    with FakeCuda() as fake:
        cupy = fake.cupy
        there = make(cupy, pad=pad)
        there.save(path)
        assert repr(lrcore.Pack.from_file(path)) == repr(make())
        assert_bits(lrcore.Pack.from_file(path).flat, make().flat)
        again = lrcore.Pack.from_file(path, cupy, pad=pad)
        assert repr(again) == repr(there)
        assert type(again.flat) is cupy.ndarray
        assert_bits(cupy.asnumpy(again.flat), cupy.asnumpy(there.flat))
        there["head"].save(path)
        assert_bits(lrcore.Pack.from_file(path).flat, lrcore.Pack(make()["head"]).flat)
        by_others(path, {name: view + 1 for name, view in make().named_arrays().items() if name != "embed"})
        again.load(path)
        for name, view in again.named_arrays().items():
            assert_bits(cupy.asnumpy(view), make().named_arrays()[name] + np.float32(1))


@pytest.mark.parametrize(
    "name", ["é", "a b", 'a"b', "\n", "lrcore", "dtype", "a.b", ".", "0", "layers.__metadata__"]
)
def test_names_of_all_kinds(name: str, path: Path) -> None:
    pack = lrcore.Pack({name: {name: np.ones(2, np.float32)}})
    pack.save(path)
    assert lrcore.Pack.from_file(path)[name][name].tolist() == [1, 1]
    pack.load(path)


@pytest.mark.parametrize("entries", [{"__metadata__": 2}, {"layers": {"\ud800": 2}}])
def test_names_without_a_place(entries: dict[str, Any], path: Path) -> None:
    with pytest.raises(ValueError, match=f"^{path}: .*(__metadata__|ud800).*; rename the array"):
        lrcore.Pack(entries).save(path)
    assert not path.exists()


# ---- files that do not fit


def test_other_packs(path: Path) -> None:
    """The file is valid, but its names, nesting or shapes are those of another pack."""
    model().save(path)
    for changes, match in (
        ({"c": ...}, "c: unknown; expected"),
        ({"d": 1}, "d: missing"),
        ({"layers": [LAYER] * 3}, r"layers\.2\.w: missing"),
        ({"c": 3}, r"c: expected F32 of shape \[3\], got F32 of shape \[2\]"),
        ({"layers": [LAYER, {"w": (3, 2), "b": 3}]}, r"layers\.1\.w: expected F32 of shape"),
        ({"head": HEAD | {"s": 1}}, r"head\.s: expected F32 of shape \[1\], got"),
        ({"layers": {"0": LAYER, "1": LAYER}}, "layers: expected a dictionary of .*got list"),
        ({"head": HEAD | {"none": {}}}, r"head\.none: expected a dictionary"),
        ({"head": changed(HEAD, {"none": ...})}, r"head\.none: unknown"),
    ):
        assert_does_not_fit(path, match, lrcore.Pack(changed(ENTRIES, changes)))
    assert_does_not_fit(path, r"layers\.0\.w: missing", lrcore.Pack(model().named_arrays()))
    reordered = lrcore.Pack({"c": 2, "head": {"zero": (0, 3), "none": [], "s": ()}, "layers": [LAYER, LAYER]})
    assert_bits(loaded(path, reordered).flat, np.array([20, 21, 19, *range(1, 19)], np.float32))


def test_files_by_others_that_do_not_fit(path: Path) -> None:
    for make, changes, match in (
        (model, {"c": [1, 2, 3]}, r"c: expected F32 of shape \[2\], got F32 of shape \[3\]"),
        (model, {"layers.2.w": [1, 2, 3]}, r"layers\.2\.w: unknown"),
        (model, {"c": ...}, "c: missing"),
        (tied, dict.fromkeys(["embed", "layers.0.w", "head.w"], ...), "embed: missing"),
        (tied, {"layers.0.b": ...}, r"layers\.0\.b: missing"),
        (tied, {"head.w": ..., "more": [1]}, "more: unknown"),
        (tied, {"head.w": ..., "embed": [1]}, "embed: expected F32 of shape"),
    ):
        by_others(path, changed(make().named_arrays(), changes))
        assert_does_not_fit(path, match, make())


# ---- tied arrays


def test_tied_files_and_packs_that_are_not(path: Path) -> None:
    """A pack without ties loads a file with ties, which has values for all names.

    A pack with ties loads a file without ties if the file's values for tied names agree.
    """
    tied().save(path)
    partly = untied().tree()
    partly["head"]["w"] = partly["embed"]
    for pack in (untied(), lrcore.Pack(partly)):
        expected = pack.flat.copy()
        assert_bits(loaded(path, pack).flat, expected)
    untied().save(path)
    assert_bits(loaded(path, tied()).flat, tied().flat)


@pytest.mark.parametrize("own", [True, False])
def test_values_that_differ_between_tied_names(own: bool, path: Path) -> None:
    pack = untied()
    pack["head"]["w"][1, 1] = -1
    if own:
        pack.save(path)
    else:
        by_others(path, pack.named_arrays())
    assert_does_not_fit(path, r"head\.w: expected the values of embed, which is the same array", tied())


@pytest.mark.parametrize(
    "missing",
    ["embed", "layers.0.w", "head.w", "embed head.w", "layers.0.w head.w layers.1.s", "head.s", ""],
)
def test_files_by_others_without_some_tied_names(missing: str, path: Path) -> None:
    """Any of the tied names may be missing, as long as one of them is present."""
    names = missing.split()
    by_others(path, changed(tied().named_arrays(), dict.fromkeys(names, ...)))
    assert_bits(loaded(path, tied()).flat, tied().flat)
    if names:
        assert_does_not_fit(path, f"{names[0]}: missing", untied())


def text_of(structure: dict[str, Any], ties: Any) -> str:
    """Return the text of the small pack with ties and a changed structure."""
    return json.dumps(PACK.text | {"structure": changed(PACK.text["structure"], structure), "ties": ties})


@pytest.mark.parametrize(("kept", "shape"), [("b", "[]"), ("a.0.w", "[2]")])
def test_ties_of_either_order(kept: str, shape: str, path: Path) -> None:
    """The stored name may come before or after a tied one in the tree."""
    structure = {"c": shape} | PACK.text["structure"] | {"d": shape}
    text = json.dumps(PACK.text | {"structure": structure, "ties": {"c": kept, "d": kept}})
    pack = lrcore.Pack.from_file(put_small(path, PACK, text))
    assert repr(pack).endswith(f", ties={dict.fromkeys([kept, 'd'], 'c')})")
    assert (loaded(path, pack).flat == 2).all()


WRONG_TIES: list[tuple[dict[str, Any], Any, str]] = [
    ({}, None, "ties: expected a dictionary, got NoneType"),
    ({}, ["c", "b"], "ties: expected a dictionary, got list"),
    ({"c": "[]"}, {"c": "b", "d": "b"}, "ties: d: expected a name that is in the structure and not stored"),
    ({"c": "[]"}, {"c": "b", "a.0.w": "b"}, r"ties: a\.0\.w: expected a name .* and not stored"),
    ({"c": "[]"}, {"c": "b", "b": "b"}, "ties: b: expected a name that is in the structure and not stored"),
    ({"c": "[]"}, {"c": "c"}, "ties: c: expected the name of a stored array, got 'c'"),
    ({"c": "[]"}, {"c": None}, "ties: c: expected the name of a stored array, got None"),
    ({"c": "[]", "d": "[]"}, {"c": "b", "d": "c"}, "ties: d: expected the name of a stored array, got 'c'"),
    ({"c": "[]"}, {"c": "a.0.w"}, r"ties: c: expected the shape of a\.0\.w, '\[2\]', got '\[\]'"),
    ({"b": ..., "c": None}, {"c": "b"}, "ties: c: expected the shape of b|(b|c): unknown"),
]


@pytest.mark.parametrize(("structure", "ties", "match"), WRONG_TIES)
def test_wrong_ties(structure: dict[str, Any], ties: Any, match: str, path: Path) -> None:
    assert_refused(put_small(path, PACK, text_of(structure, ties)), PACK, f"^{path}: ({match})")


@pytest.mark.parametrize("part", [[], {}, "[]", 0])
def test_a_long_name_does_not_fill_the_memory(part: Any, path: Path) -> None:
    """Each path repeats all names above its part, so paths could grow with the square of the file's size."""
    entries = {"x" * 50_000: [part] * 2_000}
    refusal = f"^{path}: structure: expected paths of at most 99000000 characters in total"
    assert_refused(put_small(path, PACK, json.dumps(PACK.text | {"structure": entries})), PACK, refusal)
    path.unlink()
    if not isinstance(part, (str, int)):
        with pytest.raises(ValueError, match=refusal):
            lrcore.Pack(entries).save(path)
        assert not path.exists()
