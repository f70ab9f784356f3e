"""A path without characters that mean something else to the libraries that write checkpoints.

Orbax searches folders by patterns, to which brackets in a path are a pattern too, and writes a
checkpoint that nobody can read; etils takes `gs:` for an address, and TensorStore turns
backslashes. Linux names an open folder by its number as well, and that name has only digits.
"""

import contextlib
import os
import re
from collections.abc import Iterator

from etils import epath

_PLAIN = re.compile(r"[^\[\]*?\\]*")


@contextlib.contextmanager
def plain_path(folder: epath.Path) -> Iterator[epath.Path]:
    """Yield a plain name of `folder`, which is made if it is not there; mostly its own.

    Raises:
      OSError: the folder cannot be made or opened, or this system has no other name for it.
    """
    folder = folder.absolute()
    if _PLAIN.fullmatch(str(folder)) and not any(part.endswith(":") for part in folder.parts):
        yield folder
        return
    os.makedirs(folder, exist_ok=True)
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        other = epath.Path(f"/proc/self/fd/{number}")
        if not os.path.isdir(other):
            raise OSError(0, f"{folder} has characters that cannot be in a path of checkpoints")
        yield other
    finally:
        os.close(number)
