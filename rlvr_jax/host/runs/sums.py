"""The sums of a checkpoint's files, because no Orbax format detects a flipped bit in an array."""

import json
import zlib
from concurrent.futures import ThreadPoolExecutor

from etils import epath

FILE = "crc32.json"
Sums = dict[str, list[int | None]]


def write_sums(folder: epath.Path, *, contents: bool) -> None:
    """Write the sums of a step into its folder; without `contents`, the sizes of files only."""
    (folder / FILE).write_text(json.dumps(_measure(folder, contents)))


def find_damage(path: epath.Path) -> str | None:
    """Describe the first damaged file of a step; None if all files agree with their sums.

    Call it before Orbax opens the files, because a read that fails half-way floods the terminal
    from Orbax's worker threads.
    """
    try:
        wanted: Sums = json.loads((path / FILE).read_text())
        actual = _measure(path, any(crc is not None for _, crc in wanted.values()))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        return f"{FILE} is missing or unreadable: {said}"
    for name, (size, crc) in wanted.items():
        if name not in actual:
            return f"{name} is missing"
        if actual[name][0] != size:
            return f"{name} has {actual[name][0]} of {size} bytes"
        if actual[name][1] != crc:
            return f"the contents of {name} have changed"
    return None


def _measure(path: epath.Path, contents: bool) -> Sums:
    """Compute size and CRC-32 of the files of a step, except those that Orbax rewrites on commit.

    Without `contents`, the CRC-32 is None and the files are not read.
    """

    def measure(file: epath.Path) -> list[int | None]:
        total = 0
        if contents:
            with file.open("rb") as stream:
                while block := stream.read(1 << 24):
                    total = zlib.crc32(block, total)
        return [file.stat().length, total if contents else None]

    files = [file for item in path.iterdir() if item.is_dir() for file in _files(item)]
    with ThreadPoolExecutor(4) as pool:  # crc32 and reads release the interpreter lock
        names = [str(file.relative_to(path)) for file in files]
        return dict(zip(names, pool.map(measure, files), strict=True))


def _files(path: epath.Path) -> list[epath.Path]:
    inside = [_files(entry) if entry.is_dir() else [entry] for entry in sorted(path.iterdir())]
    return [file for files in inside for file in files]
