"""Configs are read from YAML files and the command line, and written as resolved configs.

A refused config raises ConfigError, whose message says what the user has to change.
"""

import dataclasses
import json
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from rlvr_jax.config import (
    Architecture,
    Config,
    ModelConfig,
    SftStage,
    SourceConfig,
    Stage,
    check_preset,
    count_steps,
    fill_preset,
)
from rlvr_jax.host import weights
from rlvr_jax.host.runs import config_sentences, hub_commits
from rlvr_jax.host.runs.config_sentences import keys, unknown_key
from rlvr_jax.host.runs.config_text import ConfigError, parse_yaml, read_config
from rlvr_jax.host.runs.rounds import expand_rounds
from rlvr_jax.host.weights import peft

STAGES = {kind.__dataclass_fields__["stage"].default: kind for kind in typing.get_args(Stage)}


# The weights of a model, as a config names them -> the fields of ModelConfig that they fix.
Sizes = Callable[[str], Mapping[str, Any]]


def load_sizes(name: str) -> Mapping[str, Any]:
    """Load the sizes of a pretrained model from its own files."""
    return weights.load_architecture(weights.find_model(name))


def load(path: Path, overrides: Sequence[str] = (), sizes: Sizes | None = load_sizes) -> Config:
    """Load the config in a YAML file and apply dotted overrides such as `seed=3`.

    The first word of an override may be the name of a stage: `rl.optim.lr=1e-4`.  `sizes` gives the
    sizes of pretrained models; without it they stay as the config has them, which is not true of
    such a model.  Presets are filled in.

    Raises:
      ConfigError: the file or an override cannot be used.
      ValueError: the files of a pretrained model cannot be used.
    """
    path = Path(path)
    text = read_config(path)
    try:
        tree = parse_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold a mapping of config keys, such as `name: demo`")
    return build(expand_rounds(tree), overrides, sizes)


def build(
    tree: dict[str, Any], overrides: Sequence[str] = (), sizes: Sizes | None = load_sizes
) -> Config:
    """Build a Config from a tree of values and dotted overrides; the tree is changed.

    Raises:
      ConfigError, ValueError: as `load`.
    """
    for override in overrides:
        _apply(tree, override)
    if sizes is not None:
        hub_commits.pin(tree)
        for part in ("model", "verifier", "grm"):
            _fill_sizes(tree, part, sizes)
    return parse(tree)


# Sections with the keys of `model`, and whose they are.
ALIKE = {"verifier": "the verifier", "grm": "the generative reward model"}


def _fill_sizes(tree: dict[str, Any], part: str, load: Sizes) -> None:
    """Add to a section of the config what the files say that it names: sizes, form of an adapter.

    Raises:
      ConfigError: the config contradicts a file.
    """
    given: Any = tree.get(part)
    if named := _weights_of(given):
        sizes = load(named)
        keys = dataclasses.fields(Architecture)
        _take(part, given, {key.name: sizes.get(key.name, key.default) for key in keys})
    adapter: Any = given.get("adapter") if isinstance(given, dict) else None
    if named := _weights_of(adapter):
        _take(f"{part}.adapter", adapter, peft.load_fields(Path(named).expanduser()))


def _weights_of(section: Any) -> str:
    named = section.get("weights") if isinstance(section, dict) else None
    return named if isinstance(named, str) else ""


def _take(where: str, given: dict[str, Any], found: dict[str, Any]) -> None:
    for key, value in found.items():
        value = list(value) if isinstance(value, tuple) else value  # as YAML has it
        if given.setdefault(key, value) != value:
            raise ConfigError(
                f"{where}.{key} is {given[key]} in the config and {value} in {given['weights']}: "
                "leave it out, sizes come from the weights"
            )


def parse(tree: dict[str, Any]) -> Config:
    """Build a Config from a tree of plain values; the key `stage` of a stage names its type.

    Presets are filled in.

    Raises:
      ConfigError: a key is unknown, or a value is refused; the message has a line for each.
    """
    tree = expand_home(dict(tree))
    if isinstance(tree.get("stages"), list):
        tree["stages"] = [_stage(item, f"stages.{i}") for i, item in enumerate(tree["stages"])]
    cfg = take_what_is_there(_validate(Config, tree, ""), tree)
    stages = tuple(count_steps(stage, cfg.data) for stage in cfg.stages)
    return dataclasses.replace(cfg, stages=stages)


def take_what_is_there(cfg: Config, tree: Mapping[str, Any]) -> Config:
    """Let splits whose counts the tree does not give have all that files have.

    A split that no stage reads is left empty.  Where a source is generated or of `tfds`, or has a
    weight of its own, the defaults stay.
    """
    given = tree.get("data")
    sources, given = cfg.data.sources, given if isinstance(given, dict) else {}
    if not sources or not all((x.file or x.hub) and x.weight == sources[0].weight for x in sources):
        return cfg
    of_policies = [stage for stage in cfg.stages if stage.role == "policy"]
    read = {problems.split for stage in of_policies for problems in stage.splits}
    mixed = any(isinstance(s, SftStage) and s.others == "problems" for s in cfg.stages)
    read |= {"test"} | ({"sft"} if mixed else set())
    counts: dict[str, Any] = {
        split: "all" if split in read else 0
        for split in ("sft", "label", "train", "test")
        if split not in given
    }
    return dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, **counts))


# Keys whose values may be paths, wherever in a config they stand.
PATHS = {
    *("file", "test_file", "folder", "runs", "tokenizer", "verifier_tokenizer", "weights"),
    *("rule", "gates", "also", "template", "check_templates", "cache"),
    *("policy", "init", "verifier", "grm"),  # RUN:STAGE
}


def expand_home(tree: Any, path: bool = False) -> Any:
    """Return a tree of values in which `~/` at the start of a path is the home folder.

    Where the tree stands in a path already, as do the items of a list of paths, `path` is true.
    """
    if isinstance(tree, dict):
        return {key: expand_home(value, path or key in PATHS) for key, value in tree.items()}
    if isinstance(tree, list):
        return [expand_home(value, path) for value in tree]
    named = path and isinstance(tree, str) and tree.startswith("~/")
    return str(Path(tree).expanduser()) if named else tree


def _stage(tree: Any, where: str) -> Any:
    tag = tree.get("stage") if isinstance(tree, dict) else tree
    if not isinstance(tag, str) or tag not in STAGES:
        raise ConfigError(f"{where}: {config_sentences.no_stage(tree, [*STAGES])}")
    if not isinstance(tree, dict):
        raise ConfigError(f"{where}: a stage is a mapping; write `- stage: {tag}`")
    where = f"{where} ({tree.get('name', tag)})"
    if tree.get("passes") and "passes" in keys(STAGES[tag]):
        tree = {"steps": 0} | tree  # the default is a number of steps
    return _validate(STAGES[tag], _fill_preset(STAGES[tag], tree, where), where)


def _fill_preset(kind: type, tree: dict[str, Any], where: str) -> dict[str, Any]:
    """Add the values of the preset that a stage names, for keys that the stage does not set."""
    name = tree.get("preset")
    if not isinstance(name, str) or not name or "preset" not in keys(kind):
        return tree
    try:
        check_preset(name)
    except ValueError as error:
        raise ConfigError(f"{where}.preset: {error}") from None
    return fill_preset(name, tree)


def _validate(kind: type, tree: dict[str, Any], where: str) -> Any:
    """Build a `kind` from a tree of values; `where` is its place in the config, "" for the root."""
    sentences = [*config_sentences.booleans(kind, tree, where)]
    cfg: Any = None
    try:
        cfg = TypeAdapter(kind).validate_python(tree)
    except ValidationError as error:
        sentences += [config_sentences.sentence(kind, item, where) for item in error.errors()]
    if sentences:
        raise ConfigError("\n".join(sentences))
    return cfg


def dump(cfg: Config) -> str:
    """Write a config as YAML with every key, from which `load` makes an equal Config."""
    return yaml.safe_dump(as_tree(cfg), sort_keys=False, width=100)


def as_tree(cfg: Config) -> dict[str, Any]:
    """Return a config as plain values, as YAML has them."""
    tree: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(cfg)))
    return tree


def facts(cfg: Config) -> dict[str, str]:
    """Return the values of a config by their dotted keys, without the number of the process."""
    same = dataclasses.replace(cfg, processes=dataclasses.replace(cfg.processes, index=0))
    return {key: str(value) for key, value in flatten(as_tree(same)).items()}


# Where a run computes and who hears of it, not what.
PLACE = ("mesh.", "processes.", "log", "runs", "name")


def difference(old: str, new: str) -> str | None:
    """Describe the first key in which two resolved configs differ; None if they are equal.

    A key that one config lacks counts as its default: an older version of this program did not
    know the key yet. The keys of PLACE may differ: they change no result.

    Raises:
      ConfigError: one of the texts is not YAML.
    """
    left, right = flatten(_completed(old)), flatten(_completed(new))
    for key in [*left, *right]:
        if key.startswith(PLACE):
            continue
        if left.get(key) != right.get(key):
            return f"{key} is {left.get(key, 'absent')} there and {right.get(key, 'absent')} here"
    before, now = _order(left), _order(right)
    return None if before == now else f"the stages are {before} there and {now} here"


def _completed(text: str) -> Any:
    """Parse a resolved config and add the default of each key that it does not have.

    A text that is no longer a valid config, because one of its keys is gone, stays as it is.
    """
    tree = parse_yaml(text)
    try:
        return parse_yaml(dump(parse(tree)))
    except (ValueError, TypeError):  # a TypeError where the text holds no mapping at all
        return tree


def describe() -> str:
    """List every config key with its default and its meaning, for `--help`."""
    lines: list[str] = []

    def walk(kind: type, prefix: str) -> None:
        hints = typing.get_type_hints(kind)
        for item in dataclasses.fields(kind):
            default = item.default
            if item.name in ALIKE and hints[item.name] is ModelConfig:
                lines.append(f"  {item.name + '.*':44} the keys of `model`, for {ALIKE[item.name]}")
            elif dataclasses.is_dataclass(hints[item.name]):
                walk(hints[item.name], f"{prefix}{item.name}.")
            elif "help" in item.metadata and item.name != "stages":
                shown = "" if default is dataclasses.MISSING else f" [{_plain(default)}]"
                words = _allowed(hints[item.name])
                told = f"one of {', '.join(words)}: {item.metadata['help']}" if words else ""
                told = told or item.metadata["help"]
                lines.append(f"  {prefix + item.name + shown:44} {told}")

    lines.append("run")
    walk(Config, "")
    lines.append(f"\na source of data.sources: {SourceConfig.__doc__}")
    walk(SourceConfig, "")
    for tag, kind in STAGES.items():
        lines.append(f"\nstage `{tag}`: {kind.__doc__.splitlines()[0]}")
        walk(kind, "")
    return "\n".join(lines)


def _allowed(hint: Any) -> list[str]:
    """Return the words that a field may hold, where only some are allowed."""
    if typing.get_origin(hint) is typing.Literal:
        return [str(word) for word in typing.get_args(hint)]
    return [word for part in typing.get_args(hint) for word in _allowed(part)]


def _plain(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _apply(tree: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"override {override!r} is not of the form key=value, e.g. rl.steps=20")
    try:
        value = parse_yaml(text)
    except ValueError:
        raise ConfigError(f"the value of override {override!r} is not valid YAML") from None
    node, rest = _root(tree, dotted)
    for key in rest[:-1]:
        node = node.setdefault(key, {})
        if not isinstance(node, dict):
            raise ConfigError(f"{dotted}: {key} holds a value, not further keys")
    if not rest:
        raise ConfigError(f"{dotted}: name a key of the stage, e.g. {dotted}.steps=20")
    node[rest[-1]] = value


def _root(tree: dict[str, Any], dotted: str) -> tuple[dict[str, Any], list[str]]:
    """Return the mapping in which a dotted key starts, and the keys that lead on from there.

    The mapping is that of a stage, by its name, or the whole config.  `verifier` is a config key
    and may be the name of a stage too: it means the stage where the stage has the next key.
    """
    first, *rest = dotted.split(".")
    stages: Any = tree.get("stages")
    stages = stages if isinstance(stages, list) else []
    mappings = [s for s in stages if isinstance(s, dict)]
    named = {str(s.get("name") or s.get("stage") or ""): s for s in mappings}
    stage = named.get(first)
    if first in keys(Config):
        if stage and rest and rest[0] in keys(STAGES.get(str(stage.get("stage")), Config)):
            return stage, rest
        return tree, [first, *rest]
    if stage is not None:
        return stage, rest
    known = [*keys(Config), *(name for name in named if name)]
    raise ConfigError(f"{dotted}: unknown key {first!r}{unknown_key(Config, first, dotted, known)}")


def _order(flat: dict[str, Any]) -> str:
    """Return the names of the stages of a flattened config, in their order."""
    names = (key for key in flat if key.startswith("stages.") and key.endswith(".name"))
    return ", ".join(str(flat[key]) for key in names)


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values of a tree by their dotted keys; a stage's key is its name."""
    items: Any
    if isinstance(tree, dict):
        items = tree.items()
    elif isinstance(tree, list) and any(isinstance(x, dict) for x in tree):
        items = ((str(x.get("name", i)), x) for i, x in enumerate(tree))
    else:
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in items:
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
