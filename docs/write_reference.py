"""Write docs/config.md and docs/metrics.md: `python docs/write_reference.py`.

The first page comes from the fields of the config types, the second from the table of metrics.
`tests/test_reference.py` fails when a page differs from what this script writes.
"""

import dataclasses
import math
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal

import yaml

from rlvr_jax.config import Config, SourceConfig, TokenizerStage
from rlvr_jax.host.runs import metric_table, settings

DOCS = Path(__file__).parent
NOTE = "<!-- Written by `python docs/write_reference.py`; edit the sources that it reads. -->"
CONFIG_HEAD = f"""{NOTE}

# Config reference

This page lists every key of a config. A config is a YAML file; on the command line `KEY=VALUE` sets
a key (`model.width=256`), and a key of a stage begins with the name of the stage (`rl.steps=50`).
The first table has the keys of the whole config. The sections follow, then the stages. A place such
as `rl.optim` is the key `optim` of a stage of the type `rl`. An unknown key, or a value that is not
allowed, is refused before anything runs.

*Type* gives the allowed words where only some are allowed, and the range of a number where the key
alone decides. Where other keys decide too, no range is given; the refusal says what is missing.
"""
METRICS_HEAD = f"""{NOTE}

# Metrics

This page lists all metrics that a training step can log, with what they are or their course in a
healthy run. A step logs those of the options that are on. An upper-case word in a name stands for a
domain, a kind, or a name that the config gives. *Healthy* is the range outside of which the report
marks a metric; the limit of `mismatch/logprob_diff_max` is that of bfloat16. [report.md](report.md)
says how to read them, and [evaluation.md](evaluation.md) what an evaluation measures.
"""
# The type of a section -> its dotted names, each with the value that it has by default.
Places = dict[type, list[tuple[str, Any]]]
# A number of each kind, and the words for a range by the numbers in it.
PROBES = {int: (-1, 0, 1, 2, 3, 7, 2**31), float: (-1.0, 0.0, 1e-3, 0.5, 1.0, 3.0, 1e9, math.inf)}
RANGES = {
    (0, 1, 2, 3, 7, 2**31): "0 or more",
    (1, 2, 3, 7, 2**31): "1 or more",
    (0.0, 1e-3, 0.5, 1.0): "from 0 to 1",
    (1e-3, 0.5, 1.0): "above 0, at most 1",
    (0.0, 1e-3, 0.5): "from 0 to below 1",
    (1e-3, 0.5, 1.0, 3.0, 1e9): "above 0",
    (1e-3, 0.5, 1.0, 3.0, 1e9, math.inf): "above 0",
    (0.0, 1e-3, 0.5, 1.0, 3.0, 1e9): "0 or more",
    (1.0, 3.0, 1e9): "1 or more",
}


def config_page() -> str:
    """Write the page about the keys of the config."""
    places: Places = {}
    _collect(_example(Config), "", places)
    for tag, kind in settings.STAGES.items():
        _collect(kind(), f"{tag}.", places)
    parts = [CONFIG_HEAD, "## The whole config\n", *_table(Config), "\n# Sections\n"]
    for kind, found in places.items():
        parts += [f"## {_title(kind)}\n", f"{_first(kind)}\n", f"{_where(found)}\n"]
        parts += [*_table(kind), ""]
    parts.append("# Stages\n")
    for tag, kind in settings.STAGES.items():
        parts += [f"## Stage {tag}\n", f"{_first(kind)}\n", *_table(kind), ""]
    return "\n".join(parts)


def metrics_page() -> str:
    """Write the page about the metrics."""
    lines = ["| metric | healthy | in a healthy run |", "|---|---|---|"]
    for name, metric in metric_table.METRICS.items():
        limits = [
            f"{metric.low:g} or more" if metric.low is not None else "",
            f"at most {metric.high:g}" if metric.high is not None else "",
        ]
        lines.append(f"| `{name}` | {' and '.join(filter(None, limits))} | {_cell(metric.note)} |")
    return "\n".join([METRICS_HEAD, *lines, ""])


def sections(kind: type) -> Iterator[tuple[dataclasses.Field, type]]:
    """Yield the fields of a config type that hold further keys, with the type of these."""
    hints = typing.get_type_hints(kind)
    for item in dataclasses.fields(kind):
        for hint in (hints[item.name], *typing.get_args(hints[item.name])):
            if dataclasses.is_dataclass(hint) and item.name != "stages":
                yield item, typing.cast(type, hint)


def keys(kind: type) -> list[dataclasses.Field]:
    """Return the fields of a config type that a user sets; `stage` names the type of a stage."""
    return [item for item in dataclasses.fields(kind) if item.name != "stage"]


def _collect(cfg: Any, prefix: str, places: Places) -> None:
    """Add to `places` all sections of a config value, with their dotted names and their values."""
    for item, inner in sections(type(cfg)):
        value, name = getattr(cfg, item.name), prefix + item.name
        value = value if isinstance(value, inner) else _example(inner)  # of a list: one entry
        places.setdefault(inner, []).append((name, value))
        _collect(value, f"{name}.", places)


def _title(kind: type) -> str:
    return kind.__name__.removesuffix("Config") + " section"


def _anchor(kind: type) -> str:
    return _title(kind).lower().replace(" ", "-")


def _first(kind: type) -> str:
    doc = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
    return _cell(doc)


def _where(found: list[tuple[str, Any]]) -> str:
    """Say where a section stands, and with which other defaults than those of its table."""
    listed = ", ".join(f"`{name}`" for name, _ in found)
    lines = [f"Found at {listed}."]
    for name, value in found:
        plain = _example(type(value))
        pairs = [
            (f.name, getattr(value, f.name), getattr(plain, f.name)) for f in keys(type(value))
        ]
        other = [f"`{key}: {_plain(own)}`" for key, own, usual in pairs if own != usual]
        lines += [f"In `{name}` the defaults are {', '.join(other)}."] if other else []
    return "\n".join(lines)


def _table(kind: type) -> list[str]:
    hints, inner = typing.get_type_hints(kind), {item.name: t for item, t in sections(kind)}
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for item in keys(kind):
        if item.name in inner:
            shown = f"[keys](#{_anchor(inner[item.name])})"
            shown = shown if dataclasses.is_dataclass(hints[item.name]) else f"list of {shown}"
            default = ""
        elif item.name == "stages":
            shown, default = "list of [stages](#stages)", ""
        else:
            shown = _type(hints[item.name], kind, item.name)
            if words := item.metadata.get("words"):
                shown = ", ".join(f"`{word}`" for word in words) + " or a file of Python"
            default = _default(item)
        lines.append(f"| `{item.name}` | {shown} | {default} | {_cell(item.metadata['help'])} |")
    return lines


def _example(kind: type) -> Any:
    """Make a value of a config type, with the least that it must have."""
    least: dict[type, dict[str, Any]] = {
        Config: {"stages": (TokenizerStage(),)},
        SourceConfig: {"gym": "chain_sum"},
    }
    return kind(**least.get(kind, {}))


def _type(hint: Any, kind: type, name: str) -> str:
    """Describe the type of a key, with the words or the range that are allowed."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return ", ".join(f"`{word}`" for word in inside)
    if origin in (typing.Union, UnionType):
        return " or ".join(_type(part, kind, name) for part in inside)
    if origin is tuple:
        words = "list of" if inside[-1] is Ellipsis else f"list of {len(inside)}:"
        return f"{words} {_type(inside[0], object, name)}"
    if origin is dict:
        return f"mapping: {_type(inside[0], object, name)} to {_type(inside[1], object, name)}"
    plain = {
        type(None): "nothing",
        str: "text",
        int: "whole number",
        float: "number",
        bool: "true or false",
    }
    allowed = _range(hint, kind, name) if hint in PROBES and kind is not object else ""
    return plain.get(hint, "any value") + (f", {allowed}" if allowed else "")


def _range(hint: Any, kind: type, name: str) -> str:
    """Describe the range of a number, if the config type refuses exactly what is outside of it."""
    base = _example(kind)
    accepted = []
    for value in PROBES[hint]:
        try:
            dataclasses.replace(base, **{name: value})
        except ValueError:
            continue
        accepted.append(value)
    return RANGES.get(tuple(accepted), "")


def _default(item: dataclasses.Field) -> str:
    value = item.default_factory() if callable(item.default_factory) else item.default
    return f"`{_plain(value)}`"


def _plain(value: Any) -> str:
    """Write a default as YAML has it."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_plain, value))}]"
    if isinstance(value, str) and yaml.safe_load(value or "0") != value:
        return f'"{value}"'  # without quotes YAML reads something else
    return str(value)


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("*", "\\*").replace("<", "\\<")


if __name__ == "__main__":
    (DOCS / "config.md").write_text(config_page(), encoding="utf-8", newline="\n")
    (DOCS / "metrics.md").write_text(metrics_page(), encoding="utf-8", newline="\n")
