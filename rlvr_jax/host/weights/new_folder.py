"""A folder with a model appears under its name when it is complete, or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from rlvr_jax.host.weights.values import WeightsError


def check_free(folder: Path) -> None:
    """Refuse a destination that is not empty, with WeightsError; `make` checks it again."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise WeightsError(f"{folder} is not empty: name a new folder, or empty this one")


@contextlib.contextmanager
def make(folder: Path) -> Iterator[Path]:
    """Yield a folder beside `folder` to write into, which takes its name at the end of the block.

    If the block fails, nothing is left.

    Raises:
      WeightsError: `folder` is not empty, or cannot be written.
    """
    check_free(folder)
    part = folder.with_name(f".{folder.name}.part-{os.getpid()}")
    try:
        part.mkdir(parents=True)
        yield part
        if folder.is_dir():
            folder.rmdir()
        part.rename(folder)
    except OSError as error:
        raise WeightsError(f"{folder} could not be written: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
