"""Checkpoints and problems pass from one run to another as hard links, which take no room.

A linked file stays when the other run is moved or deleted. Nobody writes into such files: they are
only ever replaced whole. Where the file system has no links, files are copied.
"""

import os
import shutil
from pathlib import Path

from rlvr_jax.host.files.whole_file import sync_folder


def link_tree(source: Path, target: Path) -> None:
    """Make `target` a folder with links to all files in `source`; it appears whole or not at all.

    Raises:
      OSError: a file cannot be linked or copied.
    """
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, part, copy_function=_link, symlinks=True)
    os.replace(part, target)
    sync_folder(target.parent)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without links
        shutil.copy2(source, target)
