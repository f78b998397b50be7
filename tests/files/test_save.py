"""State in a file: it resumes with equal bits, is replaced as a whole, and a wrong one changes nothing."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pickle
import random
import resource
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrcore
from gpu.devices import imitated
from lrcore import schedules
from lrcore._files import safetensors
from lrcore.optimizers import _file as _state_file
from support import N, assert_bits, assert_goes_on, make, run, start


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a name for the state, in a folder of its own."""
    return tmp_path / "state.safetensors"


@pytest.fixture
def saved(path: Path) -> Path:
    """Return the state of an Adam after two steps."""
    opt = lrcore.Adam(start(), lr=schedules.Cosine(0.1, steps=9), betas=(0.8, 0.9))
    run(opt, 2)
    opt.save(path)
    return path


def everything(opt: Any) -> Any:
    """Return all that a load could change."""
    states = {name: np.array(state).tobytes() for name, state in opt.state.items()}
    return np.array(opt.params).tobytes(), states, opt.step_count, dict(opt.hyper), opt.schedule, opt.lr


def assert_refused(path: Path, match: str | None = None, error: type[Exception] = ValueError) -> None:
    """Assert that neither way of loading takes the file, that both name it, and that nothing changes."""
    opt = lrcore.Adam(start(), lr=0.25)
    run(opt, 1)
    before = everything(opt)
    for load in (lambda: opt.load(path), lambda: lrcore.load(path, start())):
        with pytest.raises(error, match=match) as raised:
            load()
        assert str(path) in str(raised.value)
    assert everything(opt) == before


# ---- what survives


@pytest.mark.parametrize("k", range(1, 21))
def test_resume_from_a_file(rule: str, k: int, path: Path) -> None:
    """A fresh object with other numbers and another rate goes on with the bits of the uninterrupted run.

    So does one that is made from the file alone.
    """
    cosine = schedules.Cosine(0.02, steps=30)
    opt = make(rule, start(), cosine, weight_decay=0.01, maximize=True)
    run(opt, k)
    opt.save(path)
    params = np.array(opt.params)
    run(opt, 3)

    others: dict[str, Any] = {"betas": (0.5, 0.6)} if "betas" in opt.hyper else {}
    resumed = make(rule, params.copy(), 7.0, weight_decay=0.5, maximize=True, **others)
    resumed.load(path)
    made = lrcore.load(path, params)
    assert (type(made), made.rule) == (type(opt), rule)
    for each in (resumed, made):
        assert each.step_count == k
        assert each.lr == cosine(k)
        assert_goes_on(each, opt, 3)


def test_the_file_holds_what_the_dictionary_holds(saved: Path) -> None:
    opt = lrcore.load(saved, start())
    name, dictionary = _state_file.read(str(saved), N)
    assert name == "Adam"
    for each, state in opt.state_dict()["state"].items():
        assert_bits(dictionary["state"].pop(each), state)
    expected = opt.state_dict() | {"state": {}}
    expected["hyper"]["betas"] = [*expected["hyper"]["betas"]]
    assert dictionary == expected


@pytest.mark.parametrize("n", [0, 1, 1000])
def test_sizes(n: int, path: Path) -> None:
    for cls in (lrcore.Adam, lrcore.SGD):  # the second without a state
        opt = cls(np.ones(n, np.float32))
        opt.step(np.ones(n, np.float32))
        opt.save(path)
        assert everything(lrcore.load(path, np.array(opt.params))) == everything(opt)


def test_numbers_survive_exactly(path: Path) -> None:
    """Doubles that have no short form, and the largest step count."""
    rng = random.Random(5)
    for _ in range(200):
        numbers: dict[str, Any] = {
            "betas": (rng.random(), 1 - rng.random() / 7),
            "eps": 10 ** rng.uniform(-30, 30),
        }
        opt = lrcore.Adam(np.zeros(1, np.float32), lr=10 ** rng.uniform(-30, 30), **numbers)
        opt.step_count = rng.choice([2**53 - 1, rng.randrange(2**53)])
        opt.save(path)
        loaded = lrcore.load(path, np.zeros(1, np.float32))
        assert (loaded.lr, dict(loaded.hyper), loaded.step_count) == (opt.lr, dict(opt.hyper), opt.step_count)


def test_special_values_in_states_survive(path: Path) -> None:
    opt = lrcore.Lion(np.zeros(6, np.float32))
    opt.state["exp_avg"][:] = [np.nan, np.inf, -np.inf, -0.0, 1e-45, 3.4e38]
    opt.save(path)
    assert (
        lrcore.load(path, np.zeros(6, np.float32)).state["exp_avg"].tobytes()
        == opt.state["exp_avg"].tobytes()
    )


def test_a_plateau_resumes(path: Path) -> None:
    opt = lrcore.SGD(start(), lr=schedules.Plateau(0.1, factor=0.5, patience=0).warmup(2))
    (plateau,) = schedules.plateaus(opt.schedule)
    for loss in (np.inf, 2.0, 3.0):
        plateau.observe(loss)
    opt.step_count = 5
    opt.save(path)
    loaded = lrcore.load(path, start())
    assert loaded.lr == opt.lr == 0.05
    (resumed,) = schedules.plateaus(loaded.schedule)
    assert resumed.state_dict() == plateau.state_dict()


def test_a_rate_from_a_callable(path: Path) -> None:
    """It is not in the file: an optimizer keeps its own, and `lrcore.load` has to be told one."""
    opt = lrcore.SGD(start(), lr=lambda t: 0.5 / (1 + t), momentum=0.9)
    run(opt, 2)
    opt.save(path)
    own = lrcore.SGD(start(), lr=0.25, momentum=0.5)
    own.load(path)
    assert own.lr == 0.25
    with pytest.raises(ValueError, match=r"^lr: .*state.safetensors has no schedule.*pass lr$"):
        lrcore.load(path, start())
    assert lrcore.load(path, start(), lr=lambda t: 0.5 / (1 + t)).lr == opt.lr
    own.save(path)
    with pytest.raises(ValueError, match=r"^lr: .*state.safetensors has a schedule; leave lr out"):
        lrcore.load(path, start(), lr=0.5)


def test_arguments_of_load(saved: Path) -> None:
    grads = np.ones(N, np.float32)
    opt = lrcore.load(saved, start(), grads=grads)
    assert opt.grads is grads
    with pytest.raises(TypeError, match="^params: expected dtype float32"):
        lrcore.load(saved, np.zeros(N))
    with pytest.raises(ValueError, match="^grads: expected 21 elements"):
        lrcore.load(saved, start(), grads=np.ones(3, np.float32))
    with pytest.raises(ValueError, match="^max_steps: has no effect"):
        lrcore.load(saved, start(), max_steps=3)


def test_a_class_of_the_callers_own(path: Path) -> None:
    """The file makes an optimizer of the class that it derives from, and resumes one of it."""

    class Own(lrcore.AdamW):
        pass

    opt = Own(start(), lr=0.1)
    run(opt, 2)
    opt.save(path)
    assert type(lrcore.load(path, start())) is lrcore.AdamW
    resumed = Own(np.array(opt.params))
    resumed.load(path)
    assert everything(resumed) == everything(opt)


class Chosen(lrcore.Adam):
    """A class whose constructor takes no options."""

    def __init__(self, params: Any, rate: float) -> None:
        super().__init__(params, rate, amsgrad=True, maximize=True)


class Passing(lrcore.AdamW):
    """A class whose constructor names no argument."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)


@pytest.mark.parametrize("cls", [Chosen, Passing])
def test_a_class_with_a_constructor_of_its_own(path: Path, cls: Any) -> None:
    """It resumes from its dictionary, from that of a former version, and from its file."""
    opt = cls(start(), 0.1)
    run(opt, 2)
    opt.save(path)
    dictionary = opt.state_dict()
    options = dictionary["options"]
    former = {
        "decoupled_weight_decay": options["decay"] == "decoupled",
        "maximize": options["maximize"],
    }
    ways: list[Callable[[Any], None]] = [
        lambda each: each.load_state_dict(dictionary),
        lambda each: each.load_state_dict(dictionary | {"options": former}),
        lambda each: each.load(path),
    ]
    for load in ways:
        resumed = cls(np.array(opt.params), 0.1)
        load(resumed)
        assert everything(resumed) == everything(opt)
    with pytest.raises(ValueError, match="^options: expected the entries"):
        opt.load_state_dict(dictionary | {"options": options | {"nesterov": False}})


def test_between_devices(path: Path) -> None:
    """From each to the other, bits of the one that went on; capturable ones too."""
    with imitated() as xp:
        arrays: list[Callable[[Any], Any]] = [np.array, xp.array, lambda values: xp.array(values, 1)]
        for here in arrays:
            for there in arrays:
                opt = lrcore.AdamW(here(start()), lr=schedules.Cosine(0.1, steps=9))
                ones = np.ones(N, np.float32)
                opt.step(here(ones))
                opt.save(path)
                params = opt.params.get() if here is not np.array else opt.params
                resumed = lrcore.load(path, there(params))
                opt.step(here(ones))
                resumed.step(there(ones))
                assert_bits(as_numpy(resumed.params), as_numpy(opt.params))
                for name, state in opt.state.items():
                    assert_bits(as_numpy(resumed.state[name]), as_numpy(state))
        grads = xp.array(np.ones(N, np.float32))
        graph = lrcore.load(path, xp.array(params), grads=grads, capturable=True, max_steps=9)
        other = lrcore.AdamW(xp.array(params), 7.0, grads=grads, capturable=True, max_steps=9)
        other.load(path)
        for each in (graph, other):
            assert each.step_count == 1
            each.step()
            assert_bits(as_numpy(each.params), as_numpy(opt.params))
        graph.save(path)
        assert lrcore.load(path, start()).step_count == 2


def as_numpy(array: Any) -> Any:
    """Return the values of an array of NumPy or of the imitated CuPy."""
    return array if isinstance(array, np.ndarray) else array.get()


# ---- writing


@pytest.fixture
def masked() -> Iterator[None]:
    """Set an umask of its own."""
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.usefixtures("masked")
def test_permissions(path: Path) -> None:
    """Those of any new file, or of the one that is replaced."""
    opt = lrcore.SGD(start())
    opt.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    for mode in (0o600, 0o664, 0o444):
        path.chmod(mode)
        opt.save(path)
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert [*path.parent.iterdir()] == [path]


def test_a_link_stays_a_link(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "links"
    folder.mkdir()
    (folder / "one").symlink_to("two")
    (folder / "two").symlink_to(saved)
    (folder / "new").symlink_to(tmp_path / "made")
    opt = lrcore.load(folder / "one", start())
    opt.step_count = 77
    opt.save(folder / "one")
    assert (folder / "one").is_symlink()
    assert (folder / "two").is_symlink()
    assert lrcore.load(saved, start()).step_count == 77
    opt.save(str(folder / "new"))
    assert lrcore.load(tmp_path / "made", start()).step_count == 77
    assert sorted(each.name for each in folder.iterdir()) == ["new", "one", "two"]


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    opt = lrcore.SGD(start())
    os.mkfifo(tmp_path / "fifo")
    for each in (tmp_path, tmp_path / "fifo", "/dev/null"):
        with pytest.raises(ValueError, match="expected a file, or a name that is free"):
            opt.save(each)
    with pytest.raises(FileNotFoundError):
        opt.save(tmp_path / "missing" / "state")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="loop"):
        opt.save(tmp_path / "loop")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["fifo", "loop"]


def test_the_file_is_on_the_disk_before_it_has_its_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the name is there before `save` returns."""
    done: list[tuple[str, int]] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(handle: int) -> None:
        done.append(("fsync", os.fstat(handle).st_ino))
        fsync(handle)

    def note_replace(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        done.append(("replace", os.stat(source, dir_fd=src_dir_fd).st_ino))
        assert src_dir_fd == dst_dir_fd
        assert "/" not in source + target
        replace(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    lrcore.SGD(start(), momentum=0.5).save(path)
    number = path.stat().st_ino
    assert done == [("fsync", number), ("replace", number), ("fsync", path.parent.stat().st_ino)]


def failing(error: BaseException) -> Callable[..., Any]:
    """Return a function that raises."""

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize("where", ["open", "fsync", "fchmod", "replace", "_write_all"])
@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "broken"), KeyboardInterrupt(), MemoryError()], ids=repr
)
def test_a_failure_leaves_the_old_file(
    saved: Path, where: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()
    opt = lrcore.Adam(start())
    with monkeypatch.context() as patch:
        patch.setattr(safetensors if where == "_write_all" else os, where, failing(error))
        with pytest.raises(type(error)):
            opt.save(saved)
    assert saved.read_bytes() == before
    assert [*saved.parent.iterdir()] == [saved]
    opt.save(saved)
    assert lrcore.load(saved, start()).step_count == 0


def test_a_folder_that_cannot_be_synchronised(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without it is none of our business; a broken one is."""
    fsync = os.fsync

    def refuse(code: int) -> None:
        def only_files(handle: int) -> None:
            if stat.S_ISDIR(os.fstat(handle).st_mode):
                raise OSError(code, "no")
            fsync(handle)

        monkeypatch.setattr(os, "fsync", only_files)

    refuse(errno.EINVAL)
    lrcore.SGD(start()).save(path)
    refuse(errno.EIO)
    with pytest.raises(OSError, match="no"):
        lrcore.SGD(start()).save(path)
    assert lrcore.load(path, start()).size == N


def test_a_full_disk_leaves_the_old_file(saved: Path) -> None:
    """Here the system lets no file grow beyond a limit."""
    before = saved.read_bytes()
    opt = lrcore.Adam(np.zeros(100_000, np.float32))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OSError, match="state.safetensors") as raised:
            opt.save(saved)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert raised.value.errno == errno.EFBIG
    assert saved.read_bytes() == before
    assert [*saved.parent.iterdir()] == [saved]


def test_a_schedule_that_no_header_holds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors, "_LONGEST", 1000)
    rates = schedules.PiecewiseConstant(list(range(1, 200)), [0.1] * 200)
    with pytest.raises(ValueError, match="too long for the file's header"):
        lrcore.SGD(start(), lr=rates).save(path)
    assert not path.exists()


# ---- reading what is wrong


def test_cut_at_each_byte(saved: Path) -> None:
    whole = saved.read_bytes()
    for length in range(len(whole)):
        saved.write_bytes(whole[:length])
        assert_refused(saved)
    saved.write_bytes(whole + b"\0")
    assert_refused(saved)


def test_each_bit_flipped(saved: Path) -> None:
    """In the header and in the states."""
    whole = saved.read_bytes()
    for position in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[position] ^= 1 << bit
            saved.write_bytes(flipped)
            opt = lrcore.Adam(start())
            with pytest.raises(ValueError, match="state.safetensors: "):
                opt.load(saved)
            assert opt.step_count == 0


def text_of(dictionary: dict[str, Any]) -> str:
    """Return an Adam's text with some entries changed; ``...`` takes one out."""
    entries = {
        "format": 2,
        "version": "0.1.0",
        "class": "Adam",
        "rule": "adam",
        "options": {"eps_placement": "corrected", "amsgrad": False, "decay": "l2", "maximize": False},
        "hyper": {"betas": [0.8, 0.9], "eps": 1e-8, "weight_decay": 0.0},
        "step_count": 2,
        "schedule": {"schedule": "Constant", "lr": 0.5},
    }
    return json.dumps({name: value for name, value in (entries | dictionary).items() if value is not ...})


def tensor(first: int, last: int, dtype: str = "F32", shape: Any = (N,)) -> dict[str, Any]:
    """Return a tensor's entry in the header."""
    return {"dtype": dtype, "shape": [*shape], "data_offsets": [first, last]}


ONE = 4 * N
TWO = {"exp_avg": tensor(0, ONE), "exp_avg_sq": tensor(ONE, 2 * ONE)}
BYTES = np.arange(2 * N, dtype=np.float32).tobytes()


def put(path: Path, text: str, tensors: Any = None, data: bytes = BYTES, metadata: Any = None) -> Path:
    """Write a file with any header, its checksum right."""
    checksum = zlib.crc32(data, zlib.crc32(text.encode()))
    metadata = {"lrcore": text, "lrcore.crc32": f"{checksum:08x}"} if metadata is None else metadata
    header = json.dumps({"__metadata__": metadata} | (TWO if tensors is None else tensors)).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


def test_these_files_would_be_taken(path: Path) -> None:
    put(path, text_of({}))
    assert lrcore.load(path, start()).state["exp_avg_sq"][0] == N


NINE = np.zeros(9, np.float32).tobytes()
TENSORS: dict[str, tuple[Any, bytes]] = {
    "reversed": ({"exp_avg": tensor(ONE, 0), "exp_avg_sq": tensor(ONE, 2 * ONE)}, BYTES),
    "overlapping": ({"exp_avg": tensor(0, ONE), "exp_avg_sq": tensor(ONE - 4, 2 * ONE - 4)}, BYTES),
    "same": ({"exp_avg": tensor(0, ONE), "exp_avg_sq": tensor(0, ONE)}, BYTES[:ONE]),
    "with a hole": ({"exp_avg": tensor(0, ONE), "exp_avg_sq": tensor(ONE + 4, 2 * ONE + 4)}, BYTES + b"1234"),
    "beyond the end": ({"exp_avg": tensor(0, ONE), "exp_avg_sq": tensor(2**62, 2**62 + ONE)}, BYTES),
    "negative": ({"exp_avg": tensor(-ONE, 0), "exp_avg_sq": tensor(0, ONE)}, BYTES),
    "int32": (TWO | {"exp_avg": tensor(0, ONE, "I32")}, BYTES),
    "float64": (
        {"exp_avg": tensor(0, 2 * ONE, "F64"), "exp_avg_sq": tensor(2 * ONE, 3 * ONE)},
        BYTES + BYTES[:ONE],
    ),
    "bfloat16": (TWO | {"exp_avg": tensor(0, ONE, "BF16", (2 * N,))}, BYTES),
    "float8": (TWO | {"exp_avg": tensor(0, ONE, "F8_E4M3", (ONE,))}, BYTES),
    "no dtype": (TWO | {"exp_avg": tensor(0, ONE, "F33")}, BYTES),
    "two dimensions": (TWO | {"exp_avg": tensor(0, ONE, shape=(3, 7))}, BYTES),
    "none": (TWO | {"exp_avg": tensor(0, ONE, shape=(-1,))}, BYTES),
    "huge": (TWO | {"exp_avg": tensor(0, ONE, shape=(2**62, 2**62))}, BYTES),
    "too few": (
        {"exp_avg": tensor(0, 36, shape=(9,)), "exp_avg_sq": tensor(36, 72, shape=(9,))},
        NINE + NINE,
    ),
    "unknown": ({"exp_avg": tensor(0, ONE), "exp_inf": tensor(ONE, 2 * ONE)}, BYTES),
    "one more": (TWO | {"z": tensor(2 * ONE, 3 * ONE)}, BYTES + BYTES[:ONE]),
    "one less": ({"exp_avg": tensor(0, ONE)}, BYTES[:ONE]),
    "no names": ({}, b""),
}


@pytest.mark.parametrize("case", TENSORS)
def test_wrong_tensors(case: str, path: Path) -> None:
    assert_refused(put(path, text_of({}), *TENSORS[case]))


TEXTS: list[tuple[str, str]] = [
    (text_of({"format": 3}), "format 3, written by lrcore 0.1.0; .*install a later one"),
    (text_of({"format": 0}), "format: expected a number from 1 to 2, got 0"),
    (text_of({"format": True}), "format: expected a number from 1 to 2, got True"),
    (text_of({"format": "2"}), "format: expected a number from 1 to 2, got '2'"),
    (text_of({"format": ...}), "format: expected a number from 1 to 2, got None"),
    (text_of({"version": ...}), "expected the entry 'version'"),
    (text_of({"class": ...}), "expected the entry 'class'"),
    (text_of({"rule": "adamax"}), "rule: expected"),
    (text_of({"rule": ["adam"]}), "rule: expected"),
    (text_of({"rule": ...}), "expected"),
    (
        text_of({"hyper": {"betas": [0.8, 0.9], "eps": float("nan"), "weight_decay": 0.0}}),
        "finite numbers, got NaN",
    ),
    (text_of({"hyper": {"betas": [0.8, 0.9], "eps": float("inf"), "weight_decay": 0.0}}), "got Infinity"),
    (text_of({}).replace("1e-08", "1e999"), "eps: expected a finite number"),
    (text_of({}).replace("1e-08", "9" * 400), "eps: expected a number that float64 holds"),
    (text_of({}).replace("1e-08", "9" * 5000), "digits"),
    (text_of({"hyper": {"betas": [0.8, 1.0], "eps": 1e-8, "weight_decay": 0.0}}), r"betas\[1\]: expected"),
    (text_of({"hyper": {"betas": 3, "eps": 1e-8, "weight_decay": 0.0}}), "betas: expected two numbers"),
    (text_of({"hyper": {"eps": 1e-8, "weight_decay": 0.0}}), "hyper: expected the entries"),
    (text_of({"hyper": [1, 2]}), "hyper: expected a dictionary"),
    (text_of({"hyper": ...}), "expected"),
    (text_of({"options": {"maximize": False}}), "options: expected"),
    (
        text_of({"options": {"decoupled_weight_decay": 1, "maximize": False}}),
        "decoupled_weight_decay: expected True",
    ),
    (text_of({"options": {"decay": "l2", "maximize": False}}), "options: expected the entries"),
    (
        text_of(
            {"options": {"eps_placement": "corrected", "amsgrad": False, "decay": "l1", "maximize": False}}
        ),
        "decay: expected one of l2, decoupled, got 'l1'",
    ),
    (
        text_of(
            {"options": {"eps_placement": "corrected", "amsgrad": True, "decay": "l2", "maximize": False}}
        ),
        "rule: expected adam_amsgrad, got 'adam'|options: expected",
    ),
    (text_of({"options": ...}), "expected"),
    (text_of({"step_count": -1}), "step_count: expected an integer from 0"),
    (text_of({"step_count": 2**53}), "step_count: expected an integer from 0"),
    (text_of({"step_count": 10**4000}), "step_count: expected an integer from 0"),
    (text_of({"step_count": 1.0}), "step_count: expected an integer, got float"),
    (text_of({"step_count": None}), "step_count: expected an integer, got None"),
    (text_of({"step_count": ...}), "expected the entries"),
    (text_of({"schedule": {"schedule": "Function", "fn": "print"}}), "schedule: expected the name"),
    (text_of({"schedule": {"schedule": "Cosine", "lr": 1.0, "steps": 0}}), "steps: expected"),
    (text_of({"schedule": None}), "schedule: expected a dictionary"),
    (
        text_of({"schedule": {"schedule": "Plateau", "lr": 1.0}, "schedule_state": []}),
        "schedule_state: expected",
    ),
    (text_of({"schedule_state": [{}]}), "schedule_state: expected"),
    (text_of({"state": {}}), "entry 'state': unknown to lrcore"),
    (text_of({"groups": []}), "entry 'groups': unknown to lrcore .*; the file was written by lrcore 0.1.0"),
    (
        text_of({}).replace('"rule": "adam"', '"rule": "adam", "rule": "adam"'),
        "the entry 'rule' stands twice",
    ),
    (text_of({}).replace('"eps"', '"betas": [0.8, 0.9], "eps"'), "the entry 'betas' stands twice"),
    ("[" * 100_000, "recursion|overflow"),
    ('{"a":' * 100_000, "recursion|overflow"),
    ("[]", "expected a JSON object, got list"),
    ("3", "expected a JSON object, got int"),
    ("", "Expecting value"),
    (text_of({}) + "x", "Extra data"),
    (text_of({})[:-1], "Expecting"),
    (text_of({}).replace("0.8", "0x8"), "Expecting"),
    ("cos\nsystem\n(S'true'\ntR.", "Expecting value"),
]


@pytest.mark.parametrize(("text", "match"), TEXTS, ids=lambda each: each[:40])
def test_wrong_texts(text: str, match: str, path: Path) -> None:
    assert_refused(put(path, text), f"(?i){match}")


def test_deep_schedules_of_former_versions(path: Path) -> None:
    """They were nested as deep as they were composed: taken, or refused where Python's JSON is, and nothing changed."""
    for depth in (10, 100, 300, 900, 5000):
        schedule = (
            '{"schedule": "Shift", "n": 1, "inner": ' * depth
            + '{"schedule": "Constant", "lr": 0.5}'
            + "}" * depth
        )
        put(path, text_of({"schedule": 7}).replace('"schedule": 7', f'"schedule": {schedule}'))
        opt = lrcore.Adam(start(), lr=0.25)
        if depth <= 300:
            opt.load(path)
            assert opt.lr == 0.5
        elif depth >= 5000:
            assert_refused(path, "recursion|overflow")
        else:  # as deep as this Python goes
            with contextlib.suppress(ValueError):
                opt.load(path)
                continue
            assert (opt.lr, opt.step_count) == (0.25, 0)


@pytest.mark.parametrize("name", ["Lions", "Optimizer", "", 3, None, ["Adam"], "SGD", "Pack", "__doc__"])
def test_wrong_classes(name: Any, path: Path) -> None:
    """An optimizer that is there already does not ask."""
    put(path, text_of({"class": name}))
    with pytest.raises(
        ValueError, match=r"state.safetensors: (class: expected the name|hyper: expected|rule: )"
    ):
        lrcore.load(path, start())


METADATA: list[tuple[Any, str]] = [
    ({}, "not a state of lrcore"),
    ({"format": "pt"}, "not a state of lrcore"),
    ({"lrcore": text_of({})}, "damaged"),
    ({"lrcore": text_of({}), "lrcore.crc32": "00000000"}, "damaged"),
    ({"lrcore": 3}, "header"),
    (None, "header"),
]


@pytest.mark.parametrize(("metadata", "match"), METADATA)
def test_wrong_metadata(metadata: Any, match: str, path: Path) -> None:
    put(path, text_of({}), metadata=metadata or {})
    if metadata is None:
        path.write_bytes(path.read_bytes().replace(b'"__metadata__": {}', b'"__metadata__": []'))
    assert_refused(path, match)


@pytest.mark.parametrize("name", ["exp_avg", "__metadata__", "dtype", "lrcore"])
def test_names_that_stand_twice(name: str, path: Path) -> None:
    """In the header, with equal values."""
    whole = put(path, text_of({})).read_bytes()
    header = json.loads(whole[8 : 8 + struct.unpack("<Q", whole[:8])[0]])
    within = {"dtype": header["exp_avg"], "lrcore": header["__metadata__"]}.get(name, header)
    entry = f"{json.dumps(name)}: {json.dumps(within[name])}"
    text = json.dumps(header).replace(entry, f"{entry}, {entry}", 1).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + BYTES)
    assert_refused(path, "twice|duplicate")


class Bomb:
    """Leaves a trace when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


def test_other_files(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        pickle.dumps(lrcore.Adam(start())),
        b"PK\x03\x04" + b"\0" * 100,
    ):
        path.write_bytes(content)
        assert_refused(path)
    assert not Path("executed").exists()
    path.unlink()
    assert_refused(path, error=FileNotFoundError)
    path.mkdir()
    assert_refused(path, error=IsADirectoryError)


def test_a_huge_file_is_not_read(path: Path) -> None:
    """A tensor of another size is refused before its memory is asked for. The file has no bytes on the disk."""
    size = 2**40
    header = {
        "__metadata__": {"lrcore": text_of({}), "lrcore.crc32": ""},
        "exp_avg": tensor(0, 4 * size, shape=(size,)),
    }
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    try:
        os.truncate(path, 8 + len(text) + 4 * size)
    except OSError:
        pytest.skip("no file of 4 TiB can be made here")
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
        assert_refused(path, "exp_avg: expected F32 of shape|memory")
    finally:
        path.unlink()
