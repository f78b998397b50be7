"""Replacing a file as a whole: whatever happens, there is the old one or the new one."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path


def replace_file(path: str | os.PathLike[str], write: Callable[[Path], None]) -> None:
    """Have `write` make a file of a temporary name, and move it to `path` when all of it is on the disk.

    It gets the permissions of the file that it replaces, or those that any new file gets. Where `path` is a link, its
    target is replaced.
    """
    target = Path(os.path.realpath(path))
    try:
        former = target.stat().st_mode
    except FileNotFoundError:
        former = None
    if former is not None and not stat.S_ISREG(former):
        raise ValueError(f"{path}: expected a file, or a name that is free, got a directory or a device")
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        temporary = target.parent / f".lrcore-{secrets.token_hex(8)}.tmp"
        try:
            _write_through(temporary, former, write)
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(folder)
    finally:
        os.close(folder)


def _write_through(temporary: Path, former: int | None, write: Callable[[Path], None]) -> None:
    """Make the temporary file, with its permissions, and wait until it is on the disk."""
    creation = 0o666 if former is None else 0o600  # less the process's umask
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, creation))
    mode = temporary.stat().st_mode if former is None else former
    write(temporary)
    with temporary.open("rb") as file:
        os.fchmod(file.fileno(), stat.S_IMODE(mode))
        os.fsync(file.fileno())


def _sync_folder(folder: int) -> None:
    """Wait until the new name is on the disk, on file systems that can."""
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
