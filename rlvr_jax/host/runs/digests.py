"""Digests of what a finished stage left show whether the next stage reads the same bytes."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path


def compute_digest(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal.

    Raises:
      OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def compute_digests(folder: Path, paths: Iterable[Path]) -> dict[str, str]:
    """Compute the digests of the paths that exist, by their place in `folder`."""
    found = sorted(path for path in paths if path.is_file())
    return {path.relative_to(folder).as_posix(): compute_digest(path) for path in found}


def first_change(folder: Path, wanted: Mapping[str, str]) -> str | None:
    """Return the first file whose digest is not the wanted one, and how; None if all agree."""
    for name, digest in wanted.items():
        path = folder / name
        if not path.is_file():
            return f"{path} is missing"
        if compute_digest(path) != digest:
            return f"{path} has changed"
    return None
