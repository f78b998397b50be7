"""Files of states and packs: their format, files that are refused, and files that change during a read."""

from __future__ import annotations

import errno
import json
import math
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import lrcore
from files.kinds import (
    KINDS,
    Kind,
    assert_refused,
    changed,
    contents,
    header_of,
    number_of,
    put,
    put_small,
    refusing,
    split,
    tensor,
)
from lrcore._files import safetensors, strict_json
from lrcore._files.format import entries_of
from support import assert_bits, slow_but_first

NO_WHEELS = "safetensors has no wheels for free-threaded Python"


def test_a_file_written_by_hand(kind: Kind, path: Path) -> None:
    """A file written by hand loads into an object and makes a new one. The tests below change such a file."""
    into = kind.make(3)
    into.load(put_small(path, kind))
    for each in (into, kind.from_file(path)):
        assert contents(each) == contents(kind.make(2))


# ---- the format, with another reader and writer


def all_shapes() -> lrcore.Pack:
    """Return a pack of arrays of many shapes and names."""
    many = {str(number): (number % 3, 2) for number in range(300)}
    names = {"é": 3, "\U0001f600 \u4e2d": (1, 2), 'a"b\\': 2, "\n": 1, "a b": (), "x" * 1000: 2}
    pack = lrcore.Pack(
        {"scalar": (), "empty": (0, 3), "none": 0, "deep": (1,) * 64, "many": many, "names": names}
    )
    pack.flat[:] = np.random.default_rng(1).standard_normal(pack.flat.size, np.float32)
    return pack


def test_another_reader_reads_what_is_written(path: Path) -> None:
    safetensors = pytest.importorskip("safetensors", reason=NO_WHEELS)
    for made in (all_shapes(), *(KINDS["optimizer"].make(7, size) for size in (0, 1, 1001))):
        arrays = made.named_arrays() if isinstance(made, lrcore.Pack) else made.state
        made.save(path)
        with safetensors.safe_open(path, framework="np") as file:
            assert sorted(file.keys()) == sorted(arrays)
            for name, array in arrays.items():
                assert_bits(file.get_tensor(name), array)


def test_what_another_writer_wrote(path: Path) -> None:
    """Files written by another library are read.

    This includes lrcore's files rewritten by that library: the metadata are the same, but the order and
    spacing are its own.
    """
    numpy = pytest.importorskip("safetensors.numpy", reason=NO_WHEELS)
    arrays = {name: np.array(view) for name, view in all_shapes().named_arrays().items()}
    numpy.save_file(arrays, path)
    made = lrcore.Pack.from_file(path)
    assert [*made] == sorted(arrays)
    for name, array in arrays.items():
        assert_bits(made[name], array)
    for kind in KINDS.values():
        kind.make(5).save(path)
        numpy.save_file(numpy.load_file(path), path, header_of(path)["__metadata__"])
        assert number_of(kind.from_file(path)) == 5


def test_the_bytes_of_a_file(path: Path) -> None:
    """The metadata come first, followed by the tensors in the order of their names, and nothing else.

    The tensors begin at a multiple of 8 bytes. The checksum covers the text and the tensors, regardless of
    the blocks in which they are read.
    """
    a = np.arange(2**18 + 5, dtype=np.float32)
    lrcore.Pack({"b": (2, 1), "a": a, "c": ()}).save(path)
    text, data = split(path)
    assert len(text) % 8 == 0
    header = json.loads(text)
    assert [*header] == ["__metadata__", "a", "b", "c"]
    assert header["b"] == tensor([2, 1], a.nbytes, a.nbytes + 8)
    assert data == a.tobytes() + bytes(12)
    metadata = header["__metadata__"]
    assert metadata["lrcore.crc32"] == f"{zlib.crc32(metadata['lrcore'].encode() + data):08x}"
    lrcore.Pack.from_file(path)


def test_headers_of_the_format(path: Path) -> None:
    """Entries may be in any order, with empty tensors between them and spaces at the end.

    The order of the data may differ from that of the entries.
    """
    b, zero, a = tensor([], 0, 4), tensor([0, 9], 4, 4), tensor([1, 1], 4, 8)
    text = json.dumps({"b": b, "__metadata__": {}, "a": a, "zero": zero}).encode() + b"  \n"
    made = lrcore.Pack.from_file(put(path, text, np.array([7, 8], np.float32).tobytes()))
    assert [(name, view.shape, view.sum()) for name, view in made.items()] == [
        ("a", (1, 1), 8),
        ("b", (), 7),
        ("zero", (0, 9), 0),
    ]


# ---- headers that violate the format


def entry(**changes: Any) -> dict[str, Any]:
    """Return an entry of two elements with some changes; ``...`` removes a value."""
    return changed(tensor([2], 0, 8), changes)


HEADERS: dict[str, tuple[Any, str]] = {
    "no shape": ({"w": entry(shape=...)}, "w: expected the entries dtype, shape and data_offsets"),
    "a number": ({"w": 3}, "w: expected the entries"),
    "dtype 3": ({"w": entry(dtype=3)}, "w: dtype: expected"),
    "a long dtype": ({"w": entry(dtype="F" * 10**6)}, "w: dtype: expected"),
    "shape 2": ({"w": entry(shape=2)}, "w: shape: expected a list"),
    "shape True": ({"w": entry(shape=[2, True])}, "w: shape: expected integers"),
    "shape -2": ({"w": entry(shape=[-2, -1])}, "w: shape: expected integers >= 0"),
    "another shape": ({"w": entry(shape=[3])}, r"w: 8 bytes of data do not match shape \[3\]"),
    "a smaller shape": ({"w": entry(shape=[1])}, r"w: 8 bytes of data do not match shape \[1\]"),
    "many extents": ({"w": entry(shape=[1] * 65)}, "w: shape: expected a list of at most 64"),
    "one offset": ({"w": entry(data_offsets=[8])}, "w: .*values to unpack"),
    "three offsets": ({"w": entry(data_offsets=[0, 8, 8])}, "w: data_offsets: expected a list of at most 2"),
    "offsets -8": ({"w": entry(data_offsets=[-8, 0])}, "w: data_offsets: expected integers >= 0"),
    "reversed": ({"w": entry(data_offsets=[8, 0])}, "w: -8 bytes of data do not match shape|w: expected data_offsets"),
    "a hole before": ({"w": entry(data_offsets=[4, 8], shape=[1])}, "w: expected data_offsets from 0"),
    "a hole after": ({"w": entry(data_offsets=[0, 4], shape=[1])}, "expected 4 bytes of data after it, got 8"),
    "beyond the end": ({"v": entry(), "w": entry(data_offsets=[8, 16])}, "expected 16 bytes of data after it, got 8"),
    "an overlap": ({"v": entry(), "w": entry(data_offsets=[4, 12])}, "w: expected data_offsets from 8"),
    "no tensor": ({}, "expected 0 bytes of data after it, got 8"),
    "a name without UTF-8": ({"\ud800": entry()}, "surrogates not allowed"),
    "metadata null": ({"__metadata__": None, "w": entry()}, "__metadata__: expected a dictionary of strings"),
    "metadata 3": ({"__metadata__": {"a": 3}, "w": entry()}, "__metadata__: expected a dictionary of strings"),
    "a list": ([], "expected a JSON object; the file is damaged, or is not a safetensors file"),
    "a byte order mark": (b"\xef\xbb\xbf{}", "expected a JSON object"),
    "Latin-1": (b'{"\xe9": 1}', "utf-8"),
    "trailing data": (b"{} x", "Extra data"),
    "NaN": (b'{"w": NaN}', "finite numbers, got NaN"),
    "5000 digits": (b'{"w": %s}' % (b"9" * 5000), "digits"),
    "deep": (b'{"w": ' + b"[" * 100_000, "recursion"),
}  # fmt: skip


@pytest.mark.parametrize("case", HEADERS)
def test_headers_that_are_not_of_the_format(case: str, path: Path) -> None:
    header, match = HEADERS[case]
    put(path, header, bytes(8))
    for kind in KINDS.values():
        assert_refused(path, kind, f"(?i)^{path}: header: .*{match}")


@pytest.mark.parametrize("level", ["tensor", "__metadata__", "dtype", "lrcore"])
def test_names_that_stand_twice(level: str, kind: Kind, path: Path) -> None:
    """A duplicate is refused, although a JSON parser would take the last one."""
    name = next(iter(kind.tensors)) if level == "tensor" else level
    header, data = split(put_small(path, kind))
    put(path, header.replace(f'"{name}": '.encode(), f'"{name}": 0, "{name}": '.encode(), 1), data)
    assert_refused(path, kind, f"expected distinct names, got '{name}' twice")


@pytest.mark.parametrize("part", ["[],", '{"a":1},', "1,"])
def test_a_header_of_many_values_is_not_parsed(
    part: str, kind: Kind, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parsing would take seconds, and many times the file's size in memory.

    Values inside a text are also counted, even if each of their characters is escaped.
    """
    refusal = "expected at most 5000 brackets, colons and commas, got 60"
    monkeypatch.setattr(strict_json, "MOST_MARKS", 5000)
    values = "[" + part * (6000 // sum(map(part.count, "[{:,"))) + "0]"
    escaped = "".join(f"\\u{ord(each):04x}" for each in values)
    assert_refused(put(path, f'{{"__metadata__": {{"lrcore": "{escaped}"}}}}'.encode()), kind, refusal)
    monkeypatch.setattr(json, "loads", None)
    put(path, f'{{"w": {values}}}'.encode())
    assert_refused(path, kind, f"header: {refusal}")


@pytest.mark.parametrize(("kind", "entry"), [("optimizer", "schedule"), ("pack", "structure")])
@pytest.mark.parametrize("limit", ["_LONGEST", "MOST_MARKS"])
def test_the_longest_header(
    kind: str, entry: str, limit: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longest header that can be written can be read; one more byte or value cannot be written."""
    # Other readers accept headers of up to 100 MB.
    assert safetensors._LONGEST < safetensors._LONGEST_READ <= 100_000_000
    for module in (safetensors, strict_json):
        monkeypatch.setattr(module, limit, 2000, raising=False)
    text = KINDS[kind].text

    def write(length: int) -> None:
        value: Any = "x" * length if limit == "_LONGEST" else [0] * length
        safetensors.write(str(path), text["class"], text | {entry: value}, {"w": np.ones(2, np.float32)})

    write(1)
    header = split(path)[0].rstrip()
    counts = {"_LONGEST": len(header), "MOST_MARKS": sum(map(header.count, (b"[", b"{", b":", b",")))}
    most = 2001 - counts[limit]
    write(most)
    with safetensors.reading(str(path)) as opened:
        assert [*safetensors.read_arrays(opened, {"w": (2,)})] == ["w"]
        assert len(entries_of(opened.metadata["lrcore"])[entry]) == most
    path.unlink()
    with pytest.raises(ValueError, match=f"the {entry} is too long for the file's header"):
        write(most + 1)
    assert not path.exists()


# ---- texts and tensors that do not fit


HYPER: dict[str, Any] = KINDS["optimizer"].text["hyper"]
OPTIONS: dict[str, Any] = KINDS["optimizer"].text["options"]
PLATEAU = {"schedule": "Plateau", "lr": 1.0}


def without(entries: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return a dictionary without some of its entries."""
    return changed(entries, dict.fromkeys(names, ...))


def structure(**changes: Any) -> dict[str, Any]:
    """Return the structure of the small pack with some changes."""
    return changed(KINDS["pack"].text["structure"], changes)


def replaced(former: str, new: str) -> Callable[[str], str]:
    """Return a function that replaces a part of a text."""
    return lambda text: text.replace(former, new)


TEXTS_OF_BOTH: list[tuple[Any, str]] = [
    ({"format": 3}, "format: expected at most 2 .*, got 3, written by lrcore 0.1.0; install a later version"),
    ({"format": 0}, "format: expected a number from 1 to 2, got 0"),
    ({"format": True}, "format: expected a number from 1 to 2, got True"),
    ({"format": ...}, "format: expected a number from 1 to 2, got None"),
    ({"version": ...}, "expected the entry 'version'"),
    ({"class": ...}, "expected the entry 'class'"),
    ({"colour": []}, "entry 'colour': unknown to lrcore .*, written by lrcore 0.1.0; install"),
    ({"colour": math.nan}, "finite numbers, got NaN"),
    (replaced('"class"', '"class": 0, "class"'), "expected distinct names, got 'class' twice"),
    (lambda _: "[" * 100_000, "recursion|overflow"),
    (lambda _: '{"a":' * 100_000, "recursion|overflow"),
    (lambda _: "[]", "expected a JSON object, got list"),
    (lambda _: "", "Expecting value"),
    (lambda text: text + "x", "Extra data"),
    (lambda text: text[:-1], "Expecting"),
]  # fmt: skip
TEXTS: dict[str, list[tuple[Any, str]]] = {
    "optimizer": [
        ({"rule": "adamax"}, "rule: expected"),
        ({"rule": ...}, "expected"),
        ({"hyper": HYPER | {"eps": math.nan}}, "finite numbers, got NaN"),
        ({"hyper": HYPER | {"betas": [0.8, 1.0]}}, r"betas\[1\]: expected"),
        ({"hyper": without(HYPER, "betas")}, "hyper: expected the entries"),
        ({"hyper": ...}, "expected"),
        (replaced("1e-08", "1e999"), "eps: expected a finite number"),
        (replaced("1e-08", "9" * 400), "eps: expected a number that fits in float64"),
        (replaced("1e-08", "9" * 5000), "digits"),
        ({"options": {"decoupled_weight_decay": 1, "maximize": False}}, "decoupled_weight_decay: expected True"),
        ({"options": OPTIONS | {"decay": "l1"}}, "decay: expected one of l2, decoupled, independent, got 'l1'"),
        ({"options": OPTIONS | {"amsgrad": True}}, "rule: expected adam_amsgrad, got 'adam'|options: expected"),
        ({"options": ...}, "expected"),
        ({"step_count": -1}, "step_count: expected an integer from 0"),
        ({"step_count": 10**4000}, "step_count: expected an integer from 0"),
        ({"step_count": ...}, "expected the entries"),
        ({"schedule": {"schedule": "Function", "fn": "print"}}, "schedule: expected the name"),
        ({"schedule": {"schedule": "Cosine", "lr": 1.0, "steps": 0}}, "steps: expected"),
        ({"schedule": PLATEAU, "schedule_state": []}, "schedule_state: expected"),
        ({"state": {}}, "entry 'state': unknown to lrcore"),
    ],
    "pack": [
        ({"structure": ...}, "expected the entries"),
        ({"structure": ["[2]"]}, "structure: expected a dictionary, got list"),
        ({"structure": structure(b=...)}, "b: unknown"),
        ({"structure": structure(c="[]")}, "c: missing"),
        ({"structure": structure(a=[{"w": "[2]"}, "[]"])}, r"a\.1: missing"),
        ({"structure": structure(b=..., **{"": {"b": "[]"}})}, "not empty|missing"),
        ({"structure": structure(**{"a.0": {"w": "[2]"}})}, r"a\.0\.w: two arrays|a\.0: unknown"),
        ({"structure": structure(a=[{"w": "[1, 2]"}])}, r"structure: a\.0\.w: expected '\[2\]'"),
        ({"structure": structure(a=[{"w": None}])}, r"structure: a\.0\.w: expected .*got None"),
        ({"structure": structure(a=[{"w": 2}])}, r"structure: a\.0\.w: expected .*got 2"),
        ({"structure": structure(a=[{"w": [2]}])}, r"a\.0\.w\.0: missing|a\.0\.w: missing"),
        (replaced('"[]"', '{"a":' * 50_000), "recursion|overflow"),
        (replaced('"[]"', '{"a":' * 900 + "{}" + "}" * 900), "recursion|missing|unknown"),
        (replaced('"b"', '"a"'), "expected distinct names, got 'a' twice"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        pytest.param(name, change, match, id=f"{name}: {match[:50]}")
        for name in KINDS
        for change, match in (*TEXTS_OF_BOTH, *TEXTS[name])
    ],
)
def test_wrong_texts(name: str, change: Any, match: str, path: Path) -> None:
    kind = KINDS[name]
    whole = json.dumps(kind.text)
    text = json.dumps(changed(kind.text, change)) if isinstance(change, dict) else change(whole)
    assert text != whole
    assert_refused(put_small(path, kind, text), kind, f"(?i)^{path}: .*({match})")


@pytest.mark.parametrize("metadata", [{}, {"format": "pt"}])
def test_a_file_by_others_is_no_state(metadata: dict[str, str], path: Path) -> None:
    state = KINDS["optimizer"]
    assert_refused(put_small(path, state, metadata=metadata), state, "not an lrcore optimizer state")


@pytest.mark.parametrize(
    ("name", "checksum"),
    [("lrcore", {}), ("lrcore", {"lrcore.crc32": "00000000"}), ("lrcorf", {"lrcore.crc32": "00000000"})],
)
def test_wrong_metadata(name: str, checksum: dict[str, str], kind: Kind, path: Path) -> None:
    put_small(path, kind, metadata={name: json.dumps(kind.text)} | checksum)
    assert_refused(path, kind, "damaged|not an lrcore optimizer state")


TENSORS: list[tuple[str, dict[str, Any], str]] = [
    ("optimizer", {"exp_avg": tensor([3, 1], 0, 12)}, r"exp_avg: expected F32 of shape \[3\], got F32 of shape \[3, 1\]"),
    ("optimizer", {"exp_avg": tensor([2], 0, 8), "exp_avg_sq": tensor([2], 8, 16)}, r"exp_avg: .*got F32 of shape \[2\]"),
    ("optimizer", {"exp_avg_sq": ..., "exp_inf": tensor([3], 12, 24)}, "state: expected"),
    ("optimizer", {"z": tensor([3], 24, 36)}, "state: expected"),
    ("optimizer", {"exp_avg_sq": ...}, "state: expected"),
    ("optimizer", {"exp_avg": ..., "exp_avg_sq": ...}, "state: expected"),
    ("pack", {"b": ..., "c": tensor([], 8, 12)}, "b: missing"),
    ("pack", {"b": ..., "a.0.w": tensor([3], 0, 12)}, "b: missing"),
    ("pack", {"a.0.w": tensor([2, 1], 0, 8)}, r"a\.0\.w: expected F32 of shape \[2\]|a\.0\.w: expected '\[2, 1\]'"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "match"), TENSORS)
def test_wrong_tensors(name: str, changes: dict[str, Any], match: str, path: Path) -> None:
    """The header is valid but does not match the text."""
    kind = KINDS[name]
    assert_refused(put_small(path, kind, tensors=changed(kind.tensors, changes)), kind, match)


@pytest.mark.parametrize("dtype", ["F64", "F16", "BF16", "F8_E4M3", "I32", "I4", "BOOL", "F33"])
def test_another_dtype_is_named(dtype: str, kind: Kind, path: Path) -> None:
    """The size of the data is not checked, because only the element size of F32 is known."""
    for name, each in kind.tensors.items():
        other = {name: each | {"dtype": dtype, "shape": [7]}}
        put_small(path, kind, tensors=kind.tensors | other)
        assert_refused(path, kind, rf"^{path}: {name}: expected F32.*, got {dtype} of shape \[7\]$")


def test_each_kind_says_what_reads_the_other(path: Path) -> None:
    state, pack = KINDS.values()
    pack.make(1).save(path)
    assert_refused(path, state, "class: .*got 'Pack'; read this file with lrcore.Pack.from_file")
    state.make(1).save(path)
    assert_refused(path, pack, "class: expected 'Pack', got 'Adam'; use lrcore.load")


# ---- damaged files, and files in other formats


def test_a_file_of_another_format(kind: Kind, path: Path) -> None:
    path.write_text("print('a program of more than eight bytes')", encoding="ascii")
    assert_refused(path, kind, "header: .*; the file is damaged, or is not a safetensors file")


def test_cut_at_each_byte(kind: Kind, path: Path) -> None:
    """A file with one more byte is refused, too."""
    kind.make(1).save(path)
    size = path.stat().st_size
    for length in (size + 1, *reversed(range(size))):
        os.truncate(path, length)
        assert_refused(path, kind)


@pytest.mark.parametrize("turn", slow_but_first(range(8)))
def test_each_bit_flipped(turn: int, kind: Kind, path: Path) -> None:
    """In each byte of the header and data, one bit is flipped, even in the extents of an empty array."""
    kind.make(1).save(path)
    with path.open("r+b", buffering=0) as file:
        for position, byte in enumerate(path.read_bytes()):
            os.pwrite(file.fileno(), bytes([byte ^ 1 << (position + turn) % 8]), position)
            assert_refused(path, kind)
            os.pwrite(file.fileno(), bytes([byte]), position)


class Bomb:
    """An object that leaves a trace when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


def test_other_files(kind: Kind, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    for content in (
        b"",
        b"\0" * 8,
        b"\xff" * 8 + b"{}",  # a header of 2**64 - 1 bytes
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 99_999_999) + b"{}",
        struct.pack("<Q", 4) + b"[[[[",
        struct.pack("<Q", 400_000) + b"[" * 400_000,
        struct.pack("<Q", 2) + b"\xff\xff",
        pickle.dumps(Bomb()),
        pickle.dumps(kind.make(1)),
        b"PK\x03\x04" + b"\0" * 100,
    ):
        path.write_bytes(content)
        assert_refused(path, kind)
    assert not Path("executed").exists()
    path.unlink()
    assert_refused(path, kind, error=FileNotFoundError)
    path.mkdir()
    assert_refused(path, kind, error=IsADirectoryError)


def test_a_huge_file_is_not_read(kind: Kind, path: Path) -> None:
    """A tensor of another size is refused before its memory is allocated. The file takes no disk space."""
    *_, last = kind.tensors
    begin, size = kind.tensors[last]["data_offsets"][0], 2**40
    tensors = kind.tensors | {last: tensor([size], begin, begin + 4 * size)}
    put(path, {"__metadata__": {"lrcore": json.dumps(kind.text), "lrcore.crc32": ""}, **tensors})
    try:
        os.truncate(path, path.stat().st_size + begin + 4 * size)
    except OSError:
        pytest.skip("a file of 4 TiB cannot be made here")
    into = kind.make(3)
    try:
        with refusing(path, f"{last}: expected F32 of shape", into=into):
            into.load(path)
    finally:
        path.unlink()


# ---- files that change during a read


def rewrite(path: Path, other: bytes) -> None:
    """Rewrite a file in place, with a later modification time on any system clock."""
    path.write_bytes(other)
    os.utime(path, (2e9, 2e9))


def replace(path: Path, other: bytes) -> None:
    path.with_name("other").write_bytes(other)
    path.with_name("other").replace(path)


def break_down(_: Path, __: bytes) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


ACTIONS: dict[str, tuple[Callable[[Path, bytes], None], str]] = {
    "truncate": (lambda path, _: os.truncate(path, 5), "truncated while"),
    "extend": (lambda path, _: os.truncate(path, path.stat().st_size + 1), "changed while"),
    "rewrite": (rewrite, "changed while"),
    "break down": (break_down, os.strerror(errno.EIO)),
    "replace": (replace, ""),
    "remove": (lambda path, _: path.unlink(), ""),
    "hide": (lambda path, _: path.chmod(0), ""),
}
"""Changes to a file, and a part of the resulting message, or "" if the old contents are still read."""


@pytest.mark.parametrize(("name", "own"), [("optimizer", True), ("pack", True), ("pack", False)])
@pytest.mark.parametrize("action", ACTIONS)
def test_changed_while_it_is_read(
    name: str, own: bool, action: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a file changes before one of the reads or the last check, it is loaded as it was or refused.

    This includes files from other programs, which have neither text nor checksum.
    """
    kind, (act, match) = KINDS[name], ACTIONS[action]
    files = []
    for number in (1, 2):
        kind.make(number, 50).save(path)
        if not own:
            header, data = header_of(path), split(path)[1]
            put(path, without(header, "__metadata__"), data)
        files.append(path.read_bytes())
    preadv = os.preadv
    monkeypatch.setattr(safetensors, "_BLOCK", 64)
    for moment in range(1000):
        for each in path.parent.iterdir():
            each.unlink()
        path.write_bytes(files[0])
        reads = 0

        def read(*arguments: Any, moment: int = moment) -> int:
            nonlocal reads
            reads += 1
            if reads - 1 == moment:
                act(path, files[1])
            return preadv(*arguments)

        into, raised = kind.make(3, 50), None
        with monkeypatch.context() as patch:
            patch.setattr(os, "preadv", read)
            try:
                into.load(path)
            except (ValueError, OSError) as error:
                raised = error
        if raised is None:
            assert reads <= moment or not match
            assert contents(into) == contents(kind.make(1, 50))
        else:
            assert contents(into) == contents(kind.make(3, 50))
            assert str(path) in str(raised)
            assert type(raised) is (OSError if action == "break down" else ValueError)
            assert (match and match in str(raised)) or (action == "rewrite" and moment < 2)
        if reads <= moment:
            break
    assert moment > 4


def test_short_reads(kind: Kind, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system may read less than requested."""
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, into, begin: preadv(file, [into[0][:7]], begin))
    kind.make(1).save(path)
    assert number_of(kind.from_file(path)) == 1


def test_short_writes() -> None:
    """A system may write less than requested; Linux writes at most 2 GiB at once."""
    written: list[int] = []

    def write(data: memoryview) -> int:
        written.extend(data[:7])
        return len(data[:7])

    file: Any = SimpleNamespace(write=write)
    safetensors._write_all(file, memoryview(bytes(range(100))))
    assert written == [*range(100)]
