"""`lrcore.Pack`: named views of one flat buffer."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import lrcore
from support import assert_bits


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
    with pytest.raises(KeyError):
        _ = pack["c"]


def test_writing_in_place() -> None:
    pack = lrcore.Pack({"w": (2, 3), "b": (3,)})
    view = pack["b"]
    pack["b"] += 1
    pack["w"] = [[1, 2, 3], [4, 5, 6]]
    assert pack["b"] is view
    assert_bits(pack.flat, np.array([1, 2, 3, 4, 5, 6, 1, 1, 1], np.float32))
    with pytest.raises(ValueError, match="broadcast"):
        pack["b"] = np.ones(4)


def test_from_arrays_copies() -> None:
    w = np.arange(6, dtype=np.float32).reshape(2, 3)
    pack = lrcore.Pack({"w": w.T, "b": np.ones(3, np.float32)})
    assert_bits(pack["w"], np.ascontiguousarray(w.T))
    pack["w"] = 0
    assert w.any()
    for wrong in (np.ones(3), np.ones(3, int)):
        with pytest.raises(TypeError, match=f"^w: expected dtype float32, got {wrong.dtype}"):
            lrcore.Pack({"w": wrong})


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
        ([[1, 2]], TypeError),
    ],
)
def test_wrong_shapes(entry: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="^w: expected"):
        lrcore.Pack({"w": entry})
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
