"""Where a relative path was looked up, for a sentence about a file that is not there."""

import os
from pathlib import Path


def looked_up(path: Path | str) -> str:
    """Return the words " in FOLDER", the folder in which a relative path was looked up.

    The result is "" for a path that begins at the root.
    """
    return "" if os.path.isabs(path) else f" in {os.getcwd()}"
