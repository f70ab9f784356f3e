"""The text of a config becomes plain values, with limits on size, depth and number.

YAML lets a short text stand for an enormous tree, and a path may name a pipe that never ends.
"""

import difflib
import re
import stat
from pathlib import Path
from typing import Any

import yaml

from rlvr_jax.host.files.looked_up import looked_up

# A config has a few hundred values in ten levels; more is a mistake, or aliases that multiply.
BYTES, DEPTH, VALUES = 1 << 20, 40, 100_000
LARGEST = 2**53  # an integer up to here is the same number in JSON and as a float


class ConfigError(ValueError):
    """A ConfigError refuses a config or command line; its message says what to change."""


# PyYAML reads YAML 1.1, in which `off`, `no`, `on` and `yes` are truth values, 1:30 is the number
# 90, 010 the number 8 and 2026-11-30 a date.  In YAML 1.2 they are words, or what they look like.
# Only this much is changed: what the dumper leaves without quotes has to be read as it was.
_PLAIN = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)", "-+0123456789"),
    "timestamp": ("", ""),
}


class _Loader(yaml.SafeLoader):
    """A YAML 1.2 loader that refuses a key given twice, and values that are nested too deep."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own name
        first: [(tag, pattern) for tag, pattern in kinds if tag.rpartition(":")[2] not in _PLAIN]
        for first, kinds in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        if self._depth > DEPTH:
            raise yaml.YAMLError(f"values are nested more than {DEPTH} deep")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    line = key.start_mark.line + 1
                    raise yaml.YAMLError(f"the key {key.value!r} is given twice, line {line}")
                seen.add(key.value)
        return node


for _kind, (_pattern, _first) in _PLAIN.items():
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_kind}", re.compile(f"({_pattern})$"), list(_first)
    )


def read_config(path: Path) -> str:
    """Read a config file.

    Raises:
      ConfigError: it is not there, is no text, or is a pipe or a device, which might never end.
    """
    try:
        kind = path.stat()
        if not stat.S_ISREG(kind.st_mode) and not stat.S_ISDIR(kind.st_mode):
            raise ConfigError(f"config {path} is a pipe or a device, not a file")
        if kind.st_size > BYTES and stat.S_ISREG(kind.st_mode):
            raise ConfigError(f"config {path} has more than {BYTES} bytes: it is another file")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(
            str(path), map(str, Path("configs").glob("*.yaml")), 1, 0.4
        )
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"there is no config file {path}{hint or looked_up(path)}") from None
    except OSError as error:
        raise ConfigError(f"cannot read config {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None


def parse_yaml(text: str) -> Any:
    """Parse YAML into plain values; the message of a ConfigError has one line."""
    try:
        return _unshare(yaml.load(text, _Loader))
    except ConfigError:
        raise
    except Exception as error:  # its constructors raise KeyError, AttributeError, ...
        reason = " ".join(str(error).split())
        named = isinstance(error, yaml.YAMLError | ValueError)
        raise ConfigError(reason if named else f"a value cannot be read ({reason})") from None


def _unshare(tree: Any) -> Any:
    """Copy values that YAML aliases share: an override of one must not change the other.

    Raises:
      ConfigError: there are more than VALUES values, or they are nested more than DEPTH deep, as
        when a value holds an alias of itself; or an integer is above LARGEST.
    """
    left = VALUES

    def copy(tree: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise ConfigError(f"its aliases stand for more than {VALUES} values")
        if depth > DEPTH:
            raise ConfigError("a value holds an alias of itself, or is nested too deep")
        if isinstance(tree, int) and abs(tree) > LARGEST:
            raise ConfigError(f"it has an integer beyond {LARGEST}: no key takes one")
        if isinstance(tree, dict):
            return {key: copy(value, depth + 1) for key, value in tree.items()}
        return [copy(value, depth + 1) for value in tree] if isinstance(tree, list) else tree

    return copy(tree, 0)
