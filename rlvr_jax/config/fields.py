"""The config types declare their keys and check their values with these helpers."""

from collections.abc import Callable, Sequence
from dataclasses import field
from typing import Any

STRICT = {"extra": "forbid"}  # pydantic's option: a key that is not a field of the type is refused


def option(default: Any, meaning: str) -> Any:
    """Declare a config key with its default and its meaning, which `--help` prints."""
    return field(default=default, metadata={"help": meaning})


def choice_or_file(default: str, words: Sequence[str], meaning: str) -> Any:
    """Declare a config key that is one of some words, or the path of a file of Python."""
    return field(default=default, metadata={"help": meaning, "words": tuple(words)})


class Formula(str):
    """A Formula is the path of a user's file, with the function that was loaded from the file.

    A stage gets it in the place of the path.  Two are equal if path and function are: a program
    that was compiled for one file is not used for another one, or for a later version of it.
    """

    function: Callable[..., Any]

    def __new__(cls, path: str, function: Callable[..., Any]) -> "Formula":
        """Attach a function to a path."""
        self = super().__new__(cls, path)
        self.function = function
        return self

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Formula)
            and str.__eq__(self, other)
            and self.function is other.function
        )

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((str(self), self.function))


class UnknownWordError(ValueError):
    """An UnknownWordError says that a value is neither a known word nor the path of a file."""

    def __init__(self, name: str, value: str, words: Sequence[str]) -> None:
        """Keep the value and the known words: a longer sentence may name the word that is meant."""
        self.value, self.words = value, words
        listed = ", ".join(map(repr, words))
        super().__init__(f"{name} should be one of {listed} or a file that ends in .py")


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
    if name in ("fresh", "pretrained"):
        raise ValueError(
            f"name {name!r} has a meaning of its own where stages are named: choose another"
        )


def check_choice_or_file(cfg: Any, name: str) -> None:
    """Raise ValueError if a field of `choice_or_file` has neither a known word nor a path."""
    value, words = getattr(cfg, name), cfg.__dataclass_fields__[name].metadata["words"]
    if value not in words and not value.endswith(".py"):
        raise UnknownWordError(name, value, words)
