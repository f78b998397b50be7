"""`lrcore.Pack`: named and nested views of one flat buffer."""

from __future__ import annotations

import copy
import math
import pickle
import re
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import pytest

import lrcore
from gpu.fake_cuda import FakeCuda
from lrcore.pack import PackList, layout
from lrcore.pack._tree import tree_map
from support import assert_bits, make


def model(pad: bool = False) -> lrcore.Pack:
    """Return a pack of 46 elements, numbered from 0."""
    layer = {"w": (2, 3), "b": 3}
    pack = lrcore.Pack({"embed": (5, 2), "layers": [layer, layer], "head": {"w": (4, 4), "s": [()]}, "c": 1})
    pack.flat[:] = np.arange(46)
    return lrcore.Pack(pack, pad=pad)


W = np.arange(24, dtype=np.float32).reshape(4, 6)

TIES = {"layers.0.w": "embed", "layers.1.w": "embed", "layers.1.v": "layers.0.v", "head.s.0": "c"}
"""Ties of `tied`: across dictionaries and lists, within a list, and from a later part to an earlier name."""


def tied(pad: bool = False) -> lrcore.Pack:
    """Return a pack of five arrays, of 6, 3, 2, 1 and 2 elements, with nine names and values from 0 to 13."""
    w, v, c = np.ones((2, 3), np.float32), np.zeros(3, np.float32), np.zeros((), np.float32)
    entries = {
        "embed": w,
        "layers": [{"w": w, "v": v, "b": 2}, {"w": w[:], "v": v.reshape(1, 3)[0]}],
        "c": c,
        "head": {"s": [c], "u": np.ones(2, np.float32)},
    }
    pack = lrcore.Pack(entries, pad=pad)
    first = 0
    for name, view in pack.named_arrays().items():
        if name not in TIES:
            view[...] = np.arange(first, first + view.size).reshape(view.shape)
            first += view.size
    return pack


def assert_tied(pack: Any, ties: dict[str, str], other: Any = None) -> None:
    """Assert that tied names share all their memory, and other names none; nothing is shared with `other`."""
    arrays = pack.named_arrays()
    for name, view in arrays.items():
        for former, its_view in arrays.items():
            same = ties.get(name, name) == ties.get(former, former)
            assert np.shares_memory(view, its_view) == (same and view.size > 0), (name, former)
            if same:
                assert (view.ctypes.data, view.shape) == (its_view.ctypes.data, its_view.shape)
        assert other is None or not np.shares_memory(view, other.flat)


def assert_same(pack: Any, expected: Any) -> None:
    """Assert that a pack or part has the expected type, names, shapes, ties and bits."""
    assert type(pack) is type(expected)
    assert repr(pack) == repr(expected)
    for name, view in pack.named_arrays().items():
        assert_bits(view, expected.named_arrays()[name])


# ---- views and trees


def test_views_lie_one_after_another() -> None:
    """Views lie in the order of the entries, depth first; a tree has the same views in dicts and lists."""
    pack = model()
    starts = {name: int(view.ravel()[0]) for name, view in pack.named_arrays().items()}
    assert starts == {
        "embed": 0, "layers.0.w": 10, "layers.0.b": 16, "layers.1.w": 19, "layers.1.b": 25, "head.w": 28, "head.s.0": 44, "c": 45
    }  # fmt: skip
    assert [*starts.values()] == sorted(starts.values())
    assert all(np.shares_memory(view, pack.flat) for view in pack.named_arrays().values())
    assert ([*pack], len(pack)) == (["embed", "layers", "head", "c"], 4)
    assert {name: view.shape for name, view in pack["layers"][1].items()} == {"w": (2, 3), "b": (3,)}
    assert pack["head"]["s"][0].shape == ()
    assert pack["layers"][0]["w"] is pack.named_arrays()["layers.0.w"]
    assert "d" not in pack
    assert pack.get("d") is None
    tree = pack.tree()
    assert type(tree) is type(tree["head"]) is type(tree["layers"][0]) is dict
    assert type(tree["layers"]) is type(tree["head"]["s"]) is type(pack["layers"].tree()) is list
    assert tree["layers"][1]["b"] is pack["layers"][1]["b"]
    assert [*pack["layers"].named_arrays()] == ["0.w", "0.b", "1.w", "1.b"]


def test_empty_and_aligned() -> None:
    assert lrcore.Pack({}).flat.shape == (0,)
    assert lrcore.Pack({"w": 5}).flat.ctypes.data % 64 == 0


def test_the_values_of_arrays_are_copied_in() -> None:
    """An array for which only a shape is given is zero."""
    w = np.arange(6, dtype=np.float32).reshape(2, 3)
    pack = lrcore.Pack({"layers": [{"w": 3}, {"w": w.T, "s": np.float32(7)}]})
    assert_bits(pack.flat, np.array([0, 0, 0, 0, 3, 1, 4, 2, 5, 7], np.float32))
    pack.flat[:] = 0
    assert w.any()


def test_a_node_is_stepped_by_itself() -> None:
    """A node is a slice of the buffer."""
    pack = model()
    layer = pack["layers"][1]
    assert_bits(pack["layers"].flat, np.arange(10, 28, dtype=np.float32))
    grads = layer.like()
    grads["b"] = -100
    lrcore.SGD(layer.flat, lr=1.0, grads=grads.flat).step()
    assert_bits(pack.flat, np.array([*range(25), 125, 126, 127, *range(28, 46)], np.float32))


def test_a_list_is_a_sequence() -> None:
    layers = model()["layers"]
    assert isinstance(layers, PackList)
    assert len(layers) == 2
    assert [layer["w"].shape for layer in layers] == [(2, 3), (2, 3)]
    assert layers[-1] is layers[1]
    assert layers != model()["layers"]
    assert layers[:1] == [layers[0]]
    assert repr(layers) == "PackList([{'w': (2, 3), 'b': (3,)}, {'w': (2, 3), 'b': (3,)}], xp=numpy)"
    with pytest.raises(IndexError):
        _ = layers[2]
    with pytest.raises(IndexError):
        layers[2] = {}
    with pytest.raises(TypeError, match="'slice' object cannot be interpreted as an integer"):
        layers[:1] = [layers[0]]  # type: ignore[index]


def test_what_is_a_list_and_what_a_shape() -> None:
    """NumPy integers count as integers."""
    pack = lrcore.Pack(
        {"a": [], "b": {}, "c": [2, 3], "d": [[2, np.int64(3)]], "e": (), "f": [()], "g": [np.int32(2), {"w": 3}], "h": ((2,), 4, W)}
    )  # fmt: skip
    shapes = {name: view.shape for name, view in pack.named_arrays().items()}
    assert shapes == {
        "c": (2, 3), "d.0": (2, 3), "e": (), "f.0": (), "g.0": (2,), "g.1.w": (3,), "h.0": (2,), "h.1": (4,), "h.2": (4, 6)
    }  # fmt: skip
    assert len(pack["a"]) == len(pack["b"]) == 0
    assert pack["a"].flat.shape == pack["b"].flat.shape == (0,)
    assert pack.tree()["a"] == []
    again = eval(repr(pack).replace(", xp=numpy", ""), {"Pack": lrcore.Pack})
    assert repr(again) == repr(pack)


@pytest.mark.parametrize(("build", "ties"), [(model, {}), (tied, TIES)])
def test_a_pack_of_a_pack(build: Callable[[], lrcore.Pack], ties: dict[str, str]) -> None:
    """A pack made from a whole pack, its tree, its parts or its arrays is a copy with the same ties."""
    pack = build()
    for entries in (pack, pack.tree(), {**pack, "layers": pack["layers"]}):
        again = lrcore.Pack(entries)
        assert_same(again, pack)
        assert_tied(again, ties, other=pack)
    named = lrcore.Pack(pack.named_arrays())
    assert_bits(named.flat, pack.flat)
    assert_tied(named, ties)


# ---- writing


def test_writing_in_place() -> None:
    """Views stay the same objects, and values are converted as by ``view[...] = values``."""
    pack = model()
    views = pack.named_arrays()
    pack["c"] = np.float32(3)
    pack["layers"][0]["w"] = [[1, 2, 3], [4, 5, 6]]
    pack["layers"][0]["b"] -= 1
    pack["layers"][1] = {"w": np.full((2, 3), 0.1), "b": (7, 8, 9)}
    pack["head"] = {"s": [5], "w": np.eye(4, dtype=int)}
    expected = [1, 2, 3, 4, 5, 6, 15, 16, 17, *[0.1] * 6, 7, 8, 9, *np.eye(4).ravel(), 5, 3]
    assert_bits(pack.flat[10:], np.array(expected, np.float32))
    before = pack.flat.copy()
    pack.assign(tree_map(lambda _, view: view + np.float64(1), pack.tree()))
    assert_bits(pack.flat, before + np.float32(1))
    pack.assign(pack)
    pack["layers"] = tuple(pack["layers"])
    assert all(view is views[name] for name, view in pack.named_arrays().items())


def test_flat_is_written_in_place() -> None:
    pack = model()
    flat = pack["layers"][1].flat
    pack["layers"][1].flat *= 2
    pack["head"].flat = 0.5
    assert_bits(pack.flat, np.array([*range(19), *range(38, 56, 2), *[0.5] * 17, 45], np.float32))
    assert pack["layers"][1].flat is flat
    with pytest.raises(ValueError, match=r"^flat: expected shape \(46,\), got \(45,\)$"):
        pack.flat = np.ones(45)


def test_writing_what_lies_in_the_buffer() -> None:
    """All values are read before any is written, including values outside the part and under tied names."""
    pack = model()
    pack["layers"] = [pack["layers"][1], pack["layers"][0]]
    assert_bits(pack["layers"].flat, np.array([*range(19, 28), *range(10, 19)], np.float32))
    w = np.array([1, 2], np.float32)
    pack = lrcore.Pack({"embed": w, "head": {"w": w, "b": 2}})
    pack["head"] = {"w": [3, 4], "b": pack["embed"]}
    assert_bits(pack.flat, np.array([3, 4, 1, 2], np.float32))


class Once:
    """An object whose conversion to an array fails."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise RuntimeError("is of no use")


WRONG: list[tuple[Any, type[Exception], str]] = [
    (lambda tree: tree.pop("c"), ValueError, "^c: missing"),
    (lambda tree: tree["layers"][1].pop("b"), ValueError, r"^layers\.1\.b: missing"),
    (lambda tree: tree["layers"][1].update(v=1), ValueError, r"^layers\.1\.v: unknown; expected .*'w', 'b'"),
    (lambda tree: tree["layers"].append({}), ValueError, "^layers: expected 2 entries, got 3"),
    (lambda tree: tree["layers"].pop(), ValueError, "^layers: expected 2 entries, got 1"),
    (lambda tree: tree.update(layers={"0": 1, "1": 2}), TypeError, "^layers: expected a list of 2 entries, got dict"),
    (lambda tree: tree.update(layers="ab"), TypeError, "^layers: expected a list of 2 entries, got str"),
    (lambda tree: tree.update(layers=np.ones((2, 3))), TypeError, "^layers: expected a list .*got ndarray"),
    (lambda tree: tree.update(head=[1, 2]), TypeError, r"^head: expected a dictionary .*'w', 's'.*, got list"),
    (lambda tree: tree["head"].update(w=np.ones(4)), ValueError, r"^head\.w: expected shape \(4, 4\), got \(4,\)"),
    (lambda tree: tree.update(c=0.0), ValueError, r"^c: expected shape \(1,\), got \(\)"),
    (lambda tree: tree.update(c={"w": 1}), TypeError, "^c: expected .*float32.*, got dict"),
    (lambda tree: tree.update(c=[[1], [1, 2]]), TypeError, "^c: expected .*float32.*, got list"),
    (lambda tree: tree.update(c=Once()), TypeError, "^c: expected .*float32.*, got Once: is of no use"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "error", "match"), WRONG, ids=[match for *_, match in WRONG])
def test_wrong_trees(change: Any, error: type[Exception], match: str) -> None:
    """Nothing is written, even though the wrong entry comes last."""
    pack = model()
    tree = tree_map(lambda _, view: view + 1, pack.tree())
    change(tree)
    with pytest.raises(error, match=match):
        pack.assign(tree)
    assert_bits(pack.flat, np.arange(46, dtype=np.float32))


def test_errors_name_the_whole_path() -> None:
    """Error messages contain the whole path even if only an inner node is written."""
    pack = model()
    with pytest.raises(ValueError, match=r"^layers\.1\.w: expected shape"):
        pack["layers"][1] = {"w": 1, "b": [1, 2, 3]}
    with pytest.raises(TypeError, match=r"^tree: expected a dictionary .*, got list"):
        pack.assign([])
    with pytest.raises(KeyError, match=r"^'1\.w: expected one of 0, 1; write named_arrays\(\)\[\"1\.w\"\]'$"):
        _ = lrcore.Pack({"0": {"w": 1}, "1": {"w": 1}})["1.w"]
    for name, hint in (("v", ""), ("step", ""), ("W", "; did you mean w[?]")):
        with pytest.raises(KeyError, match=f"^'{name}: expected one of w, b{hint}'$"):
            _ = pack["layers"][0][name]
        with pytest.raises(KeyError, match=f"^'{name}: expected one of w, b{hint}'$"):
            pack["layers"][0][name] = 1
        with pytest.raises(AttributeError, match=rf'^{name}: .*write pack\["{name}"\]'):
            setattr(pack["layers"][0], name, 1)
    copied = copy.deepcopy(pack["layers"][1])  # a separate pack
    with pytest.raises(ValueError, match="^w: expected shape"):
        copied.assign({"w": 1, "b": [1, 2, 3]})


def assert_not_written(wrong: Any, error: type[Exception], match: str) -> None:
    """Assert that each way of writing these values raises an error with the path, and writes nothing."""
    pack = lrcore.Pack({"a": {"w": 3}})
    with pytest.raises(error, match=rf"^a\.w: {match}"):
        pack["a"]["w"] = wrong
    with pytest.raises(error, match=rf"^a\.w: {match}"):
        pack.assign({"a": {"w": wrong}})
    with pytest.raises(error, match=rf"^a\.flat: {match}"):
        pack["a"].flat = wrong
    assert not pack.flat.any()


SHAPE = r"expected shape \(3,\), got \("
MASKED = (
    "expected a plain array, got Masked(Array|Constant), whose mask .*; pass its filled\\(0\\) or its data"
)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        *((each, "expected") for each in (None, "3", ["1", "2", "3"], np.ones(3) * 1j, [1j] * 3)),
        *((np.array([1, 2, 3], kind), "expected") for kind in ("datetime64[s]", "timedelta64[s]", object)),
        *((each, SHAPE) for each in (np.ones(4), np.ones(1), np.ones((1, 3)), [1, 2], [[1, 2, 3]])),
        (np.ma.array([1, 2, 3], np.float32, mask=[False, True, False]), MASKED),
        (np.ma.array([1, 2, 3], np.float32), MASKED),
        (np.ma.array([1, 2, 3], mask=True), MASKED),
        ([np.ma.array(1.0), 2, 3], MASKED),
        (([1.0], [np.ma.masked], [np.float32(3)]), MASKED),
    ],
    ids=lambda each: type(each).__name__,
)  # fmt: skip
def test_what_does_not_fit_is_not_written(wrong: Any, match: str) -> None:
    """NumPy would convert such values to numbers or NaN, take real parts, broadcast, and ignore masks."""
    assert_not_written(wrong, ValueError if match == SHAPE else TypeError, match)
    if isinstance(wrong, np.ma.MaskedArray):
        narrow: Any = wrong.astype(np.float32)
        with pytest.raises(TypeError, match=rf"^a\.w: {match}"):
            lrcore.Pack({"a": {"w": narrow}})
        assert_bits(lrcore.Pack({"w": narrow.filled(0)}).flat, narrow.filled(0))


# ---- entries that are refused


@pytest.mark.parametrize(
    "entry",
    [(2, -1), -1, (2, 1.5), "ab", None, 3.0, True, (True, 2), (2, "x"), b"ab", {1, 2}, np.float32],
    ids=repr,
)
def test_wrong_shapes(entry: Any) -> None:
    error = ValueError if entry in ((2, -1), -1) else TypeError
    match = "expected (a float32 array, a shape|an array or a shape|dimensions >= 0)"
    with pytest.raises(error, match=rf"^layers\.1\.w: {match}"):
        lrcore.Pack({"layers": [{"w": 3}, {"w": entry}]})


class Half:
    """An array of a dtype that NumPy lacks."""

    dtype, shape = "torch.bfloat16", (3,)


DTYPES = ["f8", "f2", "i4", "u1", "?", "c8", "O", "U", ">f4", "M8[s]"]


@pytest.mark.parametrize(
    "w", [*(np.zeros(3).astype(dtype) for dtype in DTYPES), Half()], ids=lambda w: str(w.dtype)
)
def test_wrong_dtypes(w: Any) -> None:
    match = re.escape(f"expected dtype float32, got {w.dtype}; make a float32 array")
    with pytest.raises(TypeError, match=rf"^layers\.1\.w: {match}"):
        lrcore.Pack({"layers": [{"w": 2}, {"w": w}]})


@pytest.mark.parametrize(
    ("entries", "error", "match"),
    [
        ([("w", 3)], TypeError, "^entries: expected a dictionary, got list"),
        ({3: 1}, TypeError, "^entries: expected names that are strings, got 3"),
        ({"a": {None: 1}}, TypeError, "^a: expected names that are strings, got None"),
        ({"": 1}, ValueError, "^entries: expected names that are not empty"),
        ({"a": [{"": 1}]}, ValueError, r"^a\.0: expected names that are not empty"),
        ({"a.b": 1, "a": {"b": 2}}, ValueError, r"^a\.b: two arrays have this path; rename one"),
        ({"a": [1, {"w": 2}], "a.1": {"w": 3}}, ValueError, r"^a\.1\.w: two arrays have this path"),
    ],
)
def test_wrong_names(entries: Any, error: type[Exception], match: str) -> None:
    """Names may have dots, as long as no two arrays have the same path."""
    with pytest.raises(error, match=match):
        lrcore.Pack(entries)
    dotted = lrcore.Pack({"a.b": 1, "a": {"c": 2, "b": {}}})
    assert [*dotted.named_arrays()] == ["a.b", "a.c"]


@pytest.mark.parametrize("part", [lambda pack: pack, lambda pack: pack["layers"]], ids=["Pack", "PackList"])
def test_a_pack_in_place_of_its_buffer(part: Callable[[lrcore.Pack], Any]) -> None:
    """The functions, and optimizers over plain arrays, take only arrays."""
    array = np.zeros(3, np.float32)
    for pack in (part(model()), part(tied())):
        match = f"expected a float32 array .*got {type(pack).__name__}; pass its \\.flat$"
        with pytest.raises(TypeError, match=f"^params: {match}"):
            lrcore.functional.sgd(pack, array, lr=0.1, step=1)
        with pytest.raises(TypeError, match=f"^grads: {match}"):
            lrcore.Adam(array).step(pack)


@pytest.mark.parametrize(
    "kind", ["freed", "zero", "masked", "sparse", pytest.param("fake", marks=pytest.mark.slow)]
)
def test_tensors_without_memory_are_refused(kind: str) -> None:
    """Tensors whose values are not simply the contents of their memory are refused, too."""
    torch = pytest.importorskip("torch")
    w, wrong = torch.arange(3.0), torch.ones(3)
    error: type[Exception] = TypeError
    match = "expected a plain tensor, got (Masked|Fake)Tensor"
    if kind == "freed":
        wrong.untyped_storage().resize_(0)
        error, match = ValueError, "expected an array with memory, got a null pointer"
    elif kind == "zero":
        wrong, match = torch._efficientzerotensor(3), "expected a tensor with memory, got a zero tensor"
    elif kind == "masked":
        with warnings.catch_warnings(action="ignore"):  # masked tensors are a prototype
            wrong = torch.masked.masked_tensor(w, w > 0)
    elif kind == "sparse":
        wrong, match = wrong.to_sparse(), "expected an array, .*, got (Tensor|list|tuple): .*[Ss]parse"
    else:
        with pytest.importorskip("torch._subclasses.fake_tensor").FakeTensorMode():
            wrong = torch.ones(3)
    for entry in (wrong, [wrong], ([0.0], (wrong,))):
        assert_not_written(entry, error, match)
    with pytest.raises(error, match=rf"^a\.w: {match}"):
        lrcore.Pack({"a": {"w": wrong}, "b": w} | ({} if kind == "sparse" else {"c": w[1:]}))


def test_tensors_are_written() -> None:
    """Lists of tensors can be written, too. Tensors without elements need no memory."""
    torch = pytest.importorskip("torch")
    none = torch.ones(3)[:0]
    none.untyped_storage().resize_(0)
    pack = lrcore.Pack({"none": none, "w": 3})
    pack["w"] = torch.arange(3.0)
    assert_bits(pack.flat, np.arange(3, dtype=np.float32))
    pack["w"] = [torch.tensor(1.0), 2, torch.tensor(5, dtype=torch.int8)]
    assert_bits(pack.flat, np.array([1, 2, 5], np.float32))


# ---- copies


def copies_of(part: Any) -> list[Any]:
    """Return a deep copy, and a copy made by pickling."""
    return [copy.deepcopy(part), pickle.loads(pickle.dumps(part))]


TIES_OF_PARTS: dict[tuple[Any, ...], dict[str, str]] = {
    (): TIES,
    ("layers",): {"1.w": "0.w", "1.v": "0.v"},
    ("layers", 0): {},
    ("layers", 1): {},
    ("head",): {},
    ("head", "s"): {},
}


@pytest.mark.parametrize("keys", TIES_OF_PARTS)
@pytest.mark.parametrize("pad", [False, True])
def test_copies_keep_ties(pad: bool, keys: tuple[Any, ...]) -> None:
    """Copies of a pack or part keep all bits. An array tied to one outside the part gets its own memory.

    A deep copy begins at a cache line. ``like()`` makes a pack of zeros with the same names and ties.
    """
    for pack, ties in ((model(pad), {}), (tied(pad), TIES_OF_PARTS[keys])):
        part: Any = pack
        for key in keys:
            part = part[key]
        for copied in copies_of(part):
            assert_same(copied, part)
            assert_tied(copied, ties, other=pack)
            assert all(np.shares_memory(view, copied.flat) for view in copied.named_arrays().values())
        assert copy.deepcopy(part).flat.ctypes.data % 64 == 0
        like = part.like()
        assert (type(like), repr(like)) == (type(part), repr(part))
        assert_tied(like, ties, other=pack)
        assert not like.flat.any()
        own = {id(view): view.shape for view in part.named_arrays().values()}
        assert like.flat.size == layout([*own.values()], pad)[1]


class Own(lrcore.Pack):
    """A user-defined class."""


def test_a_class_of_the_callers_own() -> None:
    """Copies have the user's class, but their parts have lrcore's. Shallow copies share their buffer."""
    pack = Own(model())
    for each in (pack, *copies_of(pack), pack.like(), copy.copy(pack)):
        assert type(each) is Own
        assert type(each["head"]) is type(each["layers"][0]) is lrcore.Pack
    assert copy.copy(pack["layers"]).flat is pack["layers"].flat


def test_copies_of_tied_packs_go_on_sharing() -> None:
    """If an optimizer is copied together with its tied pack, it steps the copy of the pack."""
    pack = tied()
    grads = pack.like()
    together = (pack, grads, lrcore.SGD(pack.flat, lr=1.0, grads=grads.flat))
    for new_pack, new_grads, opt in copies_of(together):
        assert opt.params is new_pack.flat
        new_grads["layers"][1]["w"] = -1
        opt.step()
        assert_bits(new_pack["embed"], pack["embed"] + np.float32(1))
        assert_tied(new_pack, TIES, other=pack)


def test_a_pickle_of_before_there_were_ties() -> None:
    pack = lrcore.Pack.__new__(lrcore.Pack)
    flat = np.arange(4, dtype=np.float32)
    state = {"xp": "numpy", "shapes": {"a": (2,), "b": [(2,)]}, "pad": False, "flat": flat}
    pack.__setstate__(state)
    assert_bits(pack["b"][0], np.array([2, 3], np.float32))
    assert {*state} == {*pack.__getstate__()}


# ---- padding


def test_layout() -> None:
    shapes = [(3,), (), (4, 4), (0, 5), (17,)]
    assert layout(shapes, pad=False) == ([0, 3, 4, 20, 20], 37)
    assert layout(shapes, pad=True) == ([0, 16, 32, 48, 48], 65)
    assert layout([], pad=True) == layout([], pad=False) == ([], 0)
    assert layout([(3,), (0,)], pad=True) == ([0, 16], 16)


def test_padding() -> None:
    """Each array begins at a cache line, with zeros in between, also in copies and packs from ``like()``."""
    pack = model(pad=True)
    assert repr(pack).endswith("}, xp=numpy, pad=True)")
    for each in (pack, pack.like(), copy.deepcopy(pack), pack["layers"], pack["head"].like()):
        assert all(view.ctypes.data % 64 == 0 for view in each.named_arrays().values())
    assert [each.flat.size for each in (pack, pack["layers"], pack["layers"][1])] == [
        7 * 16 + 1,
        3 * 16 + 3,
        16 + 3,
    ]
    assert np.shares_memory(pack["layers"].flat[-3:], pack["layers"][1]["b"])
    assert pack.flat.sum() == np.arange(46).sum()  # small integers: exact
    with pytest.raises(TypeError, match="^pad: expected True or False, got 64"):
        lrcore.Pack({"w": 3}, pad=64)  # type: ignore[arg-type]


def test_steps_pass_over_the_padding(rule: str) -> None:
    """Every rule gives the arrays the same bits as without padding, and leaves zeros in between."""
    packs = [model(pad) for pad in (False, True)]
    rng = np.random.default_rng(3)
    opts = [make(rule, pack.flat, 0.01, weight_decay=0.1) for pack in packs]
    for _ in range(3):
        grads = lrcore.Pack(packs[0])
        grads.flat = rng.standard_normal(46)
        for pack, opt in zip(packs, opts, strict=True):
            opt.step(lrcore.Pack(grads, pad=pack is packs[1]).flat)
    for name, view in packs[0].named_arrays().items():
        assert_bits(packs[1].named_arrays()[name], view)
        packs[1].named_arrays()[name][...] = 0
    assert not packs[1].flat.any()


# ---- arrays that overlap


def as_numpy(w: Any) -> Any:
    """Return a tensor's memory as a NumPy array, and any other array unchanged."""
    return w.numpy() if hasattr(w, "numpy") else w


def on_host(w: Any) -> Any:
    """Return the values of an array or a number, and zeros for a shape."""
    if isinstance(w, tuple):
        return np.zeros(w, np.float32)
    return w.get() if hasattr(w, "get") else np.asarray(w)


Cases: TypeAlias = dict[str, Callable[[Any], tuple[Any, Any]]]

OVERLAPPING: Cases = {
    "slices": lambda w: (w[0, :4], w[0, 2:]),
    "one element": lambda w: (w[:2], w[1, 5:]),
    "one inside of the other": lambda w: (w, w[1:3, 2:4]),
    "reversed": lambda _: (W[0], W[0, ::-1]),
    "transposed": lambda w: (w[:, :4], w[:, :4].T),
    "another shape": lambda w: (w, w.reshape(6, 4)),
    "broadcast": lambda _: (W[0], np.broadcast_to(W[0], (3, 6))),
    "steps": lambda w: (w[0, ::2], w[0, ::3]),
    "another library": lambda w: (w, as_numpy(w)[1:]),
}
APART: Cases = {
    "slices": lambda w: (w[0, :4], w[0, 4:]),
    "columns": lambda w: (w[:, :2], w[:, 2:]),
    "interleaved": lambda w: (w[:, ::2], w[:, 1::2]),
    "backwards": lambda _: (W[0, ::-1], W[1]),
    "no elements": lambda w: (w[:, :0], w),
    "the same without elements": lambda w: (w[:0],) * 2,
    "equal values": lambda w: (w, W.copy()),
    "shapes": lambda _: ((2, 3), (2, 3)),
    "a shape": lambda w: (w, (4, 6)),
    "scalars": lambda _: (np.float32(2), np.float32(2)),
    "one scalar": lambda _: (np.float32(2),) * 2,
}
TIED: Cases = {
    "object": lambda w: (w, w),
    "row": lambda w: (w[0], w[0]),
    "column": lambda w: (w[1:, 2], w[1:4, 2]),
    "steps that are not taken": lambda w: (w[:1], w[0:3:5]),
    "transposed": lambda w: (w[:, :2].T, w.T[:2]),
    "another library": lambda w: (w, as_numpy(w)),
}


@pytest.fixture(params=["numpy", "torch", "cupy"])
def w_and_xp(request: pytest.FixtureRequest) -> Iterator[tuple[Any, Any]]:
    """Yield `W` as an array of each library, and the argument `xp` for a pack that contains it."""
    if request.param == "torch":
        yield pytest.importorskip("torch").from_numpy(W.copy()), np
    elif request.param == "cupy":
        with FakeCuda() as fake:
            yield fake.cupy.asarray(W), fake.cupy
    else:
        yield W, np


@pytest.mark.parametrize("case", OVERLAPPING)
def test_arrays_that_overlap_are_refused(case: str, w_and_xp: tuple[Any, Any]) -> None:
    """The message contains both names, the later one first, wherever the arrays are and whatever is between them."""
    w, xp = w_and_xp
    pair = OVERLAPPING[case](w)
    for a, b in (pair, pair[::-1]):
        for entries, first, second in (
            ({"a": a, "b": b}, "a", "b"),
            ({"u": 3, "a": [{"w": a}, W.copy()], "v": w[:0], "b": {"w": [b]}}, "a.0.w", "b.w.0"),
            ({"a": a, "x": {"w": a}, "b": b}, "a", "b"),
        ):
            match = f"^{second}: expected separate memory, .* shares memory with {first}; pass a copy"
            with pytest.raises(ValueError, match=match):
                lrcore.Pack(entries, xp)


def test_one_pair_of_many_that_overlaps() -> None:
    """The pair is found among arrays whose address ranges overlap, but whose elements do not."""
    rows = {f"row{i}": np.zeros(100, np.float32)[10 * i :] for i in range(3)}
    flat = np.zeros(1000, np.float32)
    rows |= {f"piece{i}": flat[10 * i : 10 * i + 10] for i in range(100)}
    rows |= {f"column{i}": W[:, i] for i in range(6)}
    lrcore.Pack(rows)
    with pytest.raises(ValueError, match="^piece40: .* shares memory with piece7;"):
        lrcore.Pack(rows | {"piece40": flat[75:85]} | {"piece8": np.zeros(3, np.float32)})
    with pytest.raises(ValueError, match="^again: .* shares memory with column0;"):
        lrcore.Pack(rows | {"again": W[1:, 0]})


@pytest.mark.parametrize(("cases", "tied"), [(APART, False), (TIED, True)], ids=["apart", "tied"])
def test_arrays_that_do_not_overlap(cases: Cases, tied: bool, w_and_xp: tuple[Any, Any]) -> None:
    """Arrays of any library are tied if address, shape and strides are equal; other arrays are separate."""
    w, xp = w_and_xp
    for name, make_pair in cases.items():
        for pair in (make_pair(w), make_pair(w)[::-1]):
            pack = lrcore.Pack({"a": {"w": pair[0]}, "m": 3, "n": {"b": [pair[1]]}}, xp)
            assert ("ties={'n.b.0': 'a.w'}" in repr(pack)) == tied, name
            for view, values in zip((pack["a"]["w"], pack["n"]["b"][0]), pair, strict=True):
                assert_bits(on_host(view), on_host(values))
            pack["n"]["b"][0] = 7
            before = on_host(pair[0])
            assert_bits(on_host(pack["a"]["w"]), np.full_like(before, 7) if tied else before)


# ---- tied arrays


@pytest.mark.parametrize("pad", [False, True])
def test_an_array_under_several_names_is_one(pad: bool) -> None:
    pack = tied(pad)
    assert_tied(pack, TIES)
    starts = [0, 16, 32, 48, 64] if pad else [0, 6, 9, 11, 12]
    own = [name for name in pack.named_arrays() if name not in TIES]
    assert own == ["embed", "layers.0.v", "layers.0.b", "c", "head.u"]
    for name, start in zip(own, starts, strict=True):
        assert pack.named_arrays()[name].ctypes.data == pack.flat[start:].ctypes.data
    assert pack.flat.size == starts[-1] + 2
    tree = pack.tree()
    assert tree["layers"][1]["w"] is tree["embed"] is pack["layers"][0]["w"]
    assert_bits(pack["layers"][1]["w"], np.arange(6, dtype=np.float32).reshape(2, 3))
    pack["layers"][1]["w"] = 1
    assert (pack["embed"] == 1).all()


def test_the_flat_of_a_part_with_ties() -> None:
    """The `flat` of a part is the memory of its arrays, if that is one slice.

    Otherwise, the error message contains the names of the array outside and of the array tied to it.
    """
    pack = tied()
    for part, path, name, first in (
        (pack["layers"], "layers", "layers.0.w", "embed"),
        (pack["layers"][1], "layers.1", "layers.1.w", "embed"),
        (pack["head"]["s"], "head.s", "head.s.0", "c"),
    ):
        match = rf"^{path}\.flat: expected .* got {name}, .* {first}, outside {path}; use the whole pack$"
        with pytest.raises(ValueError, match=match):
            _ = part.flat
        with pytest.raises(ValueError, match=match):
            part.flat = 1
    assert_bits(pack.flat, np.arange(14, dtype=np.float32))
    w, v = W[:2], W[2:]
    whole = lrcore.Pack({"b": 3, "a": [{"w": w, "v": v}, {"v": v, "w": w}], "c": 2})
    whole.flat = np.arange(29)
    assert_bits(whole["a"].flat, np.arange(3, 27, dtype=np.float32))
    assert_bits(whole["a"][0].flat, np.arange(3, 27, dtype=np.float32))
    whole["a"].flat *= 2
    assert_bits(whole["a"][1]["v"], np.arange(30, 54, 2, dtype=np.float32).reshape(2, 6))


@pytest.mark.parametrize("pad", [False, True])
def test_a_part_with_ties_to_the_outside_is_written(pad: bool) -> None:
    pack = tied(pad)
    layers = pack["layers"]
    layers[0] = {"w": np.full((2, 3), 5), "v": [1, 2, 3], "b": [4, 4]}
    layers[1].assign({"w": layers[0]["w"] + 1, "v": (3, 2, 1)})
    assert_bits(pack["embed"], np.full((2, 3), 6, np.float32))
    assert_bits(layers[0]["v"], np.array([3, 2, 1], np.float32))
    assert [*layers.named_arrays()] == ["0.w", "0.v", "0.b", "1.w", "1.v"]


NANS = np.array([0x3F800000, 0x7FC00000, 0x80000000], np.uint32).view(np.float32)
OTHER_NANS = np.array([0x3F800000, 0xFFC01234, 0x80000000], np.uint32).view(np.float32)


@pytest.mark.parametrize(
    ("one", "other", "fits"),
    [
        (NANS, NANS, True),
        (NANS, NANS.copy(), True),
        (NANS, OTHER_NANS, True),
        (NANS.astype(float), [1, math.nan, -0.0], True),
        ([0, 2, 3], [1, 2, 4], False),
        ([0, 2, 3], [0, 2, math.nan], False),
        ([0, 2, 3], [-0.0, 2, 3], False),
    ],
)
def test_values_for_the_names_of_one_array_have_the_same_bits(one: Any, other: Any, fits: bool) -> None:
    """NaN counts as equal to NaN at the same position, whatever the types of the values.

    Other values raise an error with both names, and are not written.
    """
    w = np.zeros(3, np.float32)
    pack = lrcore.Pack({"b": 1, "embed": w, "x": {"head": w}, "third": w})
    pack.flat = before = np.array([4, 0, 2, 3], np.float32)
    for embed, x, third, name in (
        (one, other, one, r"x\.head"),
        (one, one, other, "third"),
        (pack["embed"], pack["embed"], pack["embed"] if fits else other, "third"),
    ):
        tree = {"b": [5], "embed": embed, "x": {"head": x}, "third": third}
        if fits:
            pack.assign(tree)
            assert_bits(pack.flat, np.array([5, *one], np.float32))
        else:
            match = f"^{name}: expected the values of embed, which is the same array, got different ones; .* their sum"
            with pytest.raises(ValueError, match=match):
                pack.assign(tree)
            assert_bits(pack.flat, before)


# ---- devices


def test_device_arrays() -> None:
    """NumPy arrays are copied to the device; device arrays stay there."""
    with FakeCuda() as fake:
        cupy = fake.cupy
        w = np.arange(6, dtype=np.float32).reshape(2, 3)
        pack = lrcore.Pack({"layers": [{"w": w, "b": cupy.asarray(w[0])}], "s": ()}, xp=cupy)
        assert type(pack.flat) is type(pack["layers"][0]["w"]) is cupy.ndarray
        assert_bits(cupy.asnumpy(pack.flat), np.array([*range(6), 0, 1, 2, 0], np.float32))
        pack["layers"][0]["b"] = np.array([7.0, 8.0, 9.0])
        pack["s"] = 2
        assert_bits(cupy.asnumpy(pack.flat[6:]), np.array([7, 8, 9, 2], np.float32))
        pack.assign({"layers": [{"w": w + 1.0, "b": cupy.asarray(w[1], np.float64)}], "s": 4})
        assert_bits(cupy.asnumpy(pack.flat), np.array([*range(1, 7), 3, 4, 5, 4], np.float32))
        pack["layers"] = [{"w": [[0, 1, 2], [3, 4, 5]], "b": pack["layers"][0]["w"][1]}]
        assert_bits(cupy.asnumpy(pack.flat), np.array([*range(6), 4, 5, 6, 4], np.float32))
        with pytest.raises(TypeError, match=r"^layers.0.w: expected .*float32.* got ndarray: .*\.get\(\)"):
            lrcore.Pack(pack)
        lrcore.SGD(pack["layers"][0].flat, lr=1.0).step(cupy.asarray(np.ones(9, np.float32)))
        assert_bits(cupy.asnumpy(pack["layers"][0]["w"]), w - np.float32(1))


def test_tied_device_arrays() -> None:
    with FakeCuda() as fake:
        cupy = fake.cupy
        w, host = cupy.asarray(W), W.copy()
        entries = {"embed": w, "layers": [{"w": w[:], "v": host}, {"v": host, "b": w[:0]}], "head": {"w": w}}
        pack = lrcore.Pack(entries, xp=cupy, pad=True)
        layers = [{"w": W, "v": W + 2.0}, {"v": cupy.asarray(W + 2), "b": W[:0]}]
        pack.assign({"embed": cupy.asarray(W), "layers": layers, "head": {"w": W}})
        assert pack.flat.size == 32 + 32
        for each in (pack, *copies_of(pack), lrcore.Pack(pack, xp=cupy)):
            assert repr(each).endswith(
                "ties={'layers.0.w': 'embed', 'layers.1.v': 'layers.0.v', 'head.w': 'embed'})"
            )
            assert each["embed"].data.ptr == each["layers"][0]["w"].data.ptr == each["head"]["w"].data.ptr
            assert_bits(cupy.asnumpy(each["embed"]), W)
            assert_bits(cupy.asnumpy(each["layers"][1]["v"]), W + np.float32(2))
        for copied in copies_of(pack["layers"]):
            assert type(copied.flat) is cupy.ndarray
            assert repr(copied).endswith("ties={'1.v': '0.v'})")
            copied[0]["w"] = 9
        with pytest.raises(ValueError, match=r"^head\.w: expected the values of embed"):
            pack.assign({"embed": cupy.asarray(W), "layers": layers, "head": {"w": W + 1}})
        assert_bits(cupy.asnumpy(pack["head"]["w"]), W)


# ---- libraries


class Immutable:
    """An array that cannot be written, like those of JAX."""

    dtype, shape = np.dtype(np.float32), (1,)


def library_of(**parts: Any) -> types.ModuleType:
    """Return a module with these functions, and the functions of NumPy that a Pack needs."""
    made = types.ModuleType("made")
    names = ("zeros", "float32", "asarray", "may_share_memory")
    vars(made).update({name: getattr(np, name) for name in names} | parts)
    return made


def missing(*_: Any) -> Any:
    raise NotImplementedError("may_share_memory is not implemented")


WRONG_LIBRARIES = (
    library_of(zeros=lambda *_, **__: Immutable()),
    library_of(may_share_memory=missing),
    "numpy",
)


@pytest.mark.parametrize("name", ["math", "torch", "jax.numpy", *WRONG_LIBRARIES], ids=str)
def test_what_is_no_array_library_is_refused(name: Any) -> None:
    """The error names the library, and is raised before anything is made or read."""
    xp = name if name in WRONG_LIBRARIES else pytest.importorskip(name)
    said = getattr(xp, "__name__", type(xp).__name__)
    match = f"^xp: expected numpy, or a module with its interface such as cupy, got {said}: "
    with pytest.raises(TypeError, match=match):
        lrcore.Pack({}, xp)
    with pytest.raises(TypeError, match=match):
        lrcore.Pack.from_file("no such file", xp)
