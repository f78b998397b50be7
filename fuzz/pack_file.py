"""Fuzz the file of a pack: ``python fuzz/pack_file.py -runs=100000``.

For any bytes, `Pack.load` and `Pack.from_file` must either accept them, or raise a documented exception and change
nothing. An accepted pack must match the bytes of the file as read without lrcore. After saving and loading it again,
it must have the same bits, the same structure and the same ties.
"""

from __future__ import annotations

import atheris

with atheris.instrument_imports(include=["lrcore", "json"]):
    import json.decoder
    import json.scanner

    import lrcore
    from lrcore._files.format import FORMAT

import math
import sys
from collections.abc import Iterator
from random import Random
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from _harness import AGAIN, PATH, fuzz, guarded, mutator, put
from _mutations import ODD, changed, checksum, joined, nodes, parsed, parts, rebuilt

LAYER = {"w": (2, 3), "b": 3}
NESTED = {"c": 2, "layers": [LAYER, LAYER], "head": {"s": (), "none": [], "zero": (0, 3)}}
WEIGHTS = {"w": np.zeros((2, 3), np.float32), "b": np.zeros(3, np.float32)}
TIED = NESTED | {"layers": [WEIGHTS, WEIGHTS]}
"""The same names and shapes, with the arrays of the first layer shared by the second."""


def filled(pack: lrcore.Pack) -> lrcore.Pack:
    """Return a pack filled with different nonzero values."""
    for number, view in enumerate(pack.named_arrays().values()):
        view[...] = np.arange(view.size, dtype=np.float32).reshape(view.shape) - number - 0.5
    return pack


OWN = [lrcore.Pack(NESTED, pad=True)]
"""Packs to load into: a padded pack with the structure of most files, one without nesting, and one with tied arrays."""
OWN += [lrcore.Pack(OWN[0].named_arrays()), lrcore.Pack(TIED)]
BEFORE = [-filled(pack).flat for pack in OWN]
"""Initial values, which differ from those in the files."""


def target(data: bytes) -> None:
    """Read the file in every possible way."""
    put(data)
    made = from_file(pad=False)
    padded = from_file(pad=True)
    assert (made is None) == (padded is None)
    for own, before in zip(OWN, BEFORE, strict=True):
        own.flat = before
        if loaded(own):
            assert made is not None
            assert_as_written(own, data, in_order=False)
    if made is not None and padded is not None:
        assert_as_written(made, data, in_order=True)
        assert_as_written(padded, data, in_order=True)
        pad = len(data) % 2 == 0  # only one of them, to save time
        assert_stays(padded if pad else made, pad=pad)


def from_file(*, pad: bool) -> lrcore.Pack | None:
    """Return the pack in the file, or None if the file is rejected."""
    with guarded():
        try:
            return lrcore.Pack.from_file(PATH, pad=pad)
        except ValueError as error:
            assert str(error).startswith(f"{PATH}: "), error
            return None


def loaded(pack: lrcore.Pack) -> bool:
    """Load the file into a pack, and return whether it was accepted; if not, check that the pack is unchanged."""
    before, shapes, views = pack.flat.tobytes(), repr(pack), pack.named_arrays()
    taken = True
    with guarded():
        try:
            pack.load(PATH)
        except ValueError as error:
            assert str(error).startswith(f"{PATH}: "), error
            assert pack.flat.tobytes() == before, error
            taken = False
    assert repr(pack) == shapes
    assert all(np.shares_memory(view, pack.flat) == bool(view.size) for view in views.values())
    return taken


def assert_as_written(pack: lrcore.Pack, data: bytes, *, in_order: bool) -> None:
    """Assert that a pack has the names, shapes and bits in the file.

    If the file has lrcore's metadata, the structure and the ties must match, too.
    """
    header, tensors = parts(data)
    metadata = header.pop("__metadata__", None) or {}
    views = pack.named_arrays()
    own = any(name == "lrcore" or name.startswith("lrcore.") for name in metadata)
    ties = parsed(metadata["lrcore"]).get("ties", {}) if own else {}
    same = same_memory(views)
    if in_order:
        assert same == {
            name: {each for each in views if ties.get(each, each) == ties.get(name, name)} for name in same
        }
        assert {*ties} <= {*same} | {name for name, view in views.items() if not view.size}
    kept = {name: [name] for name in header} | {name: [stored] for name, stored in ties.items()}
    if not own:
        kept = {name: kept.get(name) or [*(same.get(name, set()) & {*header})] for name in views} | kept
    assert {*views} == {*kept}
    assert not {*ties} & {*header}
    for name, view in views.items():
        tensor = header[kept[name][0]]
        begin, end = tensor["data_offsets"]
        assert (tensor["dtype"], tensor["shape"]) == ("F32", [*view.shape]), name
        stored = np.frombuffer(tensors[begin:end], np.uint32)
        values = view.view(np.uint32).ravel()
        differs = values != stored
        assert view.dtype == np.float32
        if name in same:  # for an array with several names, all NaNs count as equal
            differs &= ~(np.isnan(values.view(np.float32)) & np.isnan(stored.view(np.float32)))
        assert not differs.any(), name
    within = pack.like()
    for view in within.named_arrays().values():
        view[...] = 1
    assert not pack.flat[within.flat == 0].any()
    if own:
        assert metadata["lrcore.crc32"] == checksum(header | {"__metadata__": metadata}, tensors)
        text = parsed(metadata["lrcore"])
        assert sorted({*text} - {"ties"}) == ["class", "format", "structure", "version"]
        assert text["class"] == "Pack"
        assert type(text["format"]) is int
        assert 1 <= text["format"] <= FORMAT
        nest = shapes_in(pack.tree())
        assert text["structure"] == nest
        assert not in_order or json.dumps(text["structure"]) == json.dumps(nest)
    elif in_order:
        assert {*pack} == {*header}


def assert_stays(pack: lrcore.Pack, *, pad: bool) -> None:
    """Assert that a loaded pack accepts the same file again, and is the same after saving and loading."""
    other = pack.like()
    assert loaded(other)
    assert other.flat.tobytes() == pack.flat.tobytes()
    pack.save(AGAIN)
    content = AGAIN.read_bytes()
    again = lrcore.Pack.from_file(AGAIN, pad=pad)
    assert repr(again) == repr(pack)
    assert again.flat.tobytes() == pack.flat.tobytes()
    other = pack.like()
    other.load(AGAIN)
    assert other.flat.tobytes() == pack.flat.tobytes()
    other.save(AGAIN)
    assert AGAIN.read_bytes() == content
    AGAIN.unlink()


def same_memory(views: dict[str, Any]) -> dict[str, set[str]]:
    """Return, for each name of an array with several names, all names of the array."""
    found: dict[int, set[str]] = {}
    for name, view in views.items():
        if view.size:
            found.setdefault(view.ctypes.data, set()).add(name)
    return {name: names for names in found.values() if len(names) > 1 for name in names}


def shapes_in(tree: Any) -> Any:
    """Return the structure of a tree in the form of the file's text."""
    if isinstance(tree, dict):
        return {name: shapes_in(part) for name, part in tree.items()}
    return [shapes_in(part) for part in tree] if isinstance(tree, list) else str([*tree.shape])


# ---- the corpus


def seeds() -> Iterator[bytes]:
    """Yield files of packs of all kinds, files by other programs, and a file of an optimizer."""
    bits = np.array([0x7FC01234, 0x80000000, 1, 0xFF800000], np.uint32).view(np.float32)
    deep: Any = {"w": 2}
    for _ in range(20):
        deep = [deep]
    named = {name: {name: 1} for name in ("\u00e9", "a b", "a.b", "0", "dtype", "lrcore", "__metadata__")}
    entries: list[Any] = [
        NESTED,
        TIED,
        {"a": bits, "b": [bits, 1], "c": {"w": bits}},
        {},
        {"a": [], "b": {}},
        {"w": bits},
        {"a": [[[2], [(1, 2)]], [{}]]},
        {"a": deep},
        named,
    ]
    for each in entries:
        filled(lrcore.Pack(each)).save(AGAIN)
        yield AGAIN.read_bytes()
    lrcore.Adam(np.ones(2, np.float32)).save(AGAIN)
    yield AGAIN.read_bytes()
    arrays = {name: view.copy() for name, view in OWN[1].named_arrays().items()}
    for metadata in (None, {"format": "pt"}):
        save_file(arrays, AGAIN, metadata)
        yield AGAIN.read_bytes()
    tied = {name: view.copy() for name, view in filled(lrcore.Pack(TIED)).named_arrays().items()}
    for dropped in ((), ("layers.0.w",), ("layers.1.w", "layers.0.b")):
        save_file({name: view for name, view in tied.items() if name not in dropped}, AGAIN)
        yield AGAIN.read_bytes()
    for dtype in (np.float64, np.float16, np.int32, np.bool_):
        save_file(arrays | {"c": np.ones(2, dtype)}, AGAIN)
        yield AGAIN.read_bytes()
    AGAIN.unlink()


# ---- mutations of the structure, of the ties, and of the tensors that they name

SHAPES = [
    "[]", "[0]", "[1]", "[2]", "[2, 3]", "[0, 3]", "[1, 2, 1]", "[3, 0]", "[-1]", "[2,3]", "[1.0]", "(2,)", str([1] * 70),
    "[4294967296]", "[4294967296, 4294967296]", "[1099511627776, 0]", "[9223372036854775807, 0]", "[18446744073709551616]",
]  # fmt: skip
NAMES = [
    "", "more", "w", "a.b", "a.0.w", ".", "\u00e9", "\ud800", "\0", "0", "__metadata__", "lrcore", "x" * 300,
]  # fmt: skip


def change(random: Random, data: bytes) -> bytes:
    """Return a file with changed structure, ties or tensors, a file like another program's, or one changed at random."""
    choice = random.random()
    header, tensors = parts(data)
    if choice < 0.1 and isinstance(header, dict) and header and "__metadata__" not in header:
        header.pop(random.choice([*header]))
        return joined(
            random,
            *tensors_of(
                random, {name: str(each["shape"]) for name, each in header.items()}, {}, header, tensors
            ),
        )
    if choice < 0.45 or "lrcore" not in header.get("__metadata__", {}):
        return rebuilt(random, data, [*ODD, *SHAPES])
    if choice < 0.5:
        header["__metadata__"] = random.choice(
            [{}, {"format": "pt"}, {"lrcor": ""}, {"lrcore_": ""}, {"lrcore": ""}, {"lrcore.": ""}]
        )
        return joined(random, header, tensors)
    text = json.loads(header["__metadata__"]["lrcore"])
    for _ in range(random.choice([1, 1, 1, 2, 4])):
        if random.random() < 0.3:
            text["ties"] = retied(random, text.get("ties", {}), text["structure"])
        else:
            text["structure"] = renested(random, text["structure"])
    if random.random() < 0.8:
        header, tensors = tensors_of(random, text["structure"], text.get("ties"), header, tensors)
    header["__metadata__"] = {"lrcore": json.dumps(text)}
    return joined(random, header, tensors)


def renested(random: Random, structure: Any) -> Any:
    """Return a structure with one place changed in value, shape or depth, or regrouped so that all paths stay the same."""
    if random.random() < 0.4 or not (places := nodes(structure)):
        return changed(random, structure, [*SHAPES, [], {}, ["[1]"], {"w": "[]"}], NAMES)
    inner = [(owner, key) for owner, key in places if isinstance(owner[key], (dict, list))]
    owner, key = random.choice(inner if inner and random.random() < 0.5 else places)
    part = owner[key]
    if isinstance(part, str):
        owner[key] = reshaped(random, part) if random.random() < 0.7 else deeper(random, part)
    elif isinstance(part, list):
        owner[key] = {str(index): each for index, each in enumerate(part)}
    elif list(part) == [*map(str, range(len(part)))]:
        owner[key] = [*part.values()]
    elif isinstance(owner, dict):
        if random.random() < 0.7:  # otherwise two arrays have the same path
            owner.pop(key)
        owner |= {f"{key}.{name}": each for name, each in part.items()}
    return structure


def retied(random: Random, ties: Any, structure: Any) -> Any:
    """Return ties with one place changed, or with one more tie between arrays, usually of the same shape."""
    shapes = dict(shapes_by_path(structure))
    if not isinstance(ties, dict) or not shapes or random.random() < 0.4:
        return changed(random, ties, [*ODD, *shapes], [*NAMES, *shapes])
    name = random.choice([*shapes])
    alike = [each for each, shape in shapes.items() if shape == shapes[name] and each not in (name, *ties)]
    return ties | {name: random.choice(alike if alike and random.random() < 0.9 else [*shapes])}


def reshaped(random: Random, text: str) -> str:
    """Return a shape that has the same number of elements, or one fewer."""
    size = math.prod(extents(text))
    return str(random.choice([[size], [1, size], [size, 1, 1], [size // 2, 2], [2, size // 2]]))


def extents(text: Any) -> list[int]:
    """Return the shape in a string, or the shape of a scalar if the string does not contain one."""
    try:
        shape = json.loads(text)
        return shape if all(type(each) is int for each in shape) else []
    except (ValueError, TypeError):
        return []


def deeper(random: Random, part: Any) -> Any:
    """Return a part wrapped in one or more lists or dictionaries."""
    for _ in range(random.choice([1, 1, 1, 2, 2, 3, 10, 30])):
        part = [part] if random.random() < 0.9 else {"x": part}
    return part


def tensors_of(random: Random, structure: Any, ties: Any, header: Any, tensors: bytes) -> tuple[Any, bytes]:
    """Return a header and tensors for the arrays of a structure, filled with the previous bytes where they fit.

    Tensors with very large shapes get no bytes. Names of ties usually get no tensor.
    """
    found: dict[str, Any] = {}
    put_together, claimed = b"", 0
    tied = ties if isinstance(ties, dict) and random.random() < 0.9 else {}
    named = [(path, text) for path, text in shapes_by_path(structure) if path not in tied]
    if random.random() < 0.9:
        named.sort(key=lambda each: each[0])  # the order in which safetensors writes them
    for path, text in named:
        shape = extents(text)
        size = 4 * math.prod(shape)
        begin, end = header.get(path, {}).get("data_offsets", (0, 0))
        own = tensors[begin:end]
        if 0 <= size < 2000:
            put_together += own if len(own) == size else random.randbytes(size)
        found[path] = {"dtype": "F32", "shape": shape, "data_offsets": [claimed, claimed + size]}
        claimed += size
    return found, put_together


def shapes_by_path(structure: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path and the shape of each array in a structure."""
    if isinstance(structure, (dict, list)):
        for name, part in structure.items() if isinstance(structure, dict) else enumerate(structure):
            yield from shapes_by_path(part, f"{path}.{name}" if path else str(name))
    else:
        yield path, structure


if __name__ == "__main__":
    made_of = list(seeds())
    sys.setrecursionlimit(200)  # so that 35 levels are too deep; such inputs take less than half a second
    fuzz(target, mutator(change), made_of)
