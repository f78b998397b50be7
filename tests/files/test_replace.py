"""Saves that fail, are killed, are interrupted, or overlap: the file is whole, and no other file is left."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrcore
from files.kinds import KINDS, LARGE, Kind, contents, number_of
from lrcore._files import safetensors
from opcodes import at_each_opcode, interrupt
from support import python, run_in_threads


@pytest.fixture
def small() -> Any:
    """Return a pack to save."""
    return lrcore.Pack({"w": 3})


@pytest.fixture
def saved(path: Path) -> Path:
    """Return a file that already exists."""
    lrcore.Pack({"w": np.ones(3, np.float32)}).save(path)
    return path


def temporary(path: Path, number: int = 0) -> Path:
    """Return the temporary name, as documented."""
    return path.with_name(f".lrcore-{zlib.crc32(path.name.encode()):08x}-{number}.tmp")


def assert_beside(path: Path, *numbers: int) -> None:
    """Assert that the folder only contains the file and its temporary files with these numbers."""
    expected = [path.name, *(temporary(path, number).name for number in numbers)]
    assert sorted(each.name for each in path.parent.iterdir()) == sorted(expected)


def before(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, action: Callable[..., object], once: bool = False
) -> None:
    """Patch a function so that it first calls an action with its arguments, every time or only once."""
    function = getattr(owner, name)

    def call(*arguments: Any, **named: Any) -> Any:
        if once:
            monkeypatch.setattr(owner, name, function)
        action(*arguments, **named)
        return function(*arguments, **named)

    monkeypatch.setattr(owner, name, call)


def failing(error: BaseException) -> Callable[..., Any]:
    """Return a function that raises an error."""

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


# ---- what is written


def test_permissions(path: Path, small: Any) -> None:
    """The file has the permissions of any new file, or of the file that it replaces."""
    former = os.umask(0o027)
    try:
        small.save(path)
    finally:
        os.umask(former)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    for mode in (0o600, 0o664, 0o444):
        path.chmod(mode)
        small.save(path)
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert_beside(path)


def test_the_file_is_on_the_disk_before_it_has_its_name(
    path: Path, small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is on the disk before `save` returns."""
    done: list[tuple[str, int]] = []

    def note(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        done.append(("replace", os.stat(source, dir_fd=src_dir_fd).st_ino))
        assert src_dir_fd == dst_dir_fd
        assert "/" not in source + target

    before(monkeypatch, os, "fsync", lambda file: done.append(("fsync", os.fstat(file).st_ino)))
    before(monkeypatch, os, "replace", note)
    small.save(path)
    number = path.stat().st_ino
    assert done == [("fsync", number), ("replace", number), ("fsync", path.parent.stat().st_ino)]


# ---- failures


@contextmanager
def untouched(path: Path) -> Iterator[None]:
    """Assert that the block leaves the file unchanged and no other file behind."""
    former = path.read_bytes()
    yield
    assert path.read_bytes() == former
    assert_beside(path)


@pytest.mark.parametrize("where", ["open", "fsync", "fchmod", "replace", "_write_all"])
@pytest.mark.parametrize(
    "error",
    [OSError(errno.EIO, "broken"), OSError("broken"), KeyboardInterrupt("broken"), MemoryError("broken")],
    ids=repr,
)
def test_a_failure_leaves_the_old_file(
    saved: Path, small: Any, where: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    former = saved.read_bytes()
    with untouched(saved), monkeypatch.context() as patch, pytest.raises(type(error), match="broken"):
        patch.setattr(safetensors if where == "_write_all" else os, where, failing(error))
        small.save(saved)
    small.save(saved)
    assert saved.read_bytes() != former


def test_a_folder_that_cannot_be_synchronised(
    path: Path, small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A save works on file systems that cannot synchronize folders, but raises on an I/O error."""

    def refuse(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(code, "no")

    before(monkeypatch, os, "fsync", refuse)
    code = errno.EINVAL
    small.save(path)
    code = errno.EIO
    with pytest.raises(OSError, match="no"):
        small.save(path)
    small.load(path)


def test_a_full_disk_leaves_the_old_file(saved: Path, kind: Kind) -> None:
    """A limit on the size of files stands in for a full disk."""
    made = kind.make(1, LARGE)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with untouched(saved), pytest.raises(OSError, match=saved.name) as raised:
            made.save(saved)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert raised.value.errno == errno.EFBIG


def test_a_mounted_file(saved: Path, small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system refuses to move another file over a mount point."""
    monkeypatch.setattr(os, "replace", failing(OSError(errno.EBUSY, "busy")))
    match = "mount point cannot be replaced atomically; mount its folder"
    with untouched(saved), pytest.raises(OSError, match=match) as raised:
        small.save(saved)
    assert (raised.value.errno, raised.value.filename) == (errno.EBUSY, str(saved))


def test_a_failed_save_leaves_the_file_of_another(
    path: Path, small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the move, another save may have taken the temporary name."""
    replace = os.replace

    def move(*arguments: Any, **named: Any) -> None:
        replace(*arguments, **named)
        temporary(path).write_bytes(b"its")
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "replace", move)
    with pytest.raises(OSError, match="broken"):
        small.save(path)
    assert temporary(path).read_bytes() == b"its"


# ---- killed

KILLED = """
import fcntl, os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import lrcore
from files.kinds import KINDS, LARGE, number_of
from lrcore._files import safetensors
kind = KINDS[{kind!r}]
path = Path({path!r})
saved, into = [kind.make(number, LARGE) for number in range(6)], kind.make(99, LARGE)


def leftovers():
    return [each.name for each in path.parent.iterdir() if each != path]


def kill_itself():
    os.kill(os.getpid(), signal.SIGKILL)


def child(work):
    number = os.fork()
    if number == 0:
        try:
            work()
        finally:
            os._exit(1)
    return number


def assert_whole_and_clean(found):
    into.load(path)
    assert number_of(into) in found, (number_of(into), found)
    left = leftovers()
    assert len(left) <= 1, left
    saved[0].save(path)
    assert leftovers() == [], leftovers()
    return left
"""

AT_CALLS = """
for owner, name in (
    (os, "open"), (fcntl, "flock"), (safetensors, "_write_all"), (os, "fchmod"), (os, "fsync"), (os, "replace")
):
    for number in range(5):

        def work():
            call, calls = getattr(owner, name), iter(range(99))

            def killing(*arguments, **named):
                if next(calls) == number:
                    kill_itself()
                return call(*arguments, **named)

            setattr(owner, name, killing)
            saved[1].save(path)

        saved[0].save(path)
        _, status = os.waitpid(child(work), 0)
        if not os.WIFSIGNALED(status):
            assert number > 0, name
            break
        moved = (name, number) == ("fsync", 1)  # the fsync of the folder
        print(name, number, *assert_whole_and_clean([1 if moved else 0]))
"""


def killed(kind: str, path: Path, work: str) -> str:
    """Return the output of a program that kills its children."""
    start = KILLED.format(tests=str(Path(__file__).parents[1]), kind=kind, path=str(path))
    done = python(start + work)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_each_call(kind: str, path: Path) -> None:
    name = temporary(path).name
    assert killed(kind, path, AT_CALLS).splitlines() == [
        "open 0",
        "open 1",
        f"flock 0 {name}",
        *(f"_write_all {number} {name}" for number in range(4 if kind == "pack" else 3)),
        f"fchmod 0 {name}",
        f"fsync 0 {name}",
        "fsync 1",
        f"replace 0 {name}",
    ]


@pytest.mark.filterwarnings(
    "ignore:.*FileIO:pytest.PytestUnraisableExceptionWarning"
)  # the collector closes the file
@pytest.mark.slow
def test_interrupted_at_each_opcode(path: Path, small: Any) -> None:
    """After an interrupt, such as Ctrl-C, the file is whole, and the next save removes a leftover."""
    small.save(path)
    for _ in at_each_opcode(lambda: small.save(path), interrupt):
        assert_beside(path, *([0] if temporary(path).exists() else []))
        small.load(path)
    small.save(path)
    assert_beside(path)


# ---- at the same time


def test_a_save_in_the_middle_of_another(kind: Kind, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An inner save, such as one in a signal handler, keeps the outer save's temporary file.

    The save that ends last wins.
    """

    def between(_: int) -> None:
        kind.make(2).save(path)
        assert_beside(path, 0)
        assert contents(kind.from_file(path)) == contents(kind.make(2))

    before(monkeypatch, os, "fsync", between, once=True)
    kind.make(1).save(path)
    assert contents(kind.from_file(path)) == contents(kind.make(1))
    assert_beside(path)


def test_threads_that_save_one_file(kind: Kind, path: Path) -> None:
    """Two threads save and two load: the file is whole at any moment."""
    kind.make(9, LARGE).save(path)

    def work(index: int) -> None:
        own = kind.make(index, LARGE)
        for _ in range(25):
            if index < 2:
                own.save(path)
            else:
                own.load(path)
                assert number_of(own) in (0, 1, 9)

    run_in_threads(4, work)
    assert_beside(path)
    last = kind.make(5, LARGE)
    last.load(path)
    assert number_of(last) in (0, 1)


PROCESSES = """
saved[0].save(path)


def work():
    for _ in range(5):
        for each in saved[1:]:
            each.save(path)
    os._exit(0)


numbers = {child(work) for _ in range(3)}
while numbers:
    into.load(path)
    assert 0 <= number_of(into) < len(saved)
    ended, status = os.waitpid(-1, os.WNOHANG)
    assert status == 0
    numbers.discard(ended)
assert leftovers() == [], leftovers()
"""


def test_processes_that_save_one_file(path: Path) -> None:
    killed("pack", path, PROCESSES)


# ---- existing files under the temporary name


def test_leftovers_are_removed(path: Path, small: Any) -> None:
    """All leftovers with consecutive numbers are removed; leftovers of other files are ignored."""
    other = temporary(path.with_name("other"))
    for each in (*(temporary(path, number) for number in range(4)), temporary(path, 5), other):
        each.write_bytes(b"left")
    small.save(path)
    assert other.exists()
    small.save(path.with_name("other"))
    assert not other.exists()
    path.with_name("other").unlink()
    assert_beside(path, 5)


def test_what_a_writer_holds_is_not_touched(path: Path, small: Any) -> None:
    for number in range(4):
        temporary(path, number).write_bytes(b"its")
    with temporary(path, 0).open("rb") as first, temporary(path, 2).open("rb") as third:
        for each in (first, third):
            fcntl.flock(each, fcntl.LOCK_EX)
        small.save(path)
        assert_beside(path, 0, 2)
        assert (first.read(), third.read()) == (b"its", b"its")
    small.save(path)
    assert temporary(path, 2).exists()  # number 1 was missing, which ended the search
    temporary(path, 1).touch()
    small.save(path)
    assert_beside(path)


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_links_are_not_written_through(link: Callable[..., None], path: Path, small: Any) -> None:
    """If saves wrote through links, anyone who may write to the folder could make a save change any file."""
    victim = path.with_name("victim")
    victim.write_bytes(b"victim")
    victim.chmod(0o600)
    link(victim, temporary(path))
    small.save(path)
    small.load(path)
    assert victim.read_bytes() == b"victim"
    assert stat.S_IMODE(victim.stat().st_mode) == 0o600
    assert not path.is_symlink()
    assert temporary(path).is_symlink() == (link is os.symlink)


def test_what_is_no_file_is_left(path: Path, small: Any) -> None:
    """A save neither removes a pipe or folder under its temporary name nor waits for the pipe."""
    os.mkfifo(temporary(path, 0))
    temporary(path, 1).mkdir()
    small.save(path)
    assert_beside(path, 0, 1)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF])
def test_without_locks(code: int, path: Path, small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without locks, a save cannot determine whether a writer is alive, so it only removes its own files."""
    monkeypatch.setattr(fcntl, "flock", failing(OSError(code, os.strerror(code))))
    temporary(path).write_bytes(b"left")
    before(monkeypatch, os, "fsync", lambda _: small.save(path), once=True)
    small.save(path)
    assert temporary(path).read_bytes() == b"left"
    assert_beside(path, 0)


def test_leftovers_that_open_or_lock_in_one_way_alone(
    path: Path, small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leftover of a save over a read-only file is read-only; NFS only locks writable descriptors."""

    def refuse(name: Any, flags: int, **_: Any) -> None:
        if name == temporary(path).name and flags & os.O_ACCMODE == os.O_RDWR:  # even for root
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def refuse_lock(file: Any, _: int) -> None:
        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    for owner, name, action in ((os, "open", refuse), (fcntl, "flock", refuse_lock)):
        temporary(path).write_bytes(b"left")
        with monkeypatch.context() as patch:
            before(patch, owner, name, action)
            small.save(path)
        assert_beside(path)


@pytest.mark.parametrize(("removed", "held"), [(True, False), (False, True), (True, True)])
def test_another_writer_takes_a_new_file_for_a_leftover(
    removed: bool, held: bool, path: Path, small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before this save can lock its new file, the other writer removes or locks it.

    It may also remove the file and then lock its own file of the same name.
    """
    with ExitStack() as opened:

        def take(*_: Any) -> None:
            if removed:
                temporary(path).unlink()
            if held:
                fcntl.flock(opened.enter_context(temporary(path).open("ab")), fcntl.LOCK_EX)

        before(monkeypatch, fcntl, "flock", take, once=True)
        small.save(path)
        small.load(path)
        assert_beside(path, *([0] if held else []))
