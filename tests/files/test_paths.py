"""The paths of saves and loads, and what they lead to: files, links, folders, devices or nothing."""

from __future__ import annotations

import errno
import os
import resource
import socket
from pathlib import Path
from typing import Any

import pytest

from files.kinds import Kind, number_of


def test_what_is_no_file_is_not_read(kind: Kind, tmp_path: Path) -> None:
    """A load neither reads from a device, pipe or socket nor waits for one."""
    os.mkfifo(tmp_path / "fifo")
    for each in (tmp_path / "fifo", "/dev/zero", "/dev/null"):
        for load in kind.uses(each)[1:]:
            with pytest.raises(ValueError, match=f"^{each}: expected a file, got a device or a pipe"):
                load()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        for load in kind.uses(tmp_path / "socket")[1:]:
            with pytest.raises(OSError, match="socket") as raised:
                load()
            assert raised.value.errno == errno.ENXIO


def test_what_is_no_file_is_not_replaced(kind: Kind, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("target/")
    for each in (
        tmp_path,
        tmp_path / "fifo",
        "/dev/null",
        *(f"{tmp_path}/{name}" for name in ("new/", "link", "")),
    ):
        with pytest.raises(ValueError, match="expected a file or an unused name"):
            kind.make(1).save(each)
    with pytest.raises(FileNotFoundError):
        kind.make(1).save(tmp_path / "missing" / "file")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["fifo", "link"]


NAMES = ["", b"", "a\0b", b"a\0b", "\ud800"]


@pytest.mark.parametrize("value", [*NAMES, 3, None, 0.5, ["a"], bytearray(b"a")], ids=repr)
def test_what_no_file_is_called(value: Any, kind: Kind) -> None:
    for use in kind.uses(value):
        if value in NAMES:
            with pytest.raises(ValueError, match="^path: expected a valid file name, got "):
                use()
        else:
            match = f"^path: expected str, bytes or os.PathLike, got {type(value).__name__}$"
            with pytest.raises(TypeError, match=match):
                use()


class Own:
    """A path of a user-defined class."""

    def __init__(self, path: str | bytes) -> None:
        self.path = path

    def __fspath__(self) -> Any:
        return self.path


def test_kinds_of_paths(kind: Kind, tmp_path: Path) -> None:
    for name in ("a", "\u00e9", os.fsdecode(b"\xff")):  # the last is not UTF-8
        path = tmp_path / name
        for each in (str(path), os.fsencode(path), path, Own(str(path)), Own(os.fsencode(path))):
            for use in kind.uses(each):
                use()
            assert [*tmp_path.iterdir()] == [path]
            path.unlink()


def test_a_folder_deeper_than_a_path_can_say(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # monkeypatch restores the working directory
    for _ in range(20):
        Path("x" * 250).mkdir()
        os.chdir("x" * 250)
    Path("link").symlink_to("target")
    for use in kind.uses("link"):
        use()
    assert sorted(each.name for each in Path().iterdir()) == ["link", "target"]
    assert Path("link").is_symlink()


def test_a_link_stays_a_link(kind: Kind, tmp_path: Path) -> None:
    """Each link is relative to its own folder; the last one may point to a missing file."""
    for name in ("a", "b", "b/c"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "link").symlink_to("../b/link")
    (tmp_path / "b" / "link").symlink_to("c/new")
    for number in (1, 2):
        kind.make(number).save(tmp_path / "a" / "link")
        for each in ("a/link", "b/c/new"):
            assert number_of(kind.from_file(tmp_path / each)) == number
        assert (tmp_path / "b" / "link").is_symlink()
        assert sorted(each.name for each in tmp_path.rglob("*")) == ["a", "b", "c", "link", "link", "new"]


def test_as_many_links_as_the_system_follows(kind: Kind, tmp_path: Path) -> None:
    for number in range(41):
        (tmp_path / str(number + 1)).symlink_to(str(number))
    kind.make(1).save(tmp_path / "40")
    assert (tmp_path / "0").is_file()
    (tmp_path / "loop").symlink_to("loop")
    for name in ("41", "loop"):
        for use in kind.uses(tmp_path / name):
            with pytest.raises(OSError, match=name) as raised:
                use()
            assert raised.value.errno == errno.ELOOP
    assert (tmp_path / "1").is_symlink()


def test_without_descriptors(kind: Kind, path: Path) -> None:
    """A load needs one descriptor and a save needs two. The error does not say that the file is missing."""
    save, *loads = kind.uses(path)
    save()
    free = os.dup(0)
    os.close(free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for spare, refused, taken in ((0, [save, *loads], []), (1, [save], loads)):
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + spare, hard))
        try:
            for use in refused:
                with pytest.raises(OSError, match=path.name) as raised:
                    use()
                assert (raised.value.errno, raised.value.filename) == (errno.EMFILE, str(path))
            for use in taken:
                use()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
