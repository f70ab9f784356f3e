"""Files of texts with holes such as {answer}, for the prompts of verifiers and of GRMs."""

import difflib
import re
from pathlib import Path
from typing import Any

from rlvr_jax.host.files.looked_up import looked_up

HOLE = re.compile(r"\{([a-z_]+)\}")


def fill(text: str, **values: Any) -> str:
    """Fill the holes of a text; other braces, such as those of a box, stay as they are.

    It is one pass: what looks like a hole in a value is text.
    """
    return HOLE.sub(lambda m: str(values[m[1]]) if m[1] in values else m[0], text)


def named(folder: Path) -> tuple[str, ...]:
    """Return the names of our own files in a folder."""
    return tuple(sorted(path.stem for path in folder.glob("*.yaml")))


def find_file(name: str, folder: Path, what: str) -> Path:
    """Return one of our files in `folder`, by its name, or the file of the user with that path.

    Raises:
      ValueError: there is no such file; `what` says in the message what was looked for.
    """
    ours = named(folder)
    path = folder / f"{name}.yaml" if name in ours else Path(name)
    if not path.is_file():
        near = difflib.get_close_matches(name, ours, 1, 0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"ours are {', '.join(ours)}"
        raise ValueError(f"{what} {name!r} is none of ours and no file{looked_up(path)}: {hint}")
    return path
