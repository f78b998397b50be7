"""A pack in a file: what is written comes back nested, others read it, and a wrong file changes nothing."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrcore
from gpu.fake_cuda import FakeCuda
from lrcore._files import safetensors
from lrcore.pack._tree import tree_map
from support import assert_bits

NO_WHEELS = "safetensors has no wheels for free-threaded Python"


def model(pad: bool = False) -> lrcore.Pack:
    """Return a pack of 21 elements, which are numbered from 1."""
    layer = {"w": (2, 3), "b": 3}
    pack = lrcore.Pack(
        {"layers": [layer, layer], "head": {"s": (), "none": [], "zero": (0, 3)}, "c": [2]}, pad=pad
    )
    for view, first in zip(pack.named_arrays().values(), (1, 7, 10, 16, 19, 20, 20), strict=True):
        view[...] = np.arange(first, first + view.size).reshape(view.shape)
    return pack


NAMES = ["layers.0.w", "layers.0.b", "layers.1.w", "layers.1.b", "head.s", "head.zero", "c"]
ONE_TO_21 = np.arange(1, 22, dtype=np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a name for the file, in a folder of its own."""
    return tmp_path / "model.safetensors"


@pytest.fixture
def saved(path: Path) -> Path:
    """Return the file of a model."""
    model().save(path)
    return path


def assert_refused(
    path: Path,
    match: str | None = None,
    error: type[Exception] = ValueError,
    make: Callable[[], lrcore.Pack] = model,
) -> None:
    """Assert that neither way of loading takes the file, that both name it, and that nothing changes."""
    pack = make()
    for load in (lambda: pack.load(path), lambda: lrcore.Pack.from_file(path)):
        with pytest.raises(error, match=match) as raised:
            load()
        assert str(path) in str(raised.value)
    assert_bits(pack.flat, make().flat)


def assert_does_not_fit(path: Path, match: str, pack: lrcore.Pack | None = None) -> None:
    """Assert that a pack does not take the file, which is a good one, and keeps its values."""
    lrcore.Pack.from_file(path)
    pack = model() if pack is None else pack
    before = pack.flat.copy()
    with pytest.raises(ValueError, match=match) as raised:
        pack.load(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert_bits(pack.flat, before)


# ---- what survives


@pytest.mark.parametrize("pad", [False, True])
def test_there_and_back(pad: bool, path: Path) -> None:
    """Names, their order, nesting and values; padding is not in the file."""
    pack = model(pad)
    pack.save(path)
    made = lrcore.Pack.from_file(path)
    assert repr(made) == repr(model())
    assert_bits(made.flat, ONE_TO_21)
    assert repr(lrcore.Pack.from_file(path, pad=True)) == repr(model(pad=True))
    for other in (model(), model(pad=True)):
        views = other.named_arrays()
        other.flat[:] = -1
        other.load(str(path))
        for name, view in pack.named_arrays().items():
            assert_bits(other.named_arrays()[name], view)
            assert other.named_arrays()[name] is views[name]
    assert [*path.parent.iterdir()] == [path]
    with pytest.raises(TypeError, match="^pad: expected True or False"):
        lrcore.Pack.from_file(path, pad=64)  # type: ignore[arg-type]


def test_all_bits_survive(path: Path) -> None:
    bits = np.array([0x7FC01234, 0xFFC00001, 0x80000000, 1, 0x7F800000, 0xFF7FFFFF], np.uint32)
    lrcore.Pack({"w": bits.view(np.float32)}).save(path)
    pack = lrcore.Pack({"w": 6})
    pack.load(path)
    for each in (pack, lrcore.Pack.from_file(path)):
        assert each.flat.tobytes() == bits.tobytes()


def test_others_read_it(saved: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy", reason=NO_WHEELS)

    found = safetensors.load_file(saved)
    assert {*found} == {*NAMES}
    for name, view in model().named_arrays().items():
        assert_bits(found[name], view)


def test_the_file_says_how_it_is_nested(saved: Path) -> None:
    safetensors = pytest.importorskip("safetensors", reason=NO_WHEELS)

    with safetensors.safe_open(saved, framework="np") as tensors:
        text = json.loads(tensors.metadata()["lrcore"])
    assert text.pop("version") == lrcore.__version__
    layer = {"w": "[2, 3]", "b": "[3]"}
    structure = {
        "layers": [layer, layer],
        "head": {"s": "[]", "none": [], "zero": "[0, 3]"},
        "c": "[2]",
    }
    assert text == {"format": 2, "class": "Pack", "structure": structure}


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_file_by_others(metadata: Any, path: Path) -> None:
    """It has names with dots: a flat pack of these, or what it is loaded into says how they are nested."""
    safetensors = pytest.importorskip("safetensors.numpy", reason=NO_WHEELS)

    arrays = {name: view + 1 for name, view in model().named_arrays().items()}
    safetensors.save_file({name: np.array(view) for name, view in arrays.items()}, path, metadata)
    made = lrcore.Pack.from_file(path)
    assert {*made} == {*NAMES}
    assert_bits(made["layers.1.w"], arrays["layers.1.w"])
    for other in (model(), lrcore.Pack(model().named_arrays())):
        other.load(path)
        assert_bits(other.flat, ONE_TO_21 + np.float32(1))


def test_an_empty_pack(path: Path) -> None:
    trees: list[dict[str, Any]] = [{}, {"a": [], "b": {}}]
    for entries in trees:
        lrcore.Pack(entries).save(path)
        assert repr(lrcore.Pack.from_file(path)) == repr(lrcore.Pack(entries))
        lrcore.Pack(entries).load(path)


def test_a_part(path: Path) -> None:
    """Its names begin at itself, and it loads into one part alone."""
    model()["layers"][1].save(path)
    assert [*lrcore.Pack.from_file(path)] == ["w", "b"]
    pack = model()
    pack["layers"][0].load(path)
    assert_bits(pack.flat[:9], ONE_TO_21[9:18])
    assert_bits(pack.flat[9:], ONE_TO_21[9:])
    with pytest.raises(ValueError, match="expected shape|w: expected F32 of shape"):
        lrcore.Pack({"w": 2, "b": 3}).load(path)


def test_between_devices(path: Path) -> None:
    with FakeCuda() as fake:
        cupy = fake.cupy
        for pad in (False, True):
            there = lrcore.Pack(model(), xp=cupy, pad=pad)
            there.save(path)
            assert_bits(lrcore.Pack.from_file(path).flat, ONE_TO_21)
            again = lrcore.Pack.from_file(path, cupy, pad=pad)
            assert repr(again) == repr(there)
            assert_bits(cupy.asnumpy(again.flat), cupy.asnumpy(there.flat))
        twice = model()
        twice.flat *= 2
        twice.save(path)
        again.load(path)
        assert type(again.flat) is cupy.ndarray
        for name, view in again.named_arrays().items():
            assert_bits(cupy.asnumpy(view), twice.named_arrays()[name])


# ---- tied arrays


def tied(xp: Any = np, pad: bool = False) -> lrcore.Pack:
    """Return a pack of 10 elements, which are numbered from 1: two arrays have three names and two."""
    w, s = np.arange(1, 7, dtype=np.float32).reshape(2, 3), np.array(9, np.float32)
    entries = {
        "embed": w,
        "layers": [{"w": w, "b": np.array([7, 8], np.float32)}, {"s": s}],
        "head": {"w": w, "s": s, "c": np.array([10], np.float32)},
    }
    return lrcore.Pack(entries, xp, pad=pad)


TIES = {"layers.0.w": "embed", "head.w": "embed", "head.s": "layers.1.s"}


def untied() -> lrcore.Pack:
    """Return a pack of the same names and values, each of them an array of its own."""
    return lrcore.Pack(tree_map(lambda _, view: view.copy(), tied().tree()))


def by_others(path: Path, arrays: dict[str, Any]) -> None:
    """Write a file without a text."""
    from safetensors.numpy import save_file

    save_file({name: np.array(each, np.float32) for name, each in arrays.items()}, path)


@pytest.mark.parametrize("pad", [False, True])
def test_ties_survive(pad: bool, path: Path) -> None:
    pack = tied(pad=pad)
    pack.save(path)
    made = lrcore.Pack.from_file(path, pad=pad)
    assert repr(made) == repr(pack)
    assert made["head"]["w"].ctypes.data == made["layers"][0]["w"].ctypes.data == made["embed"].ctypes.data
    assert_bits(made.flat, pack.flat)
    other = pack.like()
    other.load(path)
    assert_bits(other.flat, pack.flat)


def test_a_tied_array_is_stored_once(path: Path) -> None:
    """Under its first name, and the text says which other names it has."""
    from safetensors import safe_open

    tied().save(path)
    with safe_open(path, framework="np") as tensors:
        assert {*tensors.keys()} == {"embed", "layers.0.b", "layers.1.s", "head.c"}
        assert_bits(tensors.get_tensor("embed"), tied()["head"]["w"])
        text = json.loads(tensors.metadata()["lrcore"])
    assert text["ties"] == TIES
    assert text["structure"]["head"] == {"w": "[2, 3]", "s": "[]", "c": "[1]"}
    untied().save(path)
    with safe_open(path, framework="np") as tensors:
        assert "ties" not in json.loads(tensors.metadata()["lrcore"])


def test_tied_files_and_packs_that_are_not(path: Path) -> None:
    """A file gives its values to all names; a pack takes a file whose values agree."""
    tied().save(path)
    pack = untied()
    pack.flat = 0
    pack.load(path)
    assert_bits(pack.flat, untied().flat)
    pack.save(path)
    pack = tied()
    pack.flat = 0
    pack.load(path)
    assert_bits(pack.flat, tied().flat)
    partly = untied().tree()
    partly["head"]["w"] = partly["embed"]
    other = lrcore.Pack(partly)
    tied().save(path)
    other.flat = 0
    other.load(path)
    assert_bits(other.flat, lrcore.Pack(partly).flat)
    assert repr(lrcore.Pack.from_file(path)) == repr(tied())


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
    [
        ["embed"],
        ["layers.0.w"],
        ["head.w"],
        ["embed", "head.w"],
        ["layers.0.w", "head.w", "layers.1.s"],
        ["head.s"],
        [],
    ],
    ids=" ".join,
)
def test_files_by_others_without_some_tied_names(missing: list[str], path: Path) -> None:
    """Any of them, as long as one is there."""
    arrays = tied().named_arrays()
    by_others(path, {name: view for name, view in arrays.items() if name not in missing})
    pack = tied()
    pack.flat = 0
    pack.load(path)
    assert_bits(pack.flat, tied().flat)
    if missing:
        assert_does_not_fit(path, f"{missing[0]}: missing", untied())


def test_files_without_any_of_the_names(path: Path) -> None:
    arrays = tied().named_arrays()
    for gone in (["embed", "layers.0.w", "head.w"], ["layers.0.b"]):
        by_others(path, {name: view for name, view in arrays.items() if name not in gone})
        assert_does_not_fit(path, f"{gone[0]}: missing", tied())
    by_others(path, {name: view for name, view in arrays.items() if name != "head.w"} | {"more": [1]})
    assert_does_not_fit(path, "more: unknown", tied())
    by_others(path, {name: view for name, view in arrays.items() if name != "head.w"} | {"embed": [1]})
    assert_does_not_fit(path, "embed: expected F32 of shape", tied())


def test_a_part_with_ties(path: Path) -> None:
    """What is tied to the outside is stored with the part, and written in place."""
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


def test_ties_between_devices(path: Path) -> None:
    with FakeCuda() as fake:
        cupy = fake.cupy
        there = tied(cupy, pad=True)
        there.save(path)
        assert repr(lrcore.Pack.from_file(path)) == repr(tied())
        again = lrcore.Pack.from_file(path, cupy, pad=True)
        assert repr(again) == repr(there)
        assert_bits(cupy.asnumpy(again.flat), cupy.asnumpy(there.flat))
        there["head"].save(path)
        assert_bits(lrcore.Pack.from_file(path).flat, np.array([*range(1, 7), 9, 10], np.float32))
        by_others(path, {name: view + 1 for name, view in tied().named_arrays().items() if name != "embed"})
        again.load(path)
        assert_bits(cupy.asnumpy(again["embed"]), tied()["embed"] + np.float32(1))


# ---- writing


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file(where: str, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(os, where, fail)
        with pytest.raises(OSError, match="broken"):
            lrcore.Pack({"w": 3}).save(saved)
    assert saved.read_bytes() == before
    assert [*saved.parent.iterdir()] == [saved]


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a file, or a name that is free"):
        model().save(tmp_path)
    with pytest.raises(FileNotFoundError):
        model().save(tmp_path / "missing" / "model")


@pytest.mark.parametrize("name", ["__metadata__", "\ud800"])
def test_names_without_a_place(name: str, path: Path) -> None:
    with pytest.raises(ValueError, match=r"model.safetensors: .*(__metadata__|ud800).*; rename the array"):
        lrcore.Pack({"layers": {name: 2}} if name != "__metadata__" else {name: 2}).save(path)
    assert not path.exists()


@pytest.mark.parametrize(
    "name", ["é", "a b", 'a"b', "\n", "lrcore", "dtype", "a.b", ".", "0", "layers.__metadata__"]
)
def test_names_of_all_kinds(name: str, path: Path) -> None:
    pack = lrcore.Pack({name: {name: np.ones(2, np.float32)}})
    pack.save(path)
    assert lrcore.Pack.from_file(path)[name][name].tolist() == [1, 1]
    pack.load(path)


def test_names_that_no_header_holds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors, "_LONGEST", 1000)
    model()["head"].save(path)
    with pytest.raises(ValueError, match="the structure is too long for the file's header"):
        lrcore.Pack({f"array{i}": 1 for i in range(20)}).save(path.with_name("other"))
    assert not path.with_name("other").exists()


# ---- what does not fit


def test_other_packs(saved: Path) -> None:
    """The file is good; names, nesting or shapes are those of another pack."""
    layer = {"w": (2, 3), "b": 3}
    head = {"s": (), "none": [], "zero": (0, 3)}
    for entries, match in (
        ({"layers": [layer, layer], "head": head}, "c: unknown; expected"),
        ({"layers": [layer, layer], "head": head, "c": 2, "d": 1}, "d: missing"),
        ({"layers": [layer, layer, layer], "head": head, "c": 2}, r"layers\.2\.w: missing"),
        ({"layers": [layer, layer], "head": head, "c": 3}, r"c: expected F32 of shape \[3\], got F32 of shape \[2\]"),
        ({"layers": [layer, {"w": (3, 2), "b": 3}], "head": head, "c": 2}, r"layers\.1\.w: expected F32 of shape"),
        ({"layers": [layer, layer], "head": head | {"s": 1}, "c": 2}, r"head\.s: expected F32 of shape \[1\], got"),
        ({"layers": {"0": layer, "1": layer}, "head": head, "c": 2}, "layers: expected a dictionary of .*got list"),
        ({"layers": [layer, layer], "head": head | {"none": {}}, "c": 2}, r"head\.none: expected a dictionary"),
        ({"layers": [layer, layer], "head": {"s": (), "zero": (0, 3)}, "c": 2}, r"head\.none: unknown"),
        (model().named_arrays(), r"layers\.0\.w: missing"),
    ):  # fmt: skip
        assert_does_not_fit(saved, match, lrcore.Pack(entries))
    reordered = lrcore.Pack({"c": 2, "head": {"zero": (0, 3), "none": [], "s": ()}, "layers": [layer, layer]})
    reordered.load(saved)
    assert_bits(reordered.flat, np.array([20, 21, 19, *range(1, 19)], np.float32))


def test_files_by_others_that_do_not_fit(path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy", reason=NO_WHEELS)

    arrays = {name: np.array(view) for name, view in model().named_arrays().items()}
    for change, match in (
        ({"c": np.ones(3, np.float32)}, r"c: expected F32 of shape \[2\], got F32 of shape \[3\]"),
        ({"layers.2.w": np.ones(3, np.float32)}, r"layers\.2\.w: unknown"),
        ({"c": None}, "c: missing"),
    ):
        safetensors.save_file(
            {name: each for name, each in (arrays | change).items() if each is not None}, path
        )
        assert_does_not_fit(path, match)
    for dtype, name in (("float64", "F64"), ("float16", "F16"), ("int32", "I32"), ("bool", "BOOL")):
        safetensors.save_file(arrays | {"layers.1.b": np.ones(3, dtype)}, path)
        assert_refused(path, rf"layers\.1\.b: expected F32.*, got {name} of shape \[3\]")


# ---- reading what is wrong


def test_cut_at_each_byte(saved: Path) -> None:
    whole = saved.read_bytes()
    for length in range(len(whole)):
        saved.write_bytes(whole[:length])
        assert_refused(saved)
    saved.write_bytes(whole + b"\0")
    assert_refused(saved)


def test_each_bit_flipped(saved: Path) -> None:
    """In the header and in the arrays, also in an extent of an array without elements."""
    whole = saved.read_bytes()
    for position in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[position] ^= 1 << bit
            saved.write_bytes(flipped)
            with pytest.raises(ValueError, match="model.safetensors: "):
                lrcore.Pack.from_file(saved)


def text_of(changes: dict[str, Any]) -> str:
    """Return the text of a pack of two arrays with some entries changed; ``...`` takes one out."""
    entries = {
        "format": 2,
        "version": "0.1.0",
        "class": "Pack",
        "structure": {"a": [{"w": "[2]"}], "b": "[]"},
    }
    return json.dumps({name: value for name, value in (entries | changes).items() if value is not ...})


BYTES = np.arange(3, dtype=np.float32).tobytes()


def tensor(first: int, last: int, shape: Any) -> dict[str, Any]:
    """Return a tensor's entry in the header."""
    return {"dtype": "F32", "shape": [*shape], "data_offsets": [first, last]}


TENSORS = {"a.0.w": tensor(0, 8, (2,)), "b": tensor(8, 12, ())}


def put(path: Path, text: str, tensors: Any = None, metadata: Any = None) -> Path:
    """Write a file with any header, its checksum right."""
    checksum = zlib.crc32(BYTES, zlib.crc32(text.encode()))
    metadata = {"lrcore": text, "lrcore.crc32": f"{checksum:08x}"} if metadata is None else metadata
    header = json.dumps({"__metadata__": metadata} | (TENSORS if tensors is None else tensors)).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + BYTES)
    return path


def small() -> lrcore.Pack:
    """Return the pack of these files."""
    return lrcore.Pack({"a": [{"w": 2}], "b": ()})


def test_these_files_would_be_taken(path: Path) -> None:
    put(path, text_of({}))
    assert repr(lrcore.Pack.from_file(path)) == repr(small())
    pack = small()
    pack.load(path)
    assert_bits(pack.flat, np.arange(3, dtype=np.float32))


TIED = {"structure": {"a": [{"w": "[2]"}], "b": "[]", "c": "[]"}}
CHAIN = {"structure": TIED["structure"] | {"d": "[]"}}


@pytest.mark.parametrize("kept", ["b", "a.0.w"])
def test_these_ties_would_be_taken(kept: str, path: Path) -> None:
    """Whichever of the names comes first in the tree."""
    shape = {"b": "[]", "a.0.w": "[2]"}[kept]
    put(
        path,
        text_of(
            {
                "structure": {"c": shape, "a": [{"w": "[2]"}], "b": "[]", "d": shape},
                "ties": {"c": kept, "d": kept},
            }
        ),
    )
    pack = lrcore.Pack.from_file(path)
    ties = {"b": {"b": "c", "d": "c"}, "a.0.w": {"a.0.w": "c", "d": "c"}}[kept]
    assert repr(pack).endswith(f", ties={ties})")
    assert_bits(
        pack.named_arrays()[kept], {"b": np.float32(2), "a.0.w": np.arange(2, dtype=np.float32)}[kept]
    )
    pack.load(path)


TEXTS: list[tuple[str, str]] = [
    (text_of({"format": 3}), "format 3, written by lrcore 0.1.0; .*install a later one"),
    (text_of({"format": True}), "format: expected a number from 1 to 2, got True"),
    (text_of({"format": ...}), "format: expected a number from 1 to 2, got None"),
    (text_of({"version": ...}), "expected the entry 'version'"),
    (text_of({"class": ...}), "expected the entry 'class'"),
    (text_of({"class": "Adam"}), "class: expected 'Pack', got 'Adam'; lrcore.load reads"),
    (text_of({"more": 1}), "entry 'more': unknown to lrcore"),
    (text_of({"structure": ...}), "expected the entries"),
    (text_of({"structure": ["[2]"]}), "structure: expected a dictionary, got list"),
    (text_of({"structure": "[2]"}), "structure: expected a dictionary, got str"),
    (text_of({"structure": {"a": [{"w": "[2]"}]}}), "b: unknown"),
    (text_of({"structure": {"a": [{"w": "[2]"}], "b": "[]", "c": "[]"}}), "c: missing"),
    (text_of({"structure": {"a": [{"w": "[2]"}, "[]"], "b": "[]"}}), r"a\.1: missing"),
    (text_of({"structure": {"a": [{"w": "[2]"}], "": {"b": "[]"}}}), "not empty|missing"),
    (text_of({"structure": {"a": [{"w": "[2]"}], "b": "[]", "a.0": {"w": "[2]"}}}), r"a\.0\.w: two arrays|a\.0: unknown"),
    (text_of({"structure": {"a": [{"w": "[1, 2]"}], "b": "[]"}}), r"structure: a\.0\.w: expected '\[2\]'"),
    (text_of({"structure": {"a": [{"w": None}], "b": "[]"}}), r"structure: a\.0\.w: expected .*got None"),
    (text_of({"structure": {"a": [{"w": 2}], "b": "[]"}}), r"structure: a\.0\.w: expected .*got 2"),
    (text_of({"structure": {"a": [{"w": [2]}], "b": "[]"}}), r"a\.0\.w\.0: missing|a\.0\.w: missing"),
    (text_of({"structure": 7}).replace("7", '{"a":' * 50_000), "recursion|overflow"),
    (text_of({"structure": 7}).replace("7", '{"a":' * 900 + "{}" + "}" * 900), "recursion|missing|unknown"),
    (text_of({}).replace('"b":', '"a":'), "the entry 'a' stands twice"),
    (text_of({}).replace('"[]"', "NaN"), "finite numbers, got NaN"),
    (text_of({"ties": None}), "ties: expected a dictionary, got NoneType"),
    (text_of({"ties": ["c", "b"]}), "ties: expected a dictionary, got list"),
    (text_of(TIED | {"ties": {"c": "b", "d": "b"}}), "ties: d: expected an array of the structure that is not stored"),
    (text_of(TIED | {"ties": {"c": "b", "a.0.w": "b"}}), r"ties: a\.0\.w: expected an array .* that is not stored"),
    (text_of(TIED | {"ties": {"c": "b", "b": "b"}}), "ties: b: expected an array of the structure that is not stored"),
    (text_of(TIED | {"ties": {"c": "c"}}), "ties: c: expected the name of a stored array, got 'c'"),
    (text_of(TIED | {"ties": {"c": "d"}}), "ties: c: expected the name of a stored array, got 'd'"),
    (text_of(TIED | {"ties": {"c": None}}), "ties: c: expected the name of a stored array, got None"),
    (text_of(TIED | {"ties": {"c": ["b"]}}), r"ties: c: expected the name of a stored array, got \['b'\]"),
    (text_of(TIED | {"ties": {"c": {}}}), "ties: c: expected the name of a stored array, got {}"),
    (text_of(CHAIN | {"ties": {"c": "b", "d": "c"}}), "ties: d: expected the name of a stored array, got 'c'"),
    (text_of(CHAIN | {"ties": {"c": "d", "d": "c"}}), "ties: c: expected the name of a stored array, got 'd'"),
    (text_of(TIED | {"ties": {"c": "a.0.w"}}), r"ties: c: expected the shape of a\.0\.w, '\[2\]', got '\[\]'"),
    (text_of({"structure": TIED["structure"] | {"c": "[1]"}, "ties": {"c": "b"}}), "ties: c: expected the shape of b"),
    (text_of({"structure": {"a": [{"w": "[2]"}], "c": None}, "ties": {"c": "b"}}), "(b|c): unknown"),
    (text_of(TIED), "c: missing"),
    (text_of(TIED | {"ties": {"c": "b"}}).replace('"c": "b"', '"c": "b", "c": "b"'), "the entry 'c' stands twice"),
    ("[]", "expected a JSON object, got list"),
    ("", "Expecting value"),
    (text_of({}) + "x", "Extra data"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "match"), TEXTS, ids=lambda each: each[:60])
def test_wrong_texts(text: str, match: str, path: Path) -> None:
    assert_refused(put(path, text), f"(?i)^{path}: .*({match})", make=small)


@pytest.mark.parametrize(
    ("metadata", "match"),
    [
        ({"lrcore": text_of({})}, "damaged"),
        ({"lrcore": text_of({}), "lrcore.crc32": "00000000"}, "damaged"),
        ({"lrcore.crc32": "00000000"}, "damaged"),
        ({"lrcorf": text_of({}), "lrcore.crc32": "00000000"}, "damaged"),
        ({"lrcore": 3}, "header"),
    ],
)
def test_wrong_metadata(metadata: Any, match: str, path: Path) -> None:
    assert_refused(put(path, "", metadata=metadata), match, make=small)


def test_tensors_that_the_text_does_not_name(path: Path) -> None:
    tensors = {"a.0.w": tensor(0, 8, (2,)), "c": tensor(8, 12, ())}
    assert_refused(put(path, text_of({}), tensors), "b: missing", make=small)
    assert_refused(put(path, text_of({}), {"a.0.w": tensor(0, 12, (3,))}), "b: missing", make=small)


def test_states_are_no_packs(saved: Path, path: Path) -> None:
    """And packs are no states; each says what reads it."""
    opt = lrcore.Adam(np.zeros(21, np.float32))
    for load in (lambda: opt.load(saved), lambda: lrcore.load(saved, np.zeros(21, np.float32))):
        with pytest.raises(
            ValueError, match="model.safetensors: class: .*got 'Pack'; lrcore.Pack.from_file reads it"
        ):
            load()
    opt.save(path)
    assert_refused(path, "class: expected 'Pack', got 'Adam'; lrcore.load reads")


class Bomb:
    """Leaves a trace when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


def test_other_files(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    for content in (
        b"",
        b"\xff" * 8 + b"{}",
        struct.pack("<Q", 400_000) + b"[" * 400_000,
        pickle.dumps(Bomb()),
    ):
        path.write_bytes(content)
        assert_refused(path)
    assert not Path("executed").exists()
    path.unlink()
    assert_refused(path, error=FileNotFoundError)
    path.mkdir()
    assert_refused(path, error=IsADirectoryError)


def test_a_huge_file_is_not_read(path: Path) -> None:
    """An array of another size is refused before its memory is asked for. The file has no bytes on the disk."""
    size = 2**40
    header = json.dumps(
        {"a.0.w": tensor(0, 4 * size, (size,)), "b": tensor(4 * size, 4 * size + 4, ())}
    ).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    try:
        os.truncate(path, 8 + len(header) + 4 * size + 4)
    except OSError:
        pytest.skip("no file of 4 TiB can be made here")
    try:
        with pytest.raises(ValueError, match=r"a\.0\.w: expected F32 of shape \[2\]"):
            small().load(path)
    finally:
        path.unlink()


@pytest.mark.parametrize("part", [[], {}, "[]", 0])
def test_a_long_name_does_not_fill_the_memory(part: Any, path: Path) -> None:
    """It is in the path of each part below it: a few kilobytes would become the square of that."""
    entries = {"x" * 50_000: [part] * 2_000}
    refusal = "model.safetensors: structure: expected paths of at most 99000000 characters together"
    assert_refused(put(path, text_of({"structure": entries})), refusal, make=small)
    path.unlink()
    if not isinstance(part, (str, int)):
        with pytest.raises(ValueError, match=refusal):
            lrcore.Pack(entries).save(path)
        assert not path.exists()


def test_a_file_by_others_with_a_name_like_ours(path: Path) -> None:
    """Metadata that only begin as ours do are theirs."""
    safetensors = pytest.importorskip("safetensors.numpy", reason=NO_WHEELS)

    safetensors.save_file({"w": np.ones(3, np.float32)}, path, {"lrcore_run": "7"})
    assert_bits(lrcore.Pack.from_file(path)["w"], np.ones(3, np.float32))
