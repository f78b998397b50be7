"""`lrcore.Pack`: named and nested views of one flat buffer."""

from __future__ import annotations

import copy
import math
import pickle
import types
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

import lrcore
from gpu.fake_cuda import FakeCuda
from lrcore.pack import PackList, _tree, layout
from support import assert_bits, make


def test_views_lie_one_after_another() -> None:
    pack = lrcore.Pack({"w": (2, 3), "b": 3, "s": ()})
    assert list(pack) == ["w", "b", "s"]
    assert len(pack) == 3
    assert {name: view.shape for name, view in pack.items()} == {"w": (2, 3), "b": (3,), "s": ()}
    assert pack.flat.shape == (10,)
    assert pack.flat.dtype == np.float32
    assert not pack.flat.any()
    pack.flat[:] = np.arange(10)
    assert_bits(pack["w"], np.arange(6, dtype=np.float32).reshape(2, 3))
    assert_bits(pack["b"], np.arange(6, 9, dtype=np.float32))
    assert pack["s"] == 9
    with pytest.raises(KeyError, match="^'c: expected one of w, b, s'$"):
        _ = pack["c"]
    assert "c" not in pack
    assert pack.get("c") is None


def test_writing_in_place() -> None:
    pack = lrcore.Pack({"w": (2, 3), "b": (3,)})
    view = pack["b"]
    pack["b"] += 1
    pack["w"] = [[1, 2, 3], [4, 5, 6]]
    assert pack["b"] is view
    assert_bits(pack.flat, np.array([1, 2, 3, 4, 5, 6, 1, 1, 1], np.float32))
    pack["b"] = np.float32(3)
    assert (pack["b"] == 3).all()
    for wrong in (np.ones(4), np.ones(1), np.ones((1, 3)), [1, 2], [[1, 2, 3]]):
        with pytest.raises(ValueError, match=r"^b: expected shape \(3,\), got \("):
            pack["b"] = wrong
    with pytest.raises(ValueError, match=r"^w: expected shape \(2, 3\), got \(3,\)$"):
        pack["w"] = np.ones(3)
    assert_bits(pack.flat, np.array([1, 2, 3, 4, 5, 6, 3, 3, 3], np.float32))


def test_from_arrays_copies() -> None:
    w = np.arange(6, dtype=np.float32).reshape(2, 3)
    pack = lrcore.Pack({"w": w.T, "b": np.ones(3, np.float32)})
    assert_bits(pack["w"], np.ascontiguousarray(w.T))
    pack["w"] = 0
    assert w.any()


def test_like() -> None:
    pack = lrcore.Pack({"w": np.ones((2, 3), np.float32)})
    grads = pack.like()
    assert grads["w"].shape == (2, 3)
    assert not grads.flat.any()
    assert not np.shares_memory(grads.flat, pack.flat)


def test_steps() -> None:
    pack = lrcore.Pack({"w": (2, 3), "b": (3,)})
    grads = pack.like()
    opt = lrcore.SGD(pack.flat, lr=1.0, grads=grads.flat)
    grads["b"] = -1
    opt.step()
    assert_bits(pack["b"], np.ones(3, np.float32))
    assert not pack["w"].any()


def test_a_pack_in_place_of_its_buffer() -> None:
    pack = lrcore.Pack({"w": 3})
    with pytest.raises(TypeError, match="^params: expected a float32 array .*got Pack; pass its flat$"):
        lrcore.Adam(pack)
    with pytest.raises(TypeError, match="^grads: expected a float32 array .*got Pack; pass its flat$"):
        lrcore.Adam(pack.flat).step(pack.like())


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        ((2, -1), ValueError),
        (-1, ValueError),
        ((2, 1.5), TypeError),
        ("ab", TypeError),
        (None, TypeError),
        (3.0, TypeError),
        (True, TypeError),
        ((True, 2), TypeError),
        ((2, "x"), TypeError),
        (b"ab", TypeError),
        ({1, 2}, TypeError),
        (np.float32, TypeError),
    ],
)
def test_wrong_shapes(entry: Any, error: type[Exception]) -> None:
    with pytest.raises(
        error, match="^w: expected (a float32 array, a shape|an array, or a shape|extents >= 0)"
    ):
        lrcore.Pack({"w": entry})
    with pytest.raises(error, match=r"^layers\.1\.w: expected"):
        lrcore.Pack({"layers": [{"w": 3}, {"w": entry}]})
    with pytest.raises(TypeError, match="^entries: expected a dictionary, got list"):
        lrcore.Pack([("w", entry)])  # type: ignore[arg-type]


def test_computed_shapes() -> None:
    pack = lrcore.Pack({"w": np.int64(3), "b": np.array([2, 3]).tolist(), "c": (np.int32(2),)})
    assert [view.shape for view in pack.values()] == [(3,), (2, 3), (2,)]


def test_copies_keep_their_views() -> None:
    pack = lrcore.Pack({"w": np.ones((2, 3), np.float32), "b": 3})
    for copied in (copy.deepcopy(pack), pickle.loads(pickle.dumps(pack))):
        assert repr(copied) == repr(pack) == "Pack({'w': (2, 3), 'b': (3,)}, xp=numpy)"
        copied["b"] = 5
        assert_bits(copied.flat[6:], np.full(3, 5, np.float32))
        assert not pack["b"].any()


def test_empty_and_aligned() -> None:
    assert lrcore.Pack({}).flat.shape == (0,)
    assert lrcore.Pack({"w": 5}).flat.ctypes.data % 64 == 0


def test_aligned_copies() -> None:
    """A copy begins at a cache line too, also one of a part with a tied array."""
    copies: list[lrcore.Pack] = []
    for size in range(1, 41):  # other sizes lie in other places, and none is freed meanwhile
        w = np.ones(size, np.float32)
        pack = lrcore.Pack({"w": w, "part": {"w": w}})
        copies += [copy.deepcopy(pack), copy.deepcopy(pack["part"])]
    assert [each.flat.ctypes.data % 64 for each in copies] == [0] * 80


# ---- trees


def model() -> lrcore.Pack:
    """Return a pack of 46 elements, which are numbered."""
    w, b = np.ones((2, 3), np.float32), np.zeros(3, np.float32)
    pack = lrcore.Pack(
        {
            "embed": (5, 2),
            "layers": [{"w": (2, 3), "b": 3}, {"w": w, "b": b}],
            "head": {"w": (4, 4), "s": [()]},
            "c": 1,
        }
    )
    pack.flat[:] = np.arange(46)
    return pack


NAMES = ["embed", "layers.0.w", "layers.0.b", "layers.1.w", "layers.1.b", "head.w", "head.s.0", "c"]
STARTS = [0, 10, 16, 19, 25, 28, 44, 45]


def numbers(pack: lrcore.Pack, add: float = 0.0) -> Any:
    """Return the values as a tree of float64 arrays, plus a number."""
    tree = copy.deepcopy(pack.tree())
    for layer in (*tree["layers"], tree["head"]):
        layer["w"] = layer["w"] + np.float64(add)
    return tree


def test_nested_views() -> None:
    """They lie in the order in which they are named, depth first."""
    pack = model()
    assert [*pack.named_arrays()] == NAMES
    assert [int(view.ravel()[0]) for view in pack.named_arrays().values()] == STARTS
    assert pack["layers"][1]["w"].shape == (2, 3)
    assert pack["head"]["s"][0].shape == ()
    for view in pack.named_arrays().values():
        assert np.shares_memory(view, pack.flat)
    assert [*pack] == ["embed", "layers", "head", "c"]
    assert pack["layers"][0]["w"] is pack.named_arrays()["layers.0.w"]


def test_the_values_of_arrays_are_copied_in() -> None:
    w = np.arange(6, dtype=np.float32).reshape(2, 3)
    pack = lrcore.Pack({"layers": [{"w": 3}, {"w": w.T, "s": np.float32(7)}]})
    assert_bits(pack.flat, np.array([0, 0, 0, 0, 3, 1, 4, 2, 5, 7], np.float32))
    pack.flat[:] = 0
    assert w.any()


def test_a_node_is_a_slice_of_the_buffer() -> None:
    pack = model()
    layer = pack["layers"][1]
    assert isinstance(layer, lrcore.Pack)
    assert_bits(layer.flat, np.arange(19, 28, dtype=np.float32))
    assert_bits(pack["layers"].flat, np.arange(10, 28, dtype=np.float32))
    opt = lrcore.SGD(layer.flat, lr=1.0)
    opt.step(np.full(9, -100, np.float32))
    assert_bits(pack["layers"][1]["b"], np.arange(125, 128, dtype=np.float32))
    assert pack.flat[18] == 18
    assert pack.flat[28] == 28


def test_scaling_a_node() -> None:
    pack = model()
    flat = pack["layers"][1].flat
    pack["layers"][1].flat *= 2
    pack["head"].flat = 0.5
    assert_bits(pack.flat, np.array([*range(19), *range(38, 56, 2), *[0.5] * 17, 45], np.float32))
    assert pack["layers"][1].flat is flat
    with pytest.raises(ValueError, match=r"^flat: expected shape \(46,\), got \(45,\)$"):
        pack.flat = np.ones(45)


def test_a_list_is_a_sequence() -> None:
    layers = model()["layers"]
    assert isinstance(layers, PackList)
    assert len(layers) == 2
    assert [layer["w"].shape for layer in layers] == [(2, 3), (2, 3)]
    assert layers[-1] is layers[1]
    assert layers[:1] == [layers[0]]
    assert [*reversed(layers)] == [layers[1], layers[0]]
    assert layers.index(layers[1]) == 1
    assert repr(layers) == "PackList([{'w': (2, 3), 'b': (3,)}, {'w': (2, 3), 'b': (3,)}], xp=numpy)"
    with pytest.raises(IndexError):
        _ = layers[2]
    with pytest.raises(TypeError, match="'slice' object cannot be interpreted as an integer"):
        layers[:1] = [layers[0]]  # type: ignore[index]


def test_what_is_a_list_and_what_a_shape() -> None:
    pack = lrcore.Pack(
        {"a": [], "b": {}, "c": [2, 3], "d": [[2, 3]], "e": (), "f": [()], "g": [2, {"w": 3}], "h": ((2,), 4)}
    )
    shapes = {name: view.shape for name, view in pack.named_arrays().items()}
    assert shapes == {
        "c": (2, 3), "d.0": (2, 3), "e": (), "f.0": (), "g.0": (2,), "g.1.w": (3,), "h.0": (2,), "h.1": (4,)
    }  # fmt: skip
    assert len(pack["a"]) == len(pack["b"]) == 0
    assert pack["a"].flat.shape == pack["b"].flat.shape == (0,)
    assert pack.tree()["a"] == []
    assert (
        eval(repr(pack)[: -len(", xp=numpy)")] + ")", {"Pack": lrcore.Pack}).tree().keys()
        == pack.tree().keys()
    )


def test_a_pack_of_a_pack() -> None:
    pack = model()
    for again in (
        lrcore.Pack(pack),
        lrcore.Pack(pack.tree()),
        lrcore.Pack({**pack, "layers": pack["layers"]}),
    ):
        assert repr(again) == repr(pack)
        assert_bits(again.flat, pack.flat)
        assert not np.shares_memory(again.flat, pack.flat)
    assert_bits(lrcore.Pack(pack.named_arrays()).flat, pack.flat)


def test_trees() -> None:
    """Plain dictionaries and lists with the very views."""
    pack = model()
    tree = pack.tree()
    assert type(tree) is type(tree["head"]) is type(tree["layers"][0]) is dict
    assert type(tree["layers"]) is type(tree["head"]["s"]) is list
    tree["layers"][1]["b"] += 100
    assert pack["layers"][1]["b"][0] == 125
    assert type(pack["layers"].tree()) is list
    assert [*pack["layers"].named_arrays()] == ["0.w", "0.b", "1.w", "1.b"]


def test_like_a_tree() -> None:
    pack = model()
    assert repr(pack.like()) == repr(pack)
    assert not pack.like().flat.any()
    layers = pack["layers"].like()
    assert repr(layers) == repr(pack["layers"])
    assert layers.flat.shape == (18,)
    assert not np.shares_memory(layers.flat, pack.flat)


def test_nested_writing_in_place() -> None:
    """Views stay what they are, and values are converted as by ``view[...] = values``."""
    pack = model()
    views = pack.named_arrays()
    pack["layers"][0]["w"] = [[1, 2, 3], [4, 5, 6]]
    pack["layers"][0]["b"] -= 1
    pack["layers"][1] = {"w": np.full((2, 3), 0.1), "b": (7, 8, 9)}
    pack["head"] = {"s": [5], "w": np.eye(4, dtype=int)}
    assert_bits(
        pack.flat[10:],
        np.array([1, 2, 3, 4, 5, 6, 15, 16, 17, *[0.1] * 6, 7, 8, 9, *np.eye(4).ravel(), 5, 45], np.float32),
    )
    before = pack.flat.copy()
    pack.assign(numbers(pack, 1.0))
    assert_bits(pack["head"]["w"], before[28:44].reshape(4, 4) + np.float32(1))
    pack.assign(pack)
    pack["layers"] = tuple(pack["layers"])
    assert all(view is views[name] for name, view in pack.named_arrays().items())


def test_writing_what_lies_in_the_buffer() -> None:
    """As if all of it were read first."""
    pack = model()
    pack["layers"] = [pack["layers"][1], pack["layers"][0]]
    assert_bits(pack["layers"].flat, np.array([*range(19, 28), *range(10, 19)], np.float32))


class Once:
    """Becomes an array when it is asked to, or fails."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise RuntimeError("is of no use")


WRONG: list[tuple[Any, type[Exception], str]] = [
    (lambda tree: tree.pop("c"), ValueError, "^c: missing"),
    (lambda tree: tree["layers"][1].pop("b"), ValueError, r"^layers\.1\.b: missing"),
    (lambda tree: tree["layers"][1].update(v=1), ValueError, r"^layers\.1\.v: unknown; expected .*'w', 'b'"),
    (lambda tree: tree["layers"].append({}), ValueError, "^layers: expected 2 entries, got 3"),
    (lambda tree: tree["layers"].pop(), ValueError, "^layers: expected 2 entries, got 1"),
    (
        lambda tree: tree.update(layers={"0": 1, "1": 2}),
        TypeError,
        "^layers: expected a list of 2 entries, got dict",
    ),
    (lambda tree: tree.update(layers="ab"), TypeError, "^layers: expected a list of 2 entries, got str"),
    (lambda tree: tree.update(layers=np.ones((2, 3))), TypeError, "^layers: expected a list .*got ndarray"),
    (
        lambda tree: tree.update(head=[1, 2]),
        TypeError,
        r"^head: expected a dictionary .*'w', 's'.*, got list",
    ),
    (
        lambda tree: tree["head"].update(w=np.ones(4)),
        ValueError,
        r"^head\.w: expected shape \(4, 4\), got \(4,\)",
    ),
    (lambda tree: tree.update(c=0.0), ValueError, r"^c: expected shape \(1,\), got \(\)"),
    (lambda tree: tree.update(c={"w": 1}), TypeError, "^c: expected .*float32.*, got dict"),
    (lambda tree: tree.update(c=None), TypeError, "^c: expected .*float32.*, got None"),
    (lambda tree: tree.update(c=[1j]), TypeError, "^c: expected .*float32.*, got list"),
    (lambda tree: tree.update(c=["x"]), TypeError, "^c: expected .*float32.*, got list"),
    (lambda tree: tree.update(c=[[1], [1, 2]]), TypeError, "^c: expected .*float32.*, got list"),
    (lambda tree: tree.update(c=Once()), TypeError, "^c: expected .*float32.*, got Once: is of no use"),
]


@pytest.mark.parametrize(("change", "error", "match"), WRONG, ids=[match for *_, match in WRONG])
def test_wrong_trees(change: Any, error: type[Exception], match: str) -> None:
    """Nothing is written, though what is wrong comes last."""
    pack = model()
    tree = numbers(pack, 1.0)
    change(tree)
    with pytest.raises(error, match=match):
        pack.assign(tree)
    assert_bits(pack.flat, np.arange(46, dtype=np.float32))


def test_errors_name_the_whole_path() -> None:
    """Also where a node is written by itself."""
    pack = model()
    with pytest.raises(ValueError, match=r"^layers\.1\.w: expected shape"):
        pack["layers"][1] = {"w": 1, "b": [1, 2, 3]}
    with pytest.raises(ValueError, match=r"^layers\.1\.v: unknown"):
        pack["layers"][1].assign({"w": 1, "b": 1, "v": 1})
    with pytest.raises(TypeError, match=r"^tree: expected a dictionary .*, got list"):
        pack.assign([])
    for name, hint in (("v", ""), ("W", "; did you mean w[?]")):
        with pytest.raises(KeyError, match=f"^'{name}: expected one of w, b{hint}'$"):
            _ = pack["layers"][0][name]
        with pytest.raises(KeyError, match=f"^'{name}: expected one of w, b{hint}'$"):
            pack["layers"][0][name] = 1
    with pytest.raises(IndexError):
        pack["layers"][2] = {}
    with pytest.raises(TypeError, match=r"^w: expected a dictionary"):
        lrcore.Pack({"w": {"a": 1}})["w"] = 3
    copied = copy.deepcopy(pack["layers"][1])  # a pack of its own
    with pytest.raises(ValueError, match="^w: expected shape"):
        copied.assign({"w": 1, "b": [1, 2, 3]})


DTYPES = [
    "float64",
    "float16",
    "int32",
    "uint8",
    "bool",
    "complex64",
    "object",
    "str",
    ">f4",
    "datetime64[s]",
]


@pytest.mark.parametrize("dtype", DTYPES)
def test_wrong_dtypes(dtype: str) -> None:
    w = np.zeros(3).astype(dtype)
    for entries, path in (({"w": w}, "w"), ({"layers": [{"w": 2}, {"w": w}]}, r"layers\.1\.w")):
        with pytest.raises(
            TypeError,
            match=rf"^{path}: expected dtype float32, got {w.dtype}; make a float32 array".replace(
                "[", r"\["
            ),
        ):
            lrcore.Pack(entries)


def test_bfloat16() -> None:
    """NumPy has none of its own."""

    class Half:
        dtype, shape = "torch.bfloat16", (3,)

    with pytest.raises(
        TypeError, match=r"^layers\.0: expected dtype float32, got torch.bfloat16; make a float32"
    ):
        lrcore.Pack({"layers": [Half()]})


def test_names() -> None:
    """They are strings that are not empty, and no two arrays have the same path."""
    for entries, error, match in (
        ({3: 1}, TypeError, "^entries: expected names that are strings, got 3"),
        ({"a": {None: 1}}, TypeError, "^a: expected names that are strings, got None"),
        ({"": 1}, ValueError, "^entries: expected names that are not empty"),
        ({"a": [{"": 1}]}, ValueError, r"^a\.0: expected names that are not empty"),
        ({"a.b": 1, "a": {"b": 2}}, ValueError, r"^a\.b: two arrays have this path; rename one"),
        ({"a": [1, {"w": 2}], "a.1": {"w": 3}}, ValueError, r"^a\.1\.w: two arrays have this path"),
    ):
        with pytest.raises(error, match=match):
            lrcore.Pack(entries)  # type: ignore[arg-type]
    dotted = lrcore.Pack({"a.b": 1, "a": {"c": 2, "b": {}}})
    assert [*dotted.named_arrays()] == ["a.b", "a.c"]
    assert dotted["a.b"].shape == (1,)


def test_copies_of_trees() -> None:
    """Of a whole and of a part, padded or not; each over a buffer of its own."""
    for pad in (False, True):
        pack = lrcore.Pack(model(), pad=pad)
        for part in (pack, pack["layers"], pack["layers"][1]):
            for copied in (copy.deepcopy(part), pickle.loads(pickle.dumps(part))):
                assert type(copied) is type(part)
                assert repr(copied) == repr(part)
                assert_bits(copied.flat, part.flat)
                for name, view in copied.named_arrays().items():
                    assert np.shares_memory(view, copied.flat)
                    assert not np.shares_memory(view, pack.flat)
                    assert_bits(view, part.named_arrays()[name])
    shared = copy.copy(pack)
    shared["layers"][0]["b"] = 5
    assert pack["layers"][0]["b"][0] == 5


def test_a_list_in_place_of_its_buffer() -> None:
    for part, name in ((model()["layers"], "PackList"), (model()["layers"][0], "Pack")):
        with pytest.raises(
            TypeError, match=f"^params: expected a float32 array .*got {name}; pass its flat$"
        ):
            lrcore.Adam(part)


# ---- padding


def test_layout() -> None:
    shapes = [(3,), (), (4, 4), (0, 5), (17,)]
    assert layout(shapes, pad=False) == ([0, 3, 4, 20, 20], 37)
    assert layout(shapes, pad=True) == ([0, 16, 32, 48, 48], 65)
    assert layout([], pad=True) == layout([], pad=False) == ([], 0)
    assert layout([(3,), (0,)], pad=True) == ([0, 16], 16)


def test_padding() -> None:
    """Each array begins at a cache line, and what lies between is zero, in copies and packs like it as well."""
    pack = lrcore.Pack(model(), pad=True)
    assert pack.flat.size == 7 * 16 + 1
    assert repr(pack).endswith("}, xp=numpy, pad=True)")
    for each in (pack, pack.like(), copy.deepcopy(pack), pack["layers"], pack["head"].like()):
        for view in each.named_arrays().values():
            assert view.ctypes.data % 64 == 0
    assert pack["layers"][1].flat.size == 16 + 3
    assert pack["layers"].flat.size == 3 * 16 + 3
    assert np.shares_memory(pack["layers"].flat[-3:], pack["layers"][1]["b"])
    assert pack.flat.sum() == np.arange(46).sum()  # small integers: exact
    assert_bits(pickle.loads(pickle.dumps(pack))["layers"][1]["b"], np.arange(25, 28, dtype=np.float32))
    with pytest.raises(TypeError, match="^pad: expected True or False, got 64"):
        lrcore.Pack({"w": 3}, pad=64)  # type: ignore[arg-type]


def test_steps_pass_over_the_padding(rule: str) -> None:
    """Every rule gives the arrays the bits that it gives them without padding, and leaves zeros between."""
    packs = [lrcore.Pack(model(), pad=pad) for pad in (False, True)]
    rng = np.random.default_rng(3)
    opts = [make(rule, pack.flat, 0.01, weight_decay=0.1) for pack in packs]
    for _ in range(3):
        tree = {name: rng.standard_normal(view.shape) for name, view in packs[0].named_arrays().items()}
        for pack, opt in zip(packs, opts, strict=True):
            grads = pack.like()
            for name, view in grads.named_arrays().items():
                view[...] = tree[name]
            opt.step(grads.flat)
    for name, view in packs[0].named_arrays().items():
        assert_bits(packs[1].named_arrays()[name], view)
    arrays = packs[1].like()
    for view in arrays.named_arrays().values():
        view[...] = 1
    between = packs[1].flat[arrays.flat == 0]
    assert between.size == 113 - 46
    assert not between.any()


# ---- devices


def test_device_arrays() -> None:
    """What comes from NumPy goes to the device; what is there stays there."""
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
        pack["layers"][0]["w"] = [[0, 1, 2], [3, 4, 5]]
        pack["layers"] = [{"w": pack["layers"][0]["w"], "b": pack["layers"][0]["w"][1]}]
        assert_bits(cupy.asnumpy(pack.flat), np.array([*range(6), 3, 4, 5, 4], np.float32))
        for copied in (
            copy.deepcopy(pack),
            pickle.loads(pickle.dumps(pack)),
            lrcore.Pack(pack, xp=cupy, pad=True),
        ):
            assert type(copied["layers"][0].flat) is cupy.ndarray
            assert_bits(cupy.asnumpy(copied["layers"][0]["w"]), w)
            copied["s"] = 9
        assert copied["s"].data.ptr % 64 == 0
        assert cupy.asnumpy(pack["s"]) == 4
        with pytest.raises(TypeError, match=r"^layers.0.w: expected .*float32.* got ndarray: .*\.get\(\)"):
            lrcore.Pack(pack)
        opt = lrcore.SGD(pack["layers"][0].flat, lr=1.0)
        opt.step(cupy.asarray(np.ones(9, np.float32)))
        assert_bits(cupy.asnumpy(pack["layers"][0]["w"]), w - np.float32(1))


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        "3",
        ["1", "2", "3"],
        np.array([1, 2, 3], "datetime64[s]"),
        np.array([None] * 3),
        np.ones(3) * 1j,
        [1j] * 3,
    ],
    ids=lambda each: type(each).__name__,
)
def test_what_is_no_number_is_not_written(wrong: Any) -> None:
    """NumPy would make NaN, a number or a part of it."""
    pack = lrcore.Pack({"a": {"w": 3}})
    flat = pack["a"]
    with pytest.raises(TypeError, match=r"^a\.w: expected"):
        flat["w"] = wrong
    with pytest.raises(TypeError, match=r"^a\.w: expected"):
        pack.assign({"a": {"w": wrong}})
    with pytest.raises(TypeError, match=r"^a\.flat: expected"):
        flat.flat = wrong
    assert not pack.flat.any()


# ---- arrays that mean something else


W = np.arange(24, dtype=np.float32).reshape(4, 6)

OVERLAPPING: dict[str, tuple[Any, Any]] = {
    "slices": (W[0, :4], W[0, 2:]),
    "one element": (W[:2], W[1, 5:]),
    "one inside of the other": (W, W[1:3, 2:4]),
    "reversed": (W[0], W[0, ::-1]),
    "transposed": (W[:, :4], W[:, :4].T),
    "another shape": (W, W.reshape(6, 4)),
    "broadcast": (W[0], np.broadcast_to(W[0], (3, 6))),
    "steps": (W[0, ::2], W[0, ::3]),
}
APART: dict[str, tuple[Any, Any]] = {
    "slices": (W[0, :4], W[0, 4:]),
    "columns": (W[:, :2], W[:, 2:]),
    "interleaved": (W[:, ::2], W[:, 1::2]),
    "backwards": (W[0, ::-1], W[1]),
    "no elements": (W[:, :0], W),
    "the same": (W, W),
    "an equal view": (W[1:, 2], W[1:4, 2]),
    "an equal view of a row": (W[:1], W[0:3:5]),
}


def test_arrays_that_overlap_are_refused() -> None:
    """By both of their names, the later one first, wherever they stand; what is between them does not hide it."""
    for one, other in OVERLAPPING.values():
        for a, b in ((one, other), (other, one)):
            for entries, first, second in (
                ({"a": a, "b": b}, "a", "b"),
                ({"u": 3, "a": [{"w": a}, W.copy()], "v": W[:0], "b": {"w": [b]}}, "a.0.w", "b.w.0"),
            ):
                with pytest.raises(
                    ValueError, match=f"^{second}: expected memory of its own, .* with {first}; pass a copy"
                ):
                    lrcore.Pack(entries)
                copied = lrcore.Pack(entries | {"a": np.array(a) if first == "a" else [{"w": np.array(a)}]})
                assert_bits(copied.named_arrays()["b" if second == "b" else "b.w.0"], b)


def test_one_pair_of_many_that_overlaps() -> None:
    rows = {f"row{i}": np.zeros(100, np.float32)[10 * i :] for i in range(3)}
    flat = np.zeros(1000, np.float32)
    rows |= {f"piece{i}": flat[10 * i : 10 * i + 10] for i in range(100)}
    lrcore.Pack(rows)
    with pytest.raises(ValueError, match="^piece40: .* shares memory with piece7;"):
        lrcore.Pack(rows | {"piece40": flat[75:85]} | {"piece8": np.zeros(3, np.float32)})


def test_arrays_that_do_not_overlap() -> None:
    """Nor does an array that stands under two names."""
    for one, other in APART.values():
        for a, b in ((one, other), (other, one)):
            pack = lrcore.Pack({"a": a, "n": {"b": [b]}})
            assert_bits(pack["a"], a)
            assert_bits(pack["n"]["b"][0], b)


def test_tensors_that_overlap() -> None:
    torch = pytest.importorskip("torch")
    w = torch.arange(8.0)
    for a, b in ((w[:4], w[2:]), (w, w.numpy()[1:]), (w.numpy()[3:], w), (w.view(2, 4), w.view(2, 4).T)):
        with pytest.raises(ValueError, match="^b: .* shares memory with a;"):
            lrcore.Pack({"a": a, "b": b})
    for a, b in ((w[:4], w[4:]), (w[::2], w[1::2]), (w, w.numpy()), (w, w), (w[:0], w)):
        assert_bits(lrcore.Pack({"a": a, "b": b})["b"], np.asarray(b))


def test_device_arrays_that_overlap() -> None:
    with FakeCuda() as fake:
        w = fake.cupy.asarray(W)
        for a, b in ((w[0, :4], w[0, 2:]), (w, w.T), (w[:, :3], w[2])):
            with pytest.raises(ValueError, match="^b: .* shares memory with a;"):
                lrcore.Pack({"a": a, "b": b}, xp=fake.cupy)
        with pytest.raises(ValueError, match="^b: .* shares memory with a;"):
            lrcore.Pack({"a": W[:2], "b": W[1:]}, xp=fake.cupy)
        for a, b in ((w[:, :3], w[:, 3:]), (w, w), (w[:0], w)):
            pack = lrcore.Pack({"a": a, "b": b}, xp=fake.cupy)
            assert_bits(fake.cupy.asnumpy(pack["b"]), fake.cupy.asnumpy(b))


# ---- tied arrays


TIES = {"layers.0.w": "embed", "layers.1.w": "embed", "layers.1.v": "layers.0.v", "head.s.0": "c"}
"""In the order of `tied`: across dictionaries and lists, inside of one list, and from a later part to a name before it."""


def tied(pad: bool = False) -> lrcore.Pack:
    """Return a pack whose five arrays of memory, of 6, 3, 2, 1 and 2 elements, have nine names and values from 0 to 13."""
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
    """Assert that in a pack or part these names share all their memory, no others any, and that none is of another's."""
    arrays = pack.named_arrays()
    for name, view in arrays.items():
        for former, its_view in arrays.items():
            same = ties.get(name, name) == ties.get(former, former)
            assert np.shares_memory(view, its_view) == same, (name, former)
            if same:
                assert (view.ctypes.data, view.shape) == (its_view.ctypes.data, its_view.shape)
        assert other is None or not np.shares_memory(view, other.flat)


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


def test_the_values_of_tied_arrays() -> None:
    w = np.arange(6, dtype=np.float32).reshape(3, 2)
    pack = lrcore.Pack({"embed": w, "head": w})
    assert pack.flat.size == 6
    assert repr(pack) == "Pack({'embed': (3, 2), 'head': (3, 2)}, xp=numpy, ties={'head': 'embed'})"
    assert_bits(pack["head"], w)
    pack["head"] = 1
    assert_bits(pack["embed"], np.ones((3, 2), np.float32))
    pack["embed"] += 1
    assert_bits(pack.flat, np.full(6, 2, np.float32))
    assert w[0, 0] == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [(W, W), (W[0], W[0]), (W[1:, 2], W[1:4, 2]), (W[:1], W[0:3:5]), (W[:, :2].T, W.T[:2])],
    ids=["object", "row", "column", "steps that are not taken", "transposed"],
)
def test_equal_views_are_tied(one: Any, other: Any) -> None:
    """The same address, shape and strides, whatever made them."""
    pack = lrcore.Pack({"a": {"w": one}, "n": 3, "b": [other]})
    assert_tied(pack, {"b.0": "a.w"})
    assert_bits(pack["b"][0], one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((2, 3), (2, 3)),
        (3, 3),
        (W, (4, 6)),
        (W, W.copy()),
        (W[:0], W[:0]),
        (W[0], W[1]),
        (np.float32(2), np.float32(2)),
        (*[np.float32(2)] * 2,),
    ],
    ids=["shapes", "integers", "a shape", "equal values", "no elements", "rows", "scalars", "one scalar"],
)
def test_other_arrays_are_not_tied(one: Any, other: Any) -> None:
    pack = lrcore.Pack({"a": one, "b": other})
    size = pack["a"].size
    assert pack.flat.size == 2 * size
    assert repr(pack).endswith("xp=numpy)")
    pack["b"] = 100
    assert (pack["a"] != 100).all()
    shape = (2, 3)
    assert lrcore.Pack({"layers": [{"w": shape}, {"w": shape}]}).flat.size == 12


def test_one_empty_array_under_two_names() -> None:
    empty = W[:0]
    assert repr(lrcore.Pack({"a": empty, "b": empty, "c": 1})).endswith("'c': (1,)}, xp=numpy)")


def test_what_overlaps_a_tied_array_is_refused() -> None:
    for wrong in (W[1:], W.T, W.reshape(6, 4), W[:, ::-1]):
        with pytest.raises(
            ValueError, match="^c: expected memory of its own, .* shares memory with a; pass a copy"
        ):
            lrcore.Pack({"a": W, "b": {"w": W}, "c": wrong})


def test_one_array_under_many_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is held against other arrays once, not under each name: ten thousand of them would take half a minute."""
    held: list[int] = []

    def sharing(arrays: Sequence[Any]) -> Iterator[tuple[int, int]]:
        held.append(len(arrays))
        yield from ()

    monkeypatch.setattr(_tree, "sharing", sharing)
    pack = lrcore.Pack({"layers": [{"w": W}] * 10_000, "b": W.copy()})
    assert held == [2]
    assert pack.flat.size == 2 * W.size
    assert pack["layers"][9_999]["w"] is pack["layers"][0]["w"]


def test_the_flat_of_a_part_with_ties() -> None:
    """It is the memory of the part's arrays where these lie together, and refused by both names where they do not."""
    pack = tied()
    for part, path, name, first in (
        (pack["layers"], "layers", "layers.0.w", "embed"),
        (pack["layers"][0], "layers.0", "layers.0.w", "embed"),
        (pack["layers"][1], "layers.1", "layers.1.w", "embed"),
        (pack["head"]["s"], "head.s", "head.s.0", "c"),
    ):
        match = rf"^{path}\.flat: expected .* got {name}, .* {first}, outside of {path}; step the flat of the whole pack$"
        with pytest.raises(ValueError, match=match):
            _ = part.flat
        with pytest.raises(ValueError, match=match):
            part.flat = 1
        assert part.like().flat.size == sum({id(v): v.size for v in part.named_arrays().values()}.values())
    assert_bits(pack.flat, np.arange(14, dtype=np.float32))
    w, v = W[:2], W[2:]
    whole = lrcore.Pack({"b": 3, "a": [{"w": w, "v": v}, {"v": v, "w": w}], "c": 2})
    whole.flat = np.arange(29)
    assert_bits(whole["a"].flat, np.arange(3, 27, dtype=np.float32))
    assert_bits(whole["a"][0].flat, np.arange(3, 27, dtype=np.float32))
    whole["a"].flat *= 2
    assert_bits(whole["a"][1]["v"], np.arange(30, 54, 2, dtype=np.float32).reshape(2, 6))


@pytest.mark.parametrize("pad", [False, True])
def test_a_part_with_ties_to_the_outside(pad: bool) -> None:
    """Everything but its flat is as of any other part."""
    pack = tied(pad)
    layers = pack["layers"]
    layers[1]["w"] = 7
    assert (pack["embed"] == 7).all()
    layers[0] = {"w": np.full((2, 3), 5), "v": [1, 2, 3], "b": [4, 4]}
    layers[1].assign({"w": layers[0]["w"] + 1, "v": (3, 2, 1)})
    assert_bits(pack["embed"], np.full((2, 3), 6, np.float32))
    assert_bits(layers[0]["v"], np.array([3, 2, 1], np.float32))
    assert [*layers.named_arrays()] == ["0.w", "0.v", "0.b", "1.w", "1.v"]
    shared = copy.copy(layers)
    shared[0]["w"] = 8
    assert (pack["embed"] == 8).all()
    with pytest.raises(TypeError, match="^params: expected a float32 array .*got PackList; pass its flat$"):
        lrcore.SGD(layers)


def test_writing_to_a_part_what_lies_outside_of_it() -> None:
    """As if all of it were read first, also what one of the part's own names writes."""
    w = np.zeros(2, np.float32)
    pack = lrcore.Pack({"embed": w, "head": {"w": w, "b": 2}})
    pack["embed"] = [1, 2]
    pack["head"] = {"w": [3, 4], "b": pack["embed"]}
    assert_bits(pack.flat, np.array([3, 4, 1, 2], np.float32))


@pytest.mark.parametrize("pad", [False, True])
def test_copies_keep_ties(pad: bool) -> None:
    """Of a whole; in those of a part, what is tied to the outside has memory of its own."""
    pack = tied(pad)
    inside = {
        (): TIES,
        ("layers",): {"1.w": "0.w", "1.v": "0.v"},
        ("layers", 0): {},
        ("layers", 1): {},
        ("head",): {},
        ("head", "s"): {},
    }
    for keys, ties in inside.items():
        part: Any = pack
        for key in keys:
            part = part[key]
        copies = [copy.deepcopy(part), pickle.loads(pickle.dumps(part))]
        for copied in (*copies, part.like()):
            assert type(copied) is type(part)
            assert repr(copied) == repr(part)
            assert_tied(copied, ties, other=pack)
            for view in copied.named_arrays().values():
                assert np.shares_memory(view, copied.flat)
        for copied in copies:
            for name, view in part.named_arrays().items():
                assert_bits(copied.named_arrays()[name], view)
        assert not part.like().flat.any()
    assert tied(pad)["layers"].like().flat.size == (32 + 2 if pad else 11)


def test_copies_of_tied_packs_go_on_sharing() -> None:
    """With optimizers beside them."""
    pack = tied()
    grads = pack.like()
    together = (pack, grads, lrcore.SGD(pack.flat, lr=1.0, grads=grads.flat))
    for new_pack, new_grads, opt in (copy.deepcopy(together), pickle.loads(pickle.dumps(together))):
        assert opt.params is new_pack.flat
        new_grads["layers"][1]["w"] = -1
        opt.step()
        assert_bits(new_pack["embed"], pack["embed"] + np.float32(1))
        assert_tied(new_pack, TIES, other=pack)


def test_a_pickle_of_before_there_were_ties() -> None:
    pack = lrcore.Pack.__new__(lrcore.Pack)
    state = {
        "xp": "numpy",
        "shapes": {"a": (2,), "b": [(2,)]},
        "pad": False,
        "flat": np.arange(4, dtype=np.float32),
    }
    pack.__setstate__(state)
    assert_bits(pack["b"][0], np.array([2, 3], np.float32))
    assert {*state} == {*pack.__getstate__()}


def test_a_pack_of_a_tied_pack() -> None:
    pack = tied()
    for entries in (pack, pack.tree(), {**pack, "layers": pack["layers"]}):
        again = lrcore.Pack(entries)
        assert repr(again) == repr(pack)
        assert_bits(again.flat, pack.flat)
        assert_tied(again, TIES, other=pack)
    assert_tied(lrcore.Pack(pack.named_arrays()), TIES)
    assert_tied(
        lrcore.Pack({"layers": pack["layers"]}), {"layers.1.w": "layers.0.w", "layers.1.v": "layers.0.v"}
    )


def test_assigning_to_tied_names() -> None:
    """The same object, or equal bits, whatever it is made of; NaN is as any other NaN."""
    w = np.zeros(3, np.float32)
    pack = lrcore.Pack({"embed": w, "head": [w], "b": 1})
    values = np.array([1, np.nan, -0.0], np.float32)
    other_nan = values.copy()
    other_nan.view(np.uint32)[1] = 0xFFC01234
    for one, other in (
        (values, values),
        (values, values.copy()),
        (values.astype(float), [1, math.nan, -0.0]),
        (other_nan, values),
    ):
        pack.flat = 0
        pack.assign({"embed": one, "head": [other], "b": [2]})
        assert_bits(pack.flat, np.array([1, np.nan, -0.0, 2], np.float32))
    pack.assign(pack)
    pack.assign(pack.tree())
    pack.assign({"embed": pack["head"][0].copy(), "head": [pack["embed"]], "b": [2]})
    assert_bits(pack.flat, np.array([1, np.nan, -0.0, 2], np.float32))


@pytest.mark.parametrize("different", [[1, 2, 4], [1, 2, np.nan], [0, 2, 3]])
def test_different_values_for_tied_names_are_refused(different: Any) -> None:
    """By both names, and nothing is written."""
    w = np.zeros(3, np.float32)
    pack = lrcore.Pack({"b": 1, "embed": w, "x": {"head": w}, "third": w})
    before = [0.0, 1, 2, 3]
    pack.flat = before
    for x, third, name in ((different, [1, 2, 3], r"x\.head"), ([1, 2, 3], different, "third")):
        match = f"^{name}: expected the values of embed, which is the same array, got others; .* gradients their sum"
        with pytest.raises(ValueError, match=match):
            pack.assign({"b": [5], "embed": np.array([1, 2, 3.0]), "x": {"head": x}, "third": third})
        assert_bits(pack.flat, np.array(before, np.float32))
    with pytest.raises(ValueError, match="^third: expected the values of embed"):
        pack.assign({"b": [5], "embed": pack["embed"], "x": {"head": pack["embed"]}, "third": [1, 2, -3]})
    assert_bits(pack.flat, np.array(before, np.float32))


def test_zeros_of_different_signs_are_different_values() -> None:
    w = np.zeros(1, np.float32)
    with pytest.raises(ValueError, match="^b: expected the values of a"):
        lrcore.Pack({"a": w, "b": w}).assign({"a": [0.0], "b": [-0.0]})


def test_a_step_of_tied_weights(rule: str) -> None:
    """It has the bits of a step of one array with the sum of the gradients of its names."""
    rng = np.random.default_rng(5)
    start = rng.standard_normal((4, 3)).astype(np.float32)
    pack = lrcore.Pack({"embed": start, "b": 3, "head": start})
    grads = pack.like()
    alone = {"embed": start.ravel().copy(), "b": np.zeros(3, np.float32)}
    opt = make(rule, pack.flat, 0.01, weight_decay=0.1)
    opts = {name: make(rule, array, 0.01, weight_decay=0.1) for name, array in alone.items()}
    for _ in range(3):
        of_embed, of_head = rng.standard_normal((2, 4, 3)).astype(np.float32)
        b = rng.standard_normal(3).astype(np.float32)
        grads["embed"], grads["b"] = of_embed, b
        grads["head"] += of_head
        opt.step(grads.flat)
        opts["embed"].step((of_embed + of_head).ravel())
        opts["b"].step(b)
    assert_bits(pack["head"].ravel(), alone["embed"])
    assert_bits(pack["b"], alone["b"])
    assert (pack["embed"] != start).any()


def test_tied_tensors() -> None:
    """Of a module whose weight has two names, and beside a NumPy view of the same memory."""
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Embedding(5, 2), torch.nn.Linear(2, 5, bias=False))
    model[1].weight = model[0].weight
    named = {name: p.detach() for name, p in model.named_parameters(remove_duplicate=False)}
    pack = lrcore.Pack(named)
    assert_tied(pack, {"1.weight": "0.weight"})
    assert_bits(pack["1.weight"], named["0.weight"].numpy())
    assert_tied(lrcore.Pack({"a": named["0.weight"], "b": named["0.weight"].numpy()}), {"b": "a"})
    assert_tied(lrcore.Pack({"a": model[0].weight.requires_grad_(False), "b": model[1].weight}), {"b": "a"})
    other = torch.ones(2, 3)
    assert_tied(lrcore.Pack({"a": other, "b": other.clone()}), {})


def test_tied_device_arrays() -> None:
    with FakeCuda() as fake:
        cupy = fake.cupy
        w = cupy.asarray(W)
        host = W.copy()
        entries = {"embed": w, "layers": [{"w": w[:], "v": host}, {"v": host, "b": w[:0]}], "head": {"w": w}}
        pack = lrcore.Pack(entries, xp=cupy, pad=True)
        ties = "ties={'layers.0.w': 'embed', 'layers.1.v': 'layers.0.v', 'head.w': 'embed'})"
        assert pack.flat.size == 32 + 32
        pack["head"]["w"] = W + 1
        for each in (pack, pickle.loads(pickle.dumps(pack)), copy.deepcopy(pack), lrcore.Pack(pack, xp=cupy)):
            assert repr(each).endswith(ties)
            assert each["embed"].data.ptr == each["layers"][0]["w"].data.ptr == each["head"]["w"].data.ptr
            assert_bits(cupy.asnumpy(each["embed"]), W + np.float32(1))
            assert_bits(cupy.asnumpy(each["layers"][1]["v"]), W)
        with pytest.raises(ValueError, match=r"^head\.flat: .*head\.w.* embed"):
            _ = pack["head"].flat
        copied = copy.deepcopy(pack["layers"])
        assert type(copied.flat) is cupy.ndarray
        assert repr(copied).endswith("ties={'1.v': '0.v'})")
        assert_bits(cupy.asnumpy(copied[0]["w"]), W + np.float32(1))
        layers = [{"w": W, "v": W + 2.0}, {"v": cupy.asarray(W + 2), "b": W[:0]}]
        pack.assign({"embed": cupy.asarray(W), "layers": layers, "head": {"w": W}})
        assert_bits(cupy.asnumpy(pack["layers"][1]["v"]), W + np.float32(2))
        with pytest.raises(ValueError, match=r"^head\.w: expected the values of embed"):
            pack.assign({"embed": cupy.asarray(W), "layers": layers, "head": {"w": W + 1}})
        with pytest.raises(ValueError, match="^c: expected memory of its own"):
            lrcore.Pack({"a": w, "b": w, "c": w.T}, xp=cupy)


# ---- arrays that are refused


@pytest.mark.parametrize(
    "masked",
    [
        np.ma.array([1, 2, 3], np.float32, mask=[False, True, False]),
        np.ma.array([1, 2, 3], np.float32),
        np.ma.array([1, 2, 3], mask=True),
        [np.ma.array(1.0), 2, 3],
        ([1.0], [np.ma.masked], [np.float32(3)]),
    ],
    ids=["masked", "nothing masked", "integers", "in a list", "deeper"],
)
def test_arrays_with_a_mask_are_refused(masked: Any) -> None:
    """The mask would be ignored."""
    pack = lrcore.Pack({"a": {"w": 3}})
    match = r"^a\.w: expected a plain array, got Masked(Array|Constant), whose mask .*; pass its filled\(0\) or its data"
    with pytest.raises(TypeError, match=match):
        pack["a"]["w"] = masked
    with pytest.raises(TypeError, match=match):
        pack.assign({"a": {"w": masked}})
    with pytest.raises(TypeError, match=r"^a\.flat: expected a plain array, got Masked"):
        pack["a"].flat = masked
    assert not pack.flat.any()
    if isinstance(masked, np.ma.MaskedArray):
        narrow: Any = masked.astype(np.float32)
        with pytest.raises(TypeError, match=match):
            lrcore.Pack({"a": {"w": narrow}})
        assert_bits(lrcore.Pack({"w": narrow.filled(0)}).flat, narrow.filled(0))
        pack["a"]["w"] = masked.data


def test_tensors_without_memory_are_refused() -> None:
    """And those that are not their memory; nothing is read or written."""
    torch = pytest.importorskip("torch")
    fake = pytest.importorskip("torch._subclasses.fake_tensor")
    w = torch.arange(3.0)
    freed = torch.ones(3)
    freed.untyped_storage().resize_(0)
    with fake.FakeTensorMode():
        faked = torch.ones(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # these are prototypes
        masked = torch.masked.masked_tensor(w, w > 0)
    for wrong, error, match in (
        (freed, ValueError, "expected an array with memory, got a null pointer"),
        (torch._efficientzerotensor(3), TypeError, "expected a tensor with memory, got a zero tensor"),
        (faked, TypeError, "expected a tensor that is its memory, got FakeTensor"),
        (masked, TypeError, "expected a tensor that is its memory, got MaskedTensor"),
    ):
        pack = lrcore.Pack({"a": {"w": 3}})
        for entry in (wrong, [wrong], ([0.0], (wrong,))):
            with pytest.raises(error, match=rf"^a\.w: {match}"):
                pack["a"]["w"] = entry
            with pytest.raises(error, match=rf"^a\.w: {match}"):
                pack.assign({"a": {"w": entry}})
            with pytest.raises(error, match=rf"^a\.flat: {match}"):
                pack["a"].flat = entry
        with pytest.raises(error, match=rf"^a\.w: {match}"):
            lrcore.Pack({"a": {"w": wrong}, "b": w, "c": w[1:]})
        assert not pack.flat.any()
    pack["a"]["w"] = w
    assert_bits(pack.flat, w.numpy())
    pack["a"]["w"] = [w[0] + 1, w[1], torch.tensor(5, dtype=torch.int8)]
    assert_bits(pack.flat, np.array([1, 1, 5], np.float32))
    assert lrcore.Pack({"a": freed[:0], "b": w})["a"].shape == (0,)


# ---- libraries


class Immutable:
    """An array that cannot be written, as those of jax."""

    dtype, shape = np.dtype(np.float32), (1,)


def library_of(**parts: Any) -> types.ModuleType:
    """Return a module of these functions, and of NumPy's that a Pack needs."""
    made = types.ModuleType("made")
    names = ("zeros", "float32", "asarray", "may_share_memory")
    vars(made).update({name: getattr(np, name) for name in names} | parts)
    return made


def test_what_is_no_array_library_is_refused() -> None:
    """By its name, before anything is made or read."""

    def missing(*_: Any) -> Any:
        raise NotImplementedError("may_share_memory is not implemented")

    without = library_of()
    del without.may_share_memory
    for xp, name in (
        ("numpy", "str"),
        (None, "NoneType"),
        (np.ndarray, "ndarray"),
        (math, "math"),
        (library_of(zeros=lambda *_, **__: Immutable()), "made"),
        (library_of(may_share_memory=missing), "made"),
        (without, "made"),
    ):
        wrong: Any = xp
        match = f"^xp: expected numpy, or a module with its interface such as cupy, got {name}: "
        with pytest.raises(TypeError, match=match):
            lrcore.Pack({"w": 3}, xp=wrong)
        with pytest.raises(TypeError, match=match):
            lrcore.Pack({}, wrong)
        with pytest.raises(TypeError, match=match):
            lrcore.Pack.from_file("no such file", wrong)
    assert lrcore.Pack({"w": 3}, xp=library_of()).flat.shape == (3,)


@pytest.mark.parametrize("name", ["torch", "jax.numpy"])
def test_libraries_of_another_interface_are_refused(name: str) -> None:
    xp = pytest.importorskip(name)
    with pytest.raises(TypeError, match=f"^xp: expected numpy, .* got {name}: "):
        lrcore.Pack({"w": 3}, xp=xp)


def test_attributes_are_no_entries() -> None:
    pack = lrcore.Pack({"w": 3})
    for name in ("w", "new"):
        with pytest.raises(AttributeError, match=rf'^{name}: .*write pack\["{name}"\]'):
            setattr(pack, name, 1)
