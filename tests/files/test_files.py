"""The files of optimizers and packs at every edge: of their format, of the paths, and while others change them."""

from __future__ import annotations

import errno
import json
import os
import resource
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrcore
from files.changing_files import KINDS, hammer, load, optimizer
from lrcore._files import safetensors
from lrcore._files.format import entries_of
from support import assert_bits

NO_WHEELS = "safetensors has no wheels for free-threaded Python"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a name for a file, in a folder of its own."""
    return tmp_path / "file.safetensors"


def uses(path: Any) -> list[Callable[[], Any]]:
    """Return all that takes the path of a file, the three that save first."""
    opt, pack = lrcore.Adam(np.zeros(3, np.float32)), lrcore.Pack({"w": 3})
    return [
        lambda: opt.save(path),
        lambda: pack.save(path),
        lambda: opt.load(path),
        lambda: lrcore.load(path, np.zeros(3, np.float32)),
        lambda: pack.load(path),
        lambda: lrcore.Pack.from_file(path),
    ]


SAVES, LOADS = slice(0, 2), slice(2, None)


# ---- the format, with another reader and writer of it


def all_shapes() -> lrcore.Pack:
    """Return a pack of arrays of many shapes and names."""
    many = {str(number): (number % 3, 2) for number in range(300)}
    names = {"é": 3, "\U0001f600 \u4e2d": (1, 2), 'a"b\\': 2, "\n": 1, "a b": (), "x" * 1000: 2}
    pack = lrcore.Pack(
        {"scalar": (), "empty": (0, 3), "none": 0, "deep": (1,) * 64, "many": many, "names": names}
    )
    pack.flat[:] = np.random.default_rng(1).standard_normal(pack.flat.size, np.float32)
    return pack


def test_another_reader_reads_packs(path: Path) -> None:
    safetensors = pytest.importorskip("safetensors", reason=NO_WHEELS)
    pack = all_shapes()
    pack.save(path)
    with safetensors.safe_open(path, framework="np") as file:
        assert sorted(file.keys()) == sorted(pack.named_arrays())
        for name, view in pack.named_arrays().items():
            found = file.get_tensor(name)
            assert found.shape == view.shape
            assert_bits(found, view)


def test_another_reader_reads_states(path: Path) -> None:
    numpy = pytest.importorskip("safetensors.numpy", reason=NO_WHEELS)
    for size in (0, 1, 1001):
        opt = lrcore.Adam(np.zeros(size, np.float32), amsgrad=True)
        opt.step(np.arange(size, dtype=np.float32))
        opt.save(path)
        found = numpy.load_file(path)
        assert {*found} == {*opt.state}
        for name, state in opt.state.items():
            assert_bits(found[name], state)


def test_what_another_writer_wrote(path: Path) -> None:
    numpy = pytest.importorskip("safetensors.numpy", reason=NO_WHEELS)
    arrays = {name: np.array(view) for name, view in all_shapes().named_arrays().items()}
    numpy.save_file(arrays, path)
    made = lrcore.Pack.from_file(path)
    assert [*made] == sorted(arrays)
    for name, array in arrays.items():
        assert made[name].shape == array.shape
        assert_bits(made[name], array)


def test_a_file_of_ours_that_another_writer_wrote(path: Path) -> None:
    """With our text and checksum: its header is in another order, and has other spaces."""
    numpy = pytest.importorskip("safetensors.numpy", reason=NO_WHEELS)
    for made in (KINDS["optimizer"][0](5), KINDS["pack"][0](5)):
        made.save(path)
        header = header_of(path)
        numpy.save_file(numpy.load_file(path), path, header["__metadata__"])
        made.load(path)


def header_of(path: Path) -> Any:
    """Return the header of a file."""
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


def test_the_bytes_of_a_file(path: Path) -> None:
    """The metadata first, the tensors in the order of their names at a multiple of 8 bytes, and nothing after them."""
    lrcore.Pack({"b": (2, 1), "a": np.ones(1, np.float32), "c": ()}).save(path)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0
    header = json.loads(data[8 : 8 + length])
    assert [*header] == ["__metadata__", "a", "b", "c"]
    assert header["b"] == {"dtype": "F32", "shape": [2, 1], "data_offsets": [4, 12]}
    assert data[8 + length :] == np.array([1, 0, 0, 0], np.float32).tobytes()


# ---- headers that are not of the format


def put(path: Path, header: Any, data: bytes = bytes(8)) -> Path:
    """Write a file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(**changes: Any) -> dict[str, Any]:
    """Return an entry of two elements with some changes; ``...`` takes one out."""
    whole = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes
    return {name: value for name, value in whole.items() if value is not ...}


def test_headers_of_the_format(path: Path) -> None:
    """In any order, with empty tensors between, spaces at the end, and places that are not in the order of the names."""
    b, zero, a = (
        entry(shape=[], data_offsets=[0, 4]),
        entry(shape=[0, 9], data_offsets=[4, 4]),
        entry(shape=[1, 1], data_offsets=[4, 8]),
    )
    text = json.dumps({"b": b, "__metadata__": {}, "a": a, "zero": zero}).encode() + b"  \n"
    made = lrcore.Pack.from_file(put(path, text, np.array([7, 8], np.float32).tobytes()))
    assert [(name, view.shape, view.sum()) for name, view in made.items()] == [
        ("a", (1, 1), 8),
        ("b", (), 7),
        ("zero", (0, 9), 0),
    ]


HEADERS: dict[str, tuple[Any, str]] = {
    "no dtype": ({"w": entry(dtype=...)}, "w: expected the entries dtype, shape and data_offsets"),
    "no shape": ({"w": entry(shape=...)}, "w: expected the entries"),
    "no offsets": ({"w": entry(data_offsets=...)}, "w: expected the entries"),
    "another entry": ({"w": entry(more=1)}, "w: expected the entries"),
    "a number": ({"w": 3}, "w: expected the entries"),
    "dtype 3": ({"w": entry(dtype=3)}, "w: dtype: expected"),
    "a long dtype": ({"w": entry(dtype="F" * 10**6)}, "w: dtype: expected"),
    "shape 2": ({"w": entry(shape=2)}, "w: shape: expected a list"),
    "shape 2.0": ({"w": entry(shape=[2.0])}, "w: shape: expected integers"),
    "shape True": ({"w": entry(shape=[2, True])}, "w: shape: expected integers"),
    "shape -2": ({"w": entry(shape=[-2, -1])}, "w: shape: expected integers >= 0"),
    "another shape": ({"w": entry(shape=[3])}, r"w: 8 bytes of data do not have shape \[3\]"),
    "a smaller shape": ({"w": entry(shape=[1])}, r"w: 8 bytes of data do not have shape \[1\]"),
    "a product of 2**64": ({"w": entry(shape=[2**32, 2**32, 2])}, "w: 8 bytes of data do not have shape"),
    "a product of 2**64 and 2": ({"w": entry(shape=[2**63 + 1, 2])}, "w: 8 bytes of data do not have shape"),
    "many extents": ({"w": entry(shape=[1] * 65)}, "w: shape: expected a list of at most 64"),
    "a million large extents": ({"w": entry(shape=[2**62] * 10**6)}, "w: shape: expected a list of at most 64"),
    "one offset": ({"w": entry(data_offsets=[8])}, "w: .*values to unpack"),
    "three offsets": ({"w": entry(data_offsets=[0, 8, 8])}, "w: data_offsets: expected a list of at most 2"),
    "offsets 0.0": ({"w": entry(data_offsets=[0.0, 8])}, "w: data_offsets: expected integers"),
    "offsets False": ({"w": entry(data_offsets=[False, 8])}, "w: data_offsets: expected integers"),
    "a hole before": ({"w": entry(data_offsets=[4, 8], shape=[1])}, "w: expected data_offsets from 0"),
    "a hole after": ({"w": entry(data_offsets=[0, 4], shape=[1])}, "expected 4 bytes of data after it, got 8"),
    "an overlap": ({"v": entry(), "w": entry()}, "w: expected data_offsets from 8"),
    "no tensor": ({}, "expected 0 bytes of data after it, got 8"),
    "a name without UTF-8": ({"\ud800": entry()}, "surrogates not allowed"),
    "metadata null": ({"__metadata__": None, "w": entry()}, "__metadata__: expected a dictionary of strings"),
    "metadata 3": ({"__metadata__": {"a": 3}, "w": entry()}, "__metadata__: expected a dictionary of strings"),
    "a list": ([], "expected a JSON object"),
    "a space first": (b" {}", "expected a JSON object"),
    "a mark of UTF-8": (b"\xef\xbb\xbf{}", "expected a JSON object"),
    "UTF-16": ("{}".encode("utf-16"), "expected a JSON object"),
    "no header": (b"", "expected a JSON object"),
    "Latin-1": (b'{"\xe9": 1}', "utf-8"),
    "more after it": (b"{} x", "Extra data"),
    "NaN": (b'{"w": NaN}', "finite numbers, got NaN"),
    "5000 digits": (b'{"w": %s}' % (b"9" * 5000), "digits"),
    "a name twice": (b'{"__metadata__": {}, "__metadata__": {}}', "'__metadata__' stands twice"),
    "deep": (b'{"w": ' + b"[" * 100_000, "recursion"),
}  # fmt: skip


@pytest.mark.parametrize("case", HEADERS)
def test_headers_that_are_not_of_the_format(case: str, path: Path) -> None:
    header, match = HEADERS[case]
    put(path, header)
    for use in uses(path)[LOADS]:
        with pytest.raises(ValueError, match=f"(?i)^{path}: header: .*{match}"):
            use()


@pytest.mark.parametrize("dtype", ["F64", "BF16", "F8_E4M3", "I4", "anything"])
def test_another_dtype_is_named(dtype: str, path: Path) -> None:
    put(path, {"w": entry(dtype=dtype, shape=[1, 1])})
    with pytest.raises(ValueError, match=rf"^{path}: w: expected F32, got {dtype} of shape \[1, 1\]$"):
        lrcore.Pack.from_file(path)


@pytest.mark.parametrize(
    "part",
    [b"[],", b"{},", b'"ab",', b"1e1,", b'{"a":1},', b"[[[[[]]]]],"],
    ids=bytes.decode,
)
def test_a_header_of_many_values_is_not_parsed(
    part: bytes, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would take seconds, and many times the memory of the file."""
    values = b"[" + part * (6_000_000 // sum(map(part.count, (b"[", b"{", b":", b",")))) + b"0]"
    text = json.dumps(values.decode()).encode()
    monkeypatch.setattr(json, "loads", None)
    for header in (b'{"w": ' + values + b"}", b'{"__metadata__": {"lrcore": ' + text + b"}}"):
        put(path, header)
        for use in uses(path)[LOADS]:
            with pytest.raises(
                ValueError, match=r"header: expected at most \d+ brackets, colons and commas, got [67]"
            ):
                use()


def test_an_escaped_text_of_many_values_is_not_parsed(path: Path) -> None:
    """In the header each of its marks may be an escape, which does not count there."""
    text = "".join(f"\\u{ord(each):04x}" for each in "[],") * 3_000_000
    put(path, b'{"__metadata__": {"lrcore": "' + text.encode() + b'"}}', b"")
    for use in uses(path)[LOADS]:
        with pytest.raises(
            ValueError, match=r": expected at most \d+ brackets, colons and commas, got 6000000"
        ):
            use()


def read_text(path: Path) -> Any:
    """Return the entries of the text of a file."""
    with safetensors.reading(str(path)) as opened:
        assert [*safetensors.read_arrays(opened, {"w": (2,)})] == ["w"]
        return entries_of(opened.metadata["lrcore"])


def test_the_longest_header(path: Path) -> None:
    """What can be written can be read, and a byte more cannot be written."""

    def write(length: int) -> None:
        safetensors.write(str(path), "Pack", {"structure": "x" * length}, {"w": np.ones(2, np.float32)})

    write(0)
    length = 99_000_000 - len(json.dumps(header_of(path), separators=(",", ":")))
    write(length)
    assert int.from_bytes(path.read_bytes()[:8], "little") == 99_000_000
    assert len(read_text(path)["structure"]) == length
    with pytest.raises(ValueError, match="structure is too long for the file's header"):
        write(length + 1)
    path.unlink()


def test_the_header_of_most_values(path: Path) -> None:
    """What can be written can be read, and a value more cannot be written."""

    def write(count: int) -> None:
        safetensors.write(str(path), "Pack", {"structure": [0] * count}, {"w": np.ones(2, np.float32)})

    write(1)
    count = 5_000_001 - sum(map(path.read_bytes().count, (b"[", b"{", b":", b",")))
    write(count)
    assert len(read_text(path)["structure"]) == count
    with pytest.raises(ValueError, match="structure is too long for the file's header"):
        write(count + 1)


def test_a_pack_of_many_arrays(path: Path) -> None:
    arrays = {str(number): np.full(1, number, np.float32) for number in range(20_000)}
    safetensors.write(str(path), "Pack", {"structure": dict.fromkeys(arrays, "[1]")}, arrays)
    with safetensors.reading(str(path)) as opened:
        found = safetensors.read_arrays(opened, dict.fromkeys(arrays, (1,)))
    assert all(found[name] == float(name) for name in arrays)


# ---- what is no file, and paths


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    """Nor waited for."""
    os.mkfifo(tmp_path / "fifo")
    for each in (tmp_path / "fifo", "/dev/zero", "/dev/null"):
        for use in uses(each)[LOADS]:
            with pytest.raises(ValueError, match=f"^{each}: expected a file, got a device or a pipe"):
                use()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        for use in uses(tmp_path / "socket")[LOADS]:
            with pytest.raises(OSError, match="socket") as raised:
                use()
            assert raised.value.errno == errno.ENXIO


class Own:
    """A path of a class of its own."""

    def __init__(self, path: str | bytes) -> None:
        self.path = path

    def __fspath__(self) -> Any:
        return self.path


@pytest.mark.parametrize("name", ["", b"", "a\0b", b"a\0b", "\ud800"], ids=repr)
def test_names_that_no_file_can_have(name: Any) -> None:
    opt, pack = lrcore.SGD(np.zeros(2, np.float32)), lrcore.Pack({"w": 2})
    for call in (opt.save, opt.load, pack.save, pack.load, lrcore.Pack.from_file):
        with pytest.raises(ValueError, match="^path: expected the name of a file, got "):
            call(name)
    with pytest.raises(ValueError, match="^path: expected the name of a file, got "):
        lrcore.load(name, opt.params)


def test_kinds_of_paths(tmp_path: Path) -> None:
    for name in ("a", "\u00e9", os.fsdecode(b"\xff")):  # the last is no UTF-8
        path = tmp_path / name
        for each in (str(path), os.fsencode(path), path, Own(str(path)), Own(os.fsencode(path))):
            save_state, save_pack, load_state, make_state, load_pack, make_pack = uses(each)
            for use in (save_state, load_state, make_state, save_pack, load_pack, make_pack):
                use()
            assert [*tmp_path.iterdir()] == [path]
            path.unlink()


@pytest.mark.parametrize("value", [3, None, 0.5, ["a"], bytearray(b"a")], ids=repr)
def test_what_is_no_path(value: Any) -> None:
    for use in uses(value):
        with pytest.raises(
            TypeError, match=f"^path: expected str, bytes or os.PathLike, got {type(value).__name__}$"
        ):
            use()


def test_a_path_that_ends_in_a_slash(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("target/")
    for name in ("new/", "link", ""):
        for save in uses(f"{tmp_path}/{name}")[SAVES]:
            with pytest.raises(
                ValueError, match="expected a file, or a name that is free, got a path that ends in"
            ):
                save()
    assert [each.name for each in tmp_path.iterdir()] == ["link"]


def test_a_folder_deeper_than_a_path_can_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # and back in the end
    for _ in range(20):
        Path("x" * 250).mkdir()
        os.chdir("x" * 250)
    Path("link").symlink_to("target")
    save_state, save_pack, load_state, make_state, load_pack, make_pack = uses("link")
    for use in (save_state, load_state, make_state, save_pack, load_pack, make_pack):
        use()
    assert sorted(each.name for each in Path().iterdir()) == ["link", "target"]
    assert Path("link").is_symlink()


def test_as_many_links_as_the_system_follows(tmp_path: Path) -> None:
    for number in range(41):
        (tmp_path / str(number + 1)).symlink_to(str(number))
    for save in uses(tmp_path / "40")[SAVES]:
        save()
    assert (tmp_path / "0").is_file()
    for use in uses(tmp_path / "41"):
        with pytest.raises(OSError, match="41") as raised:
            use()
        assert raised.value.errno == errno.ELOOP
    assert (tmp_path / "1").is_symlink()


def test_a_link_from_folder_to_folder(tmp_path: Path) -> None:
    """Each is relative to the folder that it lies in; the last one points to nothing yet."""
    for name in ("a", "b", "b/c"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "link").symlink_to("../b/link")
    (tmp_path / "b" / "link").symlink_to("c/new")
    uses(tmp_path / "a" / "link")[0]()
    assert sorted(each.name for each in tmp_path.rglob("*")) == ["a", "b", "c", "link", "link", "new"]
    assert (tmp_path / "b" / "c" / "new").is_file()


def test_a_mounted_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system refuses to move another over it."""
    saves = uses(path)[SAVES]
    saves[0]()
    before = path.read_bytes()

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EBUSY, "busy")

    monkeypatch.setattr(os, "replace", refuse)
    for save in saves:
        with pytest.raises(
            OSError, match="mount point cannot be replaced in one move; mount its folder"
        ) as raised:
            save()
        assert (raised.value.errno, raised.value.filename) == (errno.EBUSY, str(path))
    assert path.read_bytes() == before
    assert [*path.parent.iterdir()] == [path]


@pytest.fixture
def descriptors() -> Iterator[list[int]]:
    """Take all descriptors that the process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(200, soft), hard))
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    yield taken
    for each in taken:
        os.close(each)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_descriptors(path: Path, descriptors: list[int]) -> None:
    """A load needs one and a save two, and what is there is not said to be missing."""
    calls = uses(path)

    def assert_refused(use: Callable[[], Any]) -> None:
        with pytest.raises(OSError, match=path.name) as raised:
            use()
        assert (raised.value.errno, raised.value.filename) == (errno.EMFILE, str(path))

    for save in calls[SAVES]:
        assert_refused(save)
    os.close(descriptors.pop())
    for save in calls[SAVES]:
        assert_refused(save)
    os.close(descriptors.pop())
    calls[0]()
    descriptors.append(os.open("/dev/null", os.O_RDONLY))
    calls[2]()
    descriptors.append(os.open("/dev/null", os.O_RDONLY))
    for use in calls[LOADS]:
        assert_refused(use)


# ---- changed while it is read


def truncate(path: Path, _: bytes) -> None:
    os.truncate(path, 5)


def extend(path: Path, _: bytes) -> None:
    os.truncate(path, path.stat().st_size + 1)


def rewrite(path: Path, other: bytes) -> None:
    """Write in place, later than the time of the file by whatever clock the system has."""
    path.write_bytes(other)
    os.utime(path, (2e9, 2e9))


def replace(path: Path, other: bytes) -> None:
    path.with_name("other").write_bytes(other)
    path.with_name("other").replace(path)


def remove(path: Path, _: bytes) -> None:
    path.unlink()


def hide(path: Path, _: bytes) -> None:
    path.chmod(0)


def break_down(_: Path, __: bytes) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def file_of_others(number: int) -> Any:
    """Return a pack whose file has neither text nor checksum."""

    class Others(lrcore.Pack):
        def save(self, path: Any) -> None:
            header = {"w": entry(shape=[50], data_offsets=[0, 200])}
            put(Path(path), header, np.full(50, number, np.float32).tobytes())

    made = Others({"w": 50})
    made.flat[:] = number
    return made


def small_optimizer(number: int) -> Any:
    return optimizer(number, size=50)


def small_pack(number: int) -> Any:
    made = lrcore.Pack({"layers": [{"w": (5, 5)}, {"w": 7}], "b": ()})
    made.flat[:] = number
    return made


def bits_of(made: Any) -> Any:
    """Return all that a load could change."""
    if isinstance(made, lrcore.Pack):
        return made.flat.tobytes()
    return made.step_count, {name: state.tobytes() for name, state in made.state.items()}


@pytest.mark.parametrize("make", [small_optimizer, small_pack, file_of_others])
@pytest.mark.parametrize("action", [truncate, extend, rewrite, replace, remove, hide, break_down])
def test_changed_while_it_is_read(
    make: Callable[[int], Any],
    action: Callable[[Path, bytes], None],
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before each time that it is read, and before the last look at it: whole as it was, or refused."""
    make(2).save(path)
    other = path.read_bytes()
    whole = make(1)
    preadv = os.preadv
    monkeypatch.setattr(safetensors, "_BLOCK", 64)
    for moment in range(1000):
        for each in path.parent.iterdir():
            each.unlink()
        whole.save(path)
        reads = 0

        def read(*arguments: Any, moment: int = moment) -> int:
            nonlocal reads
            reads += 1
            if reads - 1 == moment:
                action(path, other)
            return preadv(*arguments)

        into = make(3)
        before = bits_of(into)
        with monkeypatch.context() as patch:
            patch.setattr(os, "preadv", read)
            raised: Any = load(into, path)
        if reads <= moment:
            assert bits_of(into) == bits_of(whole)
            break
        if action in (replace, remove, hide):
            assert raised is None
            assert bits_of(into) == bits_of(whole)
            continue
        assert bits_of(into) == before
        if action is break_down:
            assert (type(raised), raised.errno, raised.filename) == (OSError, errno.EIO, str(path))
        else:
            assert type(raised) is ValueError
            assert str(raised).startswith(f"{path}: ")
            matches: dict[Any, str] = {
                truncate: "truncated while",
                extend: "changed while",
                rewrite: "changed while",
            }
            assert matches[action] in str(raised) or (action is rewrite and moment < 2)
    assert moment > 4


def test_short_reads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system may read less than is asked for."""
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, into, begin: preadv(file, [into[0][:7]], begin))
    for make in (small_optimizer, small_pack):
        make(1).save(path)
        into = make(2)
        into.load(path)
        assert bits_of(into) == bits_of(make(1))


def test_short_writes() -> None:
    """A system may write less than is asked for: Linux at most 2 GiB at once."""

    class Short:
        """A file that takes 7 bytes at once."""

        content = b""

        def write(self, data: memoryview) -> int:
            self.content += data[:7]
            return len(data[:7])

    file: Any = Short()
    safetensors._write_all(file, memoryview(bytes(range(100))))
    assert file.content == bytes(range(100))


@pytest.mark.parametrize("kind", KINDS)
def test_changed_at_any_moment(kind: str, path: Path) -> None:
    hammer(kind, path, seed=7, seconds=1.0)


def test_the_checksum_is_that_of_the_text_and_the_arrays(path: Path) -> None:
    """In the order of their names, whatever the blocks in which they are read."""
    pack = lrcore.Pack({"b": 3, "a": (2**18 + 5,), "c": 0})
    pack.flat[:] = np.arange(pack.flat.size)
    pack.save(path)
    metadata = header_of(path)["__metadata__"]
    found = zlib.crc32(
        pack["b"].tobytes(), zlib.crc32(pack["a"].tobytes(), zlib.crc32(metadata["lrcore"].encode()))
    )
    assert metadata["lrcore.crc32"] == f"{found:08x}"
    lrcore.Pack.from_file(path)
