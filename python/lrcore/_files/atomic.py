"""Atomic replacement of a file: at any time, its path holds either the complete old file or the complete new one.

The new file is written under the temporary name `.lrcore-<CRC-32 of the file's name>-<number>.tmp` in the
same folder. The writer holds a lock on it, which the system releases however the writer ends. The next writer
can therefore recognize and remove the leftovers of a killed writer. It does not write into a leftover, which
may be a link that another user has made.
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
"""Maximum number of links to follow in a row; the same as the system's limit."""
_TRIES = 10_000
"""Number of attempts to make a temporary file."""


def replace_file(path: str, write: Callable[[FileIO], None]) -> None:
    """Call `write` on a temporary file, and move the file to `path` when all its data is on the disk.

    The file gets the permissions of the file that it replaces, or the default permissions of a new file. If `path`
    is a link, the target is replaced. Names are resolved relative to an open folder, because its absolute path may
    be too long for the system.
    """
    with os_errors_naming(path), _followed(path) as (folder, name):
        former = _permissions(folder, name, path)
        # The system applies the process's umask to these permissions.
        with _temporary(folder, name, 0o666 if former is None else 0o600) as file:
            write(file)
            if former is not None:
                os.fchmod(file.fileno(), former)
            os.fsync(file.fileno())
            _move(folder, str(file.name), name)
        _sync_folder(folder)


@contextmanager
def os_errors_naming(path: str) -> Iterator[None]:
    """Reraise each OSError from the block with `path`, the path known to the caller, as its file name."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename == path:
            raise
        raise OSError(error.errno, error.strerror, path) from error


@contextmanager
def _followed(path: str) -> Iterator[tuple[int, str]]:
    """Follow links and open the folder of a file; yield it and the file's name in it, which may be unused."""
    folder, target = None, path
    with ExitStack() as opened:
        for _ in range(_MOST_LINKS + 1):
            parent, name = os.path.split(target)
            if not name:
                raise ValueError(f"{path}: expected a file or an unused name, got a path without a file name")
            folder = os.open(parent or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
            opened.callback(os.close, folder)
            try:
                target = os.readlink(name, dir_fd=folder)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOENT):  # not a link, or an unused name
                    raise
                break
        else:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        yield folder, name


def _permissions(folder: int, name: str, path: str) -> int | None:
    """Return the permissions of the file to replace, or None if the name is unused."""
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path}: expected a file or an unused name, got a directory or a device")
    return stat.S_IMODE(mode)


def _move(folder: int, temporary: str, name: str) -> None:
    try:
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError as error:
        if error.errno == errno.EBUSY:
            text = "a file that is a mount point cannot be replaced atomically; mount its folder instead"
            raise OSError(error.errno, text) from error
        raise


def _sync_folder(folder: int) -> None:
    """Wait until the new name is on the disk, if the file system supports that."""
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


# ---- temporary files


@contextmanager
def _temporary(folder: int, name: str, permissions: int) -> Iterator[FileIO]:
    """Make a locked temporary file, and remove the leftovers of killed writers of the same file."""
    names = (f".lrcore-{zlib.crc32(os.fsencode(name)):08x}-{number}.tmp" for number in itertools.count())
    with _created(folder, names, permissions) as file:
        try:
            with suppress(FileNotFoundError):  # up to the first unused number
                for each in names:
                    os.stat(each, dir_fd=folder, follow_symlinks=False)
                    _remove_leftover(folder, each)
            yield file
        except BaseException:
            _remove(folder, file)
            raise


def _created(folder: int, names: Iterator[str], permissions: int) -> FileIO:
    """Make and lock a file with the first name that no running writer uses."""
    opener = partial(os.open, mode=permissions, dir_fd=folder)
    name = next(names)
    for _ in range(_TRIES):
        try:
            file = open(name, "xb", buffering=0, opener=opener)  # noqa: SIM115
        except FileExistsError:
            if not _remove_leftover(folder, name):
                name = next(names)
            continue
        # Until the new file is locked, it looks like a leftover, and another writer may remove it.
        if _lock(file, without=True) and _has_its_name(folder, file):
            return file
        file.close()
    raise OSError(errno.EAGAIN, "other writers repeatedly removed the temporary file")


def _remove_leftover(folder: int, name: str) -> bool:
    """Remove a temporary file if its writer has ended; return whether the name may be unused now."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)

    try:
        try:  # NFS can lock a file only if it is open for writing
            file = open(name, "r+b", buffering=0, opener=opener)  # noqa: SIM115
        except PermissionError:  # read-only, like the file that it was to replace
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
    """Lock the file and return whether that succeeded, or return `without` on a file system without locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return without
    return True


def _remove(folder: int, file: FileIO) -> None:
    """Remove a file that this writer has locked, unless its name now belongs to another file."""
    if _has_its_name(folder, file):
        os.unlink(str(file.name), dir_fd=folder)


def _has_its_name(folder: int, file: FileIO) -> bool:
    try:
        found = os.stat(str(file.name), dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(file.fileno()))
