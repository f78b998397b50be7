"""Replacing a file as a whole: whatever happens, there is the old one or the new one.

The new one is written under the temporary name `.lrcore-<CRC-32 of the file's name>-<number>.tmp` in the same folder. Its
writer holds a lock on it, which the system releases when the writer ends in any way. So the next writer recognizes what a
killed one has left, and removes it. It does not write into it: the file may be a link that someone else has made.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from io import FileIO

_MOST_LINKS = 40
"""Links that are followed one after another, as by the system."""
_TRIES = 10_000
"""Of making a temporary file before an error."""


def replace_file(path: str, write: Callable[[FileIO], None]) -> None:
    """Have `write` fill a file of a temporary name, and move it to `path` when all of it is on the disk.

    It gets the permissions of the file that it replaces, or those that any new file gets. If `path` is a link, its target
    is replaced. Names are relative to the open folder, which may be deeper than a path can say.
    """
    with os_errors_naming(path), _followed(path) as (folder, name):
        former = _permissions(folder, name, path)
        with _temporary(folder, name, 0o666 if former is None else 0o600) as file:  # less the process's umask
            write(file)
            if former is not None:
                os.fchmod(file.fileno(), former)
            os.fsync(file.fileno())
            _move(folder, str(file.name), name)
        _sync_folder(folder)


@contextmanager
def os_errors_naming(path: str) -> Iterator[None]:
    """Have each OSError in the block name the path that the caller knows."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename == path:
            raise
        raise OSError(error.errno, error.strerror, path) from error


@contextmanager
def _followed(path: str) -> Iterator[tuple[int, str]]:
    """Open the folder of a file, or of the target of a link, and yield it with the name there, which may be free."""
    folder, target = None, path
    with ExitStack() as opened:
        for _ in range(_MOST_LINKS + 1):
            parent, name = os.path.split(target)
            if not name:
                raise ValueError(
                    f"{path}: expected a file, or a name that is free, got a path that ends in no name"
                )
            folder = os.open(parent or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
            opened.callback(os.close, folder)
            try:
                target = os.readlink(name, dir_fd=folder)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOENT):  # not a link, or a name that is free
                    raise
                break
        else:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        yield folder, name


def _permissions(folder: int, name: str, path: str) -> int | None:
    """Return the permissions of the file that is replaced, or None if the name is free."""
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path}: expected a file, or a name that is free, got a directory or a device")
    return stat.S_IMODE(mode)


def _move(folder: int, temporary: str, name: str) -> None:
    try:
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError as error:
        if error.errno == errno.EBUSY:
            text = "a file that is a mount point cannot be replaced in one move; mount its folder instead"
            raise OSError(error.errno, text) from error
        raise


def _sync_folder(folder: int) -> None:
    """Wait until the new name is on the disk, on file systems that can."""
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


# ---- temporary files


@contextmanager
def _temporary(folder: int, name: str, permissions: int) -> Iterator[FileIO]:
    """Make a temporary file that is locked, and remove what killed writers of the same name have left."""
    names = (f".lrcore-{zlib.crc32(os.fsencode(name)):08x}-{number}.tmp" for number in itertools.count())
    with _created(folder, names, permissions) as file:
        try:
            with suppress(FileNotFoundError):  # up to the first number that is free
                for each in names:
                    os.stat(each, dir_fd=folder, follow_symlinks=False)
                    _remove_leftover(folder, each)
            yield file
        except BaseException:
            _remove(folder, file)
            raise


def _created(folder: int, names: Iterator[str], permissions: int) -> FileIO:
    """Make a file, locked, of the first name that no living writer has."""
    opener = partial(os.open, mode=permissions, dir_fd=folder)
    name = next(names)
    for _ in range(_TRIES):
        try:
            file = open(name, "xb", buffering=0, opener=opener)  # noqa: SIM115
        except FileExistsError:
            if not _remove_leftover(folder, name):
                name = next(names)
            continue
        # Until it is locked, it looks like a leftover, and another writer may remove it.
        if _lock(file, without=True) and _has_its_name(folder, file):
            return file
        file.close()
    raise OSError(errno.EAGAIN, "other writers take the temporary file away, time and again")


def _remove_leftover(folder: int, name: str) -> bool:
    """Remove a temporary file, if its writer has ended; return whether the name may be free now."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)

    try:
        try:  # for writing, as NFS locks no other file
            file = open(name, "r+b", buffering=0, opener=opener)  # noqa: SIM115
        except PermissionError:  # it has the permissions of a file that may only be read
            file = open(name, "rb", buffering=0, opener=opener)  # noqa: SIM115
        with file:
            ended = stat.S_ISREG(os.fstat(file.fileno()).st_mode) and _lock(file, without=False)
            if ended:
                _remove(folder, file)
            return ended
    except FileNotFoundError:
        return True
    except OSError:  # a link, or a file of another user
        return False


def _lock(file: FileIO, *, without: bool) -> bool:
    """Return whether the file could be locked, or `without` on a file system without locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return without
    return True


def _remove(folder: int, file: FileIO) -> None:
    """Remove a file that this writer has locked, unless its name has gone to another one."""
    if _has_its_name(folder, file):
        os.unlink(str(file.name), dir_fd=folder)


def _has_its_name(folder: int, file: FileIO) -> bool:
    try:
        found = os.stat(str(file.name), dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(file.fileno()))
