"""Saves that are killed, interrupted, or come at the same time: the file is whole, and nothing stays beside it."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lrcore
from files.changing_files import KINDS, optimizer
from opcodes import at_each_opcode, interrupt
from support import python, run_in_threads


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a name for a file, in a folder of its own."""
    return tmp_path / "file.safetensors"


@pytest.fixture
def small() -> Any:
    """Return what is saved."""
    return lrcore.Pack({"w": 3})


def temporary(path: Path, number: int = 0) -> Path:
    """Return the temporary name, as the documentation says."""
    return path.with_name(f".lrcore-{zlib.crc32(path.name.encode()):08x}-{number}.tmp")


def names(path: Path) -> list[str]:
    """Return the names in the folder of a file."""
    return sorted(each.name for each in path.parent.iterdir())


def at_the_sync(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Have this called when the next save has written all of its file; once."""
    fsync = os.fsync

    def sync(file: int) -> None:
        monkeypatch.setattr(os, "fsync", fsync)
        action()
        fsync(file)

    monkeypatch.setattr(os, "fsync", sync)


# ---- killed

KILLED = """
import fcntl, os, random, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import lrcore
from files.changing_files import COUNT, KINDS
make, number_of = KINDS[{kind!r}]
path = Path({path!r})
saved, into = [make(number) for number in range(COUNT)], make(99)


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

AT_MOMENTS = """
import time
chance, left = random.Random(4), []
saved[0].save(path)
for _ in range(100):
    ready, tell = os.pipe()

    def work():
        while True:
            for number, each in enumerate(saved[1:], 1):
                each.save(path)
                os.write(tell, b".")

    number = child(work)
    os.read(ready, 1)
    time.sleep(chance.uniform(0, 0.01))
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)
    os.close(ready), os.close(tell)
    left += assert_whole_and_clean(range(1, COUNT))
print(*left)
"""

AT_CALLS = """
for owner, name in ((os, "open"), (fcntl, "flock"), (os, "fchmod"), (os, "fsync"), (os, "replace")):
    for number in range(4):

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
        moved = (name, number) == ("fsync", 1)  # that of the folder
        print(name, number, *assert_whole_and_clean([1 if moved else 0]))
"""


def killed(kind: str, path: Path, work: str) -> str:
    """Run a program that kills its children, and return what it prints."""
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
        f"fchmod 0 {name}",
        f"fsync 0 {name}",
        "fsync 1",
        f"replace 0 {name}",
    ]


def test_killed_at_any_moment(path: Path) -> None:
    """Of a hundred times: the file is whole, at most one temporary file is left, and the next save removes it."""
    left = killed("optimizer", path, AT_MOMENTS).split()
    assert {*left} == {temporary(path).name}


@pytest.mark.filterwarnings(
    "ignore:.*FileIO:pytest.PytestUnraisableExceptionWarning"
)  # closed by the collector
def test_interrupted_at_each_opcode(path: Path, small: Any) -> None:
    """As by Ctrl-C: the file is whole, and what is left, if anything, is removed by the next save."""
    small.save(path)
    for _ in at_each_opcode(lambda: small.save(path), interrupt):
        assert {*names(path)} <= {path.name, temporary(path).name}
        small.load(path)
    small.save(path)
    assert names(path) == [path.name]


# ---- at the same time


def test_a_save_in_the_middle_of_another(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a signal handler's: it leaves the other's temporary file alone, and the last one to finish wins."""
    first, second = optimizer(1), optimizer(2)

    def between() -> None:
        second.save(path)
        assert names(path) == [temporary(path).name, path.name]
        into = optimizer(3)
        into.load(path)
        assert into.step_count == 2

    at_the_sync(monkeypatch, between)
    first.save(path)
    second.load(path)
    assert second.step_count == 1
    assert names(path) == [path.name]


@pytest.mark.parametrize("kind", KINDS)
def test_threads_that_save_one_file(kind: str, path: Path) -> None:
    """Two that save and two that load: what is there is whole at any moment."""
    make, number_of = KINDS[kind]
    make(9).save(path)

    def work(index: int) -> None:
        own = make(index)
        for _ in range(25):
            if index < 2:
                own.save(path)
            else:
                own.load(path)
                assert number_of(own) in (0, 1, 9)

    run_in_threads(4, work)
    assert names(path) == [path.name]
    last = make(5)
    last.load(path)
    assert number_of(last) in (0, 1)


PROCESSES = """
saved[0].save(path)


def work():
    for _ in range(15):
        for each in saved[1:]:
            each.save(path)
    os._exit(0)


numbers = {child(work) for _ in range(3)}
while numbers:
    into.load(path)
    assert 0 <= number_of(into) < COUNT
    ended, status = os.waitpid(-1, os.WNOHANG)
    assert status == 0
    numbers.discard(ended)
assert leftovers() == [], leftovers()
"""


def test_processes_that_save_one_file(path: Path) -> None:
    killed("pack", path, PROCESSES)


# ---- what is there under the temporary name


def test_leftovers_are_removed(path: Path, small: Any) -> None:
    """All of them in a row; those of other files are not looked at."""
    other = temporary(path.with_name("other"))
    for each in (*(temporary(path, number) for number in range(4)), temporary(path, 5), other):
        each.write_bytes(b"left")
    small.save(path)
    assert names(path) == sorted([other.name, temporary(path, 5).name, path.name])
    small.save(path.with_name("other"))
    assert not other.exists()


def test_what_a_writer_holds_is_not_touched(path: Path, small: Any) -> None:
    for number in range(4):
        temporary(path, number).write_bytes(b"its")
    with temporary(path, 0).open("rb") as first, temporary(path, 2).open("rb") as third:
        for each in (first, third):
            fcntl.flock(each, fcntl.LOCK_EX)
        small.save(path)
        assert names(path) == sorted([temporary(path, 0).name, temporary(path, 2).name, path.name])
        assert (first.read(), third.read()) == (b"its", b"its")
    small.save(path)
    assert temporary(path, 2).exists()  # number 1 is free
    temporary(path, 1).touch()
    small.save(path)
    assert names(path) == [path.name]


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_links_are_not_written_through(link: Callable[..., None], path: Path, small: Any) -> None:
    """Whoever may write in the folder could have a save write into any file."""
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
    """And not waited for."""
    os.mkfifo(temporary(path, 0))
    temporary(path, 1).mkdir()
    small.save(path)
    assert names(path) == sorted([temporary(path, 0).name, temporary(path, 1).name, path.name])


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF])
def test_without_locks(code: int, path: Path, small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system without them no one can tell who lives: nothing is removed but what is the save's own."""

    def refuse(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    temporary(path).write_bytes(b"left")
    at_the_sync(monkeypatch, lambda: small.save(path))
    small.save(path)
    assert temporary(path).read_bytes() == b"left"
    assert names(path) == [temporary(path).name, path.name]


def test_locks_of_nfs(path: Path, small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """There a file is locked for one alone only by who has it open for writing."""
    flock = fcntl.flock

    def lock(file: Any, operation: int) -> None:
        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", lock)
    temporary(path).write_bytes(b"left")
    small.save(path)
    assert names(path) == [path.name]


def test_a_leftover_that_may_only_be_read(path: Path, small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of a save over a file of those permissions."""
    opened = os.open

    def open_(name: Any, flags: int, *arguments: Any, **named: Any) -> int:
        if name == temporary(path).name and flags & os.O_ACCMODE == os.O_RDWR:  # for root too
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return opened(name, flags, *arguments, **named)

    monkeypatch.setattr(os, "open", open_)
    temporary(path).write_bytes(b"left")
    small.save(path)
    assert names(path) == [path.name]


def test_taken_away_before_it_is_locked(path: Path, small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another writer may take a file that has just been made for a leftover, and make its own of that name."""
    flock = fcntl.flock
    held: list[Any] = []

    def lock(file: Any, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        temporary(path).unlink()
        held.append(temporary(path).open("wb"))
        flock(held[0], fcntl.LOCK_EX)
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", lock)
    small.save(path)
    small.load(path)
    assert names(path) == [temporary(path).name, path.name]
    held[0].close()


def test_locked_by_another_before_the_writer(path: Path, small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is about to remove it, and the save takes the next number."""
    flock = fcntl.flock
    held: list[Any] = []

    def lock(file: Any, operation: int) -> None:
        if not held:
            held.append(temporary(path).open("rb"))
            flock(held[0], fcntl.LOCK_EX)
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", lock)
    small.save(path)
    assert names(path) == [temporary(path).name, path.name]
    held[0].close()


def test_a_failed_save_leaves_the_file_of_another(
    path: Path, small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name may have gone to it after the move."""

    def fail(_: int) -> None:
        temporary(path).write_bytes(b"its")
        raise OSError(errno.EIO, "broken")

    replace = os.replace

    def move(*arguments: Any, **named: Any) -> None:
        replace(*arguments, **named)
        fail(0)

    monkeypatch.setattr(os, "replace", move)
    with pytest.raises(OSError, match="broken"):
        small.save(path)
    assert temporary(path).read_bytes() == b"its"


def test_without_a_folder_to_write_in(path: Path, small: Any) -> None:
    """The error names the path, not the temporary name."""
    path.parent.chmod(0o500)
    if os.access(path.parent, os.W_OK):
        pytest.skip("root may write anywhere")
    with pytest.raises(PermissionError) as raised:
        small.save(path)
    assert raised.value.filename == str(path)
