"""Files that appear whole, and that are on the disk when they appear.

A renamed file can be empty after a power failure or an error of the disk, because a file system may
write its name before its contents. So the contents are forced to the disk before the name changes.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a text file of which a reader sees the old contents or the new ones, never a part.

    Characters that UTF-8 does not have become question marks. The folder has to exist.
    """
    part = path.with_name(path.name + ".part")
    with naming(part):
        part.write_text(text, encoding="utf-8", errors="replace")
    put_in_place(part, path)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an error of the block the name of the file: one of a disk that is full has none."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


def put_in_place(part: Path, path: Path) -> None:
    """Rename a file that was written beside `path`, once all of it is on the disk."""
    _sync(part)
    part.replace(path)
    _sync_names(path.parent)


def sync_folder(folder: Path) -> None:
    """Force a folder with all that is in it to the disk."""
    for place, _, names in os.walk(folder):
        for name in names:
            _sync(Path(place, name))
        _sync_names(Path(place))


def _sync_names(folder: Path) -> None:
    """Force the names in a folder to the disk, where the file system can do that."""
    try:
        _sync(folder)
    except OSError as error:  # some file systems of networks force files only
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with naming(path):
            os.fsync(file)
    finally:
        os.close(file)
