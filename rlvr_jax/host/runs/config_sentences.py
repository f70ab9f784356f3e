"""What is wrong with a value or a key of a config becomes a sentence that says what to write."""

import dataclasses
import difflib
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlvr_jax.config import (
    PRESETS,
    Config,
    RewardConfig,
    RlStage,
    SftStage,
    Stage,
    UnknownWordError,
)
from rlvr_jax.host.runs import other_names

# Sections that are given a value, and the key that the value is probably for.
FIRST_KEYS = {
    "ModelConfig": "weights",
    "AdapterConfig": "rank",
    "MeshConfig": "data",
    "OptimConfig": "lr",
    "SampleConfig": "temperature",
    "EvalConfig": "every",
    "LossConfig": "objective",
    "AdvantageConfig": "baseline",
    "AlarmConfig": "action",
    "JudgeConfig": "kind",
    "CritiqueConfig": "template",
    "PrmConfig": "loss",
    "OverlongConfig": "buffer",
    "ProcessesConfig": "count",
    "DataConfig": "tasks",
    "VoteConfig": "together",
    "StopConfig": "metric",
}
FILES = (".jsonl", ".json", ".parquet", ".csv", ".txt", ".arrow")


def keys(kind: type) -> list[str]:
    """Return the names of the keys of a config type."""
    return [item.name for item in dataclasses.fields(kind)]


def hint(word: str, known: Sequence[str]) -> str:
    """Return the end of a sentence about an unknown word: the nearest known one, or all of them."""
    near = difflib.get_close_matches(word.lower(), known, 1, 0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(sorted(set(known)))}"


def no_stage(item: Any, tags: Sequence[str]) -> str:
    """Return what is wrong with an item of `stages` that names no known type of stage."""
    tag = item.get("stage") if isinstance(item, dict) else item
    if isinstance(item, dict) and "stage" not in item:
        known = [key for key in item if key in tags]
        return f"the key `stage` is missing: write `- stage: {known[0] if known else 'NAME'}`"
    if not isinstance(tag, str):
        return f"`stage: {tag}` is not a stage; known: {', '.join(tags)}"
    if tag in PRESETS:
        return f"`{tag}` is a preset of an rl stage: write `- stage: rl`, and `preset: {tag}` in it"
    if tag in other_names.STAGES:
        return f"`stage: {tag}` is not a stage; here it is {other_names.STAGES[tag]!r}"
    return f"`stage: {tag}` is not a stage{hint(tag, tags)}"


def unknown_key(kind: type, word: str, dotted: str, known: Sequence[str] = ()) -> str:
    """Return the end of a sentence about a key that `kind` does not have.

    The key may be that of another library, or one of another section.  `dotted` is the whole key as
    it was given, of which `word` is the unknown part; `known` are the keys in the place of `word`.
    """
    known = known or [key for key in keys(kind) if key != "stage"]
    parts = dotted.split(".")
    for name in [".".join(parts[i:]) for i in range(len(parts))] + [word]:
        if name in other_names.NOTES:
            note = other_names.NOTES[name]
            stage = _stage_of(note)
            return f"; here{stage and f', in {stage}'}: {note.replace('`rl.', '`')}"
        if name in other_names.PATHS:
            path = f"`{other_names.PATHS[name]}`"
            stage = _stage_of(path)
            return f"; here it is {path.replace('`rl.', '`')}{stage and f' of {stage}'}"
    if difflib.get_close_matches(word, known, 1, 0.8):
        return hint(word, known)
    if inside := sorted(_inside(kind, word), key=lambda path: path.count(".")):
        return f"; it is a key of a section: write {' or '.join(inside[:3])}"
    stages = [x for x in typing.get_args(Stage) if word in keys(x)]
    if kind is Config and stages:
        first = RlStage if RlStage in stages else stages[0]
        return f"; it is a key of a stage: write it below `- stage: {first.stage}`"
    if word in keys(Config):
        return "; it is a key of the whole config: write it beside `stages`"
    return hint(word, known)


def _inside(kind: type, word: str, prefix: str = "") -> Iterator[str]:
    """Yield the dotted places in which sections of `kind` have a key of that name."""
    hints = typing.get_type_hints(kind)
    for key in keys(kind):
        if dataclasses.is_dataclass(hints[key]) and prefix.count(".") < 2:
            section = typing.cast(type, hints[key])
            if word in keys(section):
                yield f"{prefix}{key}.{word}"
            yield from _inside(section, word, f"{prefix}{key}.")


def _stage_of(text: str) -> str:
    """Return which stages have the keys of a stage that a note names; "" if it names none."""
    paths = [part for part in text.split("`")[1::2] if part.startswith("rl.")]
    everywhere = all(_has(SftStage, path.removeprefix("rl.")) for path in paths)
    return ("a stage" if everywhere else "an rl stage") if paths else ""


def _has(kind: Any, path: str) -> bool:
    """Return whether a config type has a dotted key."""
    for key in path.split("."):
        if not dataclasses.is_dataclass(kind) or key not in keys(typing.cast(type, kind)):
            return False
        kind = typing.get_type_hints(kind)[key]
    return True


def booleans(kind: type, tree: Mapping[str, Any], where: str) -> Iterator[str]:
    """Yield a sentence for each boolean in place of a number, and the other way round.

    pydantic would take true for 1, and `no` or 0 for false.
    """
    hints = typing.get_type_hints(kind)
    for key, value in tree.items():
        place, wanted = ".".join(filter(None, (where, str(key)))), hints.get(key)
        if isinstance(value, bool) and wanted in (int, float):
            yield f"{place}: input should be a number, not true or false"
        elif wanted is bool and not isinstance(value, bool):
            yield f"{place}: write true or false, not {value!r}"
        elif isinstance(value, dict) and dataclasses.is_dataclass(wanted):
            yield from booleans(typing.cast(type, wanted), value, place)
        elif isinstance(value, list | tuple) and len(typing.get_args(wanted)) == 2:
            part = typing.get_args(wanted)[0]
            for i, item in enumerate(value):
                if isinstance(item, dict) and dataclasses.is_dataclass(part):
                    yield from booleans(typing.cast(type, part), item, f"{place}.{i}")


def sentence(kind: Any, error: Any, where: str) -> str:
    """Write one pydantic error of `kind` as a sentence that starts with the place in the config."""
    place = [str(step) for step in error["loc"]]
    inner = ".".join(place)
    where = ".".join(filter(None, (where, *place))) or "config"
    problem, given = error["type"], error["input"]
    if problem == "unexpected_keyword_argument":
        for step in place[:-1]:  # a number is a place in a list
            kind = typing.get_args(kind)[0] if step.isdigit() else typing.get_type_hints(kind)[step]
        return f"{where}: unknown key {place[-1]!r}{unknown_key(kind, place[-1], inner)}"
    if problem == "dataclass_type" and given is not None:
        return f"{where}: {_section(error['ctx']['class_name'], place[-1], given)}"
    if problem == "tuple_type" and given is not None:
        return f"{where}: input should be a list{_list(place[-1], given)}"
    if given is None:
        return f"{where}: there is no value: give one, or leave the key out"
    message = error["msg"].removeprefix("Value error, ")
    shown = "" if problem == "value_error" else f", not {given!r}"
    return f"{where}: {message[0].lower() + message[1:]}{shown}{_way_out(place, error)}"


def _way_out(place: Sequence[str], error: Any) -> str:
    """Return the end of a sentence about a value of the wrong type: what to write instead."""
    given, problem = error["input"], error["type"]
    if problem == "string_type" and isinstance(given, int | float):
        return f': write it in quotes, "{given}"'
    if problem == "int_parsing" and _number(given) % 1 == 0:
        return f": write {_number(given):.0f}"
    if problem == "dict_type":
        return f": write `{place[-1]}: {{NAME: VALUE}}`"
    if problem == "literal_error" and isinstance(given, str):
        return _other_choice(given, re.findall("'([^']*)'", error["ctx"]["expected"]))
    unknown = error.get("ctx", {}).get("error")
    if isinstance(unknown, UnknownWordError):
        return f", not {unknown.value!r}{_other_choice(unknown.value, unknown.words)}"
    return ""


def _other_choice(given: str, known: Sequence[str]) -> str:
    """Return the end of a sentence about a word that is none of those known."""
    if given in PRESETS:
        return f"; {given} is a preset: write `preset: {given}` in the stage"
    if (other := other_names.VALUES.get(given)) in known:
        return f"; here it is {other!r}"
    near = difflib.get_close_matches(given.lower().replace("_", "-"), known, 1, 0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def _number(text: Any) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        return float("nan")


def _section(kind: str, key: str, given: Any) -> str:
    """Return what to write in place of a value where a section with keys is wanted."""
    value = given if isinstance(given, str | int | float) else "..."
    if kind == RewardConfig.__name__ and isinstance(given, str):
        sources = typing.get_args(typing.get_type_hints(RewardConfig)["source"])
        text = f"source: {given}" if given in sources else f"source: rule, rule: {given}"
        form = f"`{key}: {{{text}}}`"
    elif kind == "DataConfig" and Path(str(given)).suffix in FILES:
        form = f"`{key}: {{sources: [{{file: {value}}}]}}`"
    elif kind == "SourceConfig":
        form = f"`- {_source(value)}`"
    elif str(given) in PRESETS:
        form = f"`preset: {given}` in the stage"
    else:
        first = FIRST_KEYS.get(kind)
        value = "PATH" if first == "weights" and not isinstance(given, str) else value
        form = f"`{key}: {{{first}: {value}}}`" if first else f"`{key}: {{KEY: VALUE}}`"
    return f"input should be a section with keys, not {given!r}: write {form}"


def _source(value: Any) -> str:
    kind = "file" if Path(str(value)).suffix in FILES or "/" in str(value) else "gym"
    return f"{{{kind}: {value}}}"


def _list(key: str, given: Any) -> str:
    """Return the end of a sentence about a value where a list is wanted: how to write one."""
    if key == "stages":
        shown = "" if isinstance(given, dict) else f", not {given!r}"
        return f", in which each stage begins with `- stage: NAME`{shown}"
    if key == "sources" and isinstance(given, str):
        return f", not {given!r}: write `{key}: [{_source(given)}]`"
    if isinstance(given, dict):
        inner = ", ".join(f"{k}: {v}" for k, v in given.items())
        return f": write `{key}: [{{{inner}}}]`"
    return f", not {given!r}: write `{key}: [{given}]`"
