"""The config types declare their keys and check their values with these helpers."""

from dataclasses import field
from typing import Any

STRICT = {"extra": "forbid"}  # pydantic's option: a key that is not a field of the type is refused


def option(default: Any, meaning: str) -> Any:
    """Declare a config key with its default and its meaning, which `--help` prints."""
    return field(default=default, metadata={"help": meaning})


def section(factory: Any, meaning: str) -> Any:
    """Declare a config key that holds a mapping of further keys, made by `factory` by default."""
    return field(default_factory=factory, metadata={"help": meaning})


def check_positive(cfg: Any, *names: str) -> None:
    """Raise ValueError if one of the named fields of a config is below 1."""
    for name in names:
        if getattr(cfg, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(cfg, name)}")


def check_file_name(name: str) -> None:
    """Raise ValueError if the name of a run or a stage cannot be the name of a file.

    Names become files and folders inside the run folder.  `fresh` and `pretrained` are refused too,
    because they have a meaning where a config names a stage.
    """
    if name in ("", ".", "..") or not name.isprintable() or set(name) & set("/\\"):
        raise ValueError(f"name {name!r} must be a plain file name, without folders")
    if name in ("fresh", "pretrained") or name.endswith(":best"):
        raise ValueError(
            f"name {name!r} has a meaning of its own where stages are named: choose another"
        )
