"""How a field of a config is written down, and what several of them check alike."""

from dataclasses import field
from typing import Any

STRICT = {"extra": "forbid"}  # read by the loader: a key that is not a field is refused


def option(default: Any, meaning: str) -> Any:
    """A field with its meaning; `--help` and the documentation are made from these."""
    return field(default=default, metadata={"help": meaning})


def own(factory: type, meaning: str) -> Any:
    return field(default_factory=factory, metadata={"help": meaning})


def positive(cfg: Any, *names: str) -> None:
    for name in names:
        if getattr(cfg, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(cfg, name)}")


def file_name(name: str) -> None:
    """Names of runs and stages become files and folders inside the run's own place."""
    if name in ("", ".", "..") or not name.isprintable() or set(name) & set("/\\"):
        raise ValueError(f"name {name!r} must be a plain file name, without folders")
    if name in ("fresh", "pretrained"):
        raise ValueError(
            f"name {name!r} has a meaning of its own where stages are named: choose another"
        )
