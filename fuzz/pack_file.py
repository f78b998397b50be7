"""Fuzz the file of a pack: ``python fuzz/pack_file.py -runs=100000``.

Whatever the bytes are, `Pack.load` and `Pack.from_file` take them or raise what their documentation says, and then
nothing has changed. What is taken is what the file says when its bytes are read without lrcore. It goes out to a file
again, and comes back with the same bits and the same nest.
"""

from __future__ import annotations

import atheris

with atheris.instrument_imports(include=["lrcore", "json", "safetensors"]):
    import json.decoder
    import json.scanner

    import lrcore

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


def filled(pack: lrcore.Pack) -> lrcore.Pack:
    """Give a pack with other values in it than zero."""
    for number, view in enumerate(pack.named_arrays().values()):
        view[...] = np.arange(view.size, dtype=np.float32).reshape(view.shape) - number - 0.5
    return pack


OWN = [lrcore.Pack(NESTED, pad=True)]
"""What most files are of, with padding between its arrays; and the same names without a nest."""
OWN += [lrcore.Pack(OWN[0].named_arrays())]
BEFORE = [-filled(pack).flat for pack in OWN]
"""Other values than in the files."""


def target(data: bytes) -> None:
    """Read the file in all ways."""
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
        pad = len(data) % 2 == 0  # one of them, for the time
        assert_stays(padded if pad else made, pad=pad)


def from_file(*, pad: bool) -> lrcore.Pack | None:
    """Give the pack that the file makes, or None where it is refused."""
    with guarded():
        try:
            return lrcore.Pack.from_file(PATH, pad=pad)
        except ValueError as error:
            assert str(error).startswith(f"{PATH}: "), error
            return None


def loaded(pack: lrcore.Pack) -> bool:
    """Tell whether the file goes into a pack, which is the same as before where it does not."""
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
    """Assert that a pack has the names, shapes, bits and, where the file has one, the nest that its bytes say."""
    header, tensors = parts(data)
    metadata = header.pop("__metadata__", None) or {}
    views = pack.named_arrays()
    assert {*views} == {*header}
    for name, view in views.items():
        begin, end = header[name]["data_offsets"]
        assert (header[name]["dtype"], header[name]["shape"]) == ("F32", [*view.shape]), name
        assert (view.dtype, view.tobytes()) == (np.float32, tensors[begin:end]), name
    within = pack.like()
    for view in within.named_arrays().values():
        view[...] = 1
    assert not pack.flat[within.flat == 0].any()
    if any(name == "lrcore" or name.startswith("lrcore.") for name in metadata):
        assert metadata["lrcore.crc32"] == checksum(header | {"__metadata__": metadata}, tensors)
        text = parsed(metadata["lrcore"])
        assert sorted(text) == ["class", "format", "structure", "version"]
        assert (text["class"], text["format"], type(text["format"])) == ("Pack", 1, int)
        nest = shapes_in(pack.tree())
        assert text["structure"] == nest
        assert not in_order or json.dumps(text["structure"]) == json.dumps(nest)
    elif in_order:
        assert {*pack} == {*header}


def assert_stays(pack: lrcore.Pack, *, pad: bool) -> None:
    """Assert that a pack that was made takes the same file, and makes one that gives it again."""
    other = pack.like()
    assert loaded(other)
    assert other.flat.tobytes() == pack.flat.tobytes()
    pack.save(AGAIN)
    content = parts(AGAIN.read_bytes())  # not the bytes: safetensors writes the metadata in any order
    again = lrcore.Pack.from_file(AGAIN, pad=pad)
    assert repr(again) == repr(pack)
    assert again.flat.tobytes() == pack.flat.tobytes()
    other = pack.like()
    other.load(AGAIN)
    assert other.flat.tobytes() == pack.flat.tobytes()
    other.save(AGAIN)
    assert parts(AGAIN.read_bytes()) == content
    AGAIN.unlink()


def shapes_in(tree: Any) -> Any:
    """Give the nest of a tree as the text has it."""
    if isinstance(tree, dict):
        return {name: shapes_in(part) for name, part in tree.items()}
    return [shapes_in(part) for part in tree] if isinstance(tree, list) else str([*tree.shape])


# ---- the corpus


def seeds() -> Iterator[bytes]:
    """Give files of packs of all kinds, of others, and of an optimizer."""
    bits = np.array([0x7FC01234, 0x80000000, 1, 0xFF800000], np.uint32).view(np.float32)
    deep: Any = {"w": 2}
    for _ in range(20):
        deep = [deep]
    named = {name: {name: 1} for name in ("\u00e9", "a b", "a.b", "0", "dtype", "lrcore", "__metadata__")}
    entries: list[Any] = [
        NESTED,
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
    for dtype in (np.float64, np.float16, np.int32, np.bool_):
        save_file(arrays | {"c": np.ones(2, dtype)}, AGAIN)
        yield AGAIN.read_bytes()
    AGAIN.unlink()


# ---- mutations: the structure, and the tensors that it names

SHAPES = [
    "[]", "[0]", "[1]", "[2]", "[2, 3]", "[0, 3]", "[1, 2, 1]", "[3, 0]", "[-1]", "[2,3]", "[1.0]", "(2,)", str([1] * 70),
    "[4294967296]", "[4294967296, 4294967296]", "[1099511627776, 0]", "[9223372036854775807, 0]", "[18446744073709551616]",
]  # fmt: skip
NAMES = [
    "", "more", "w", "a.b", "a.0.w", ".", "\u00e9", "\ud800", "\0", "0", "__metadata__", "lrcore", "x" * 300,
]  # fmt: skip


def change(random: Random, data: bytes) -> bytes:
    """Give a file with a changed structure and its tensors, one by others, or one with anything changed."""
    choice = random.random()
    header, tensors = parts(data)
    if choice < 0.45 or "lrcore" not in header.get("__metadata__", {}):
        return rebuilt(random, data, [*ODD, *SHAPES])
    if choice < 0.5:
        header["__metadata__"] = random.choice(
            [{}, {"format": "pt"}, {"lrcor": ""}, {"lrcore_": ""}, {"lrcore": ""}, {"lrcore.": ""}]
        )
        return joined(random, header, tensors)
    text = json.loads(header["__metadata__"]["lrcore"])
    for _ in range(random.choice([1, 1, 1, 2, 4])):
        text["structure"] = renested(random, text["structure"])
    if random.random() < 0.8:
        header, tensors = tensors_of(random, text["structure"], header, tensors)
    header["__metadata__"] = {"lrcore": json.dumps(text)}
    return joined(random, header, tensors)


def renested(random: Random, structure: Any) -> Any:
    """Give a structure with one place changed: in its value, its shape, or its depth, or so that all paths stay the same."""
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
        if random.random() < 0.7:  # else two arrays have one path
            owner.pop(key)
        owner |= {f"{key}.{name}": each for name, each in part.items()}
    return structure


def reshaped(random: Random, text: str) -> str:
    """Give another shape of as many elements."""
    size = math.prod(extents(text))
    return str(random.choice([[size], [1, size], [size, 1, 1], [size // 2, 2], [2, size // 2]]))


def extents(text: Any) -> list[int]:
    """Give the shape that a text says, or that of a scalar where it says none."""
    try:
        shape = json.loads(text)
        return shape if all(type(each) is int for each in shape) else []
    except (ValueError, TypeError):
        return []


def deeper(random: Random, part: Any) -> Any:
    """Give a part within many others."""
    for _ in range(random.choice([1, 1, 1, 2, 2, 3, 10, 30])):
        part = [part] if random.random() < 0.9 else {"x": part}
    return part


def tensors_of(random: Random, structure: Any, header: Any, tensors: bytes) -> tuple[Any, bytes]:
    """Give the header and the tensors that a structure names, of the former bytes; one that claims much has none."""
    found: dict[str, Any] = {}
    put_together, claimed = b"", 0
    named = [*shapes_by_path(structure)]
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
    """Give the paths and the shapes of a structure's arrays."""
    if isinstance(structure, (dict, list)):
        for name, part in structure.items() if isinstance(structure, dict) else enumerate(structure):
            yield from shapes_by_path(part, f"{path}.{name}" if path else str(name))
    else:
        yield path, structure


if __name__ == "__main__":
    made_of = list(seeds())
    sys.setrecursionlimit(200)  # a nest that is too deep is one of 35 levels then, and takes no half a second
    fuzz(target, mutator(change), made_of)
