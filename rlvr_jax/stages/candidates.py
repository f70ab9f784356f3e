"""A candidate is a model that is evaluated outside of its run: policy, verifier, and their config.

    open_candidate(Asked(...))  ->  Candidate: workspace, parameters, problems

The config is made of what the model's files or its run say.  Nothing is written to a run folder.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from rlvr_jax import parameters, sharding
from rlvr_jax.config import (
    Config,
    DataConfig,
    EvaluateStage,
    ModelConfig,
    SourceConfig,
    stage_of,
)
from rlvr_jax.host import rules, weights
from rlvr_jax.host.problems import dataset
from rlvr_jax.host.problems.sources import named
from rlvr_jax.host.runs import settings
from rlvr_jax.host.runs.config_text import parse_yaml
from rlvr_jax.host.runs.paths import tokenizer_path
from rlvr_jax.host.text.tokenizer import open_tokenizer
from rlvr_jax.host.text.verifier_prompt import VerifierPrompt
from rlvr_jax.stages.model_of_run import ModelOfRun, Reader, find_model_of_run
from rlvr_jax.stages.models import PRETRAINED, Models
from rlvr_jax.stages.workspace import Workspace
from rlvr_jax.structs import Params

BUCKET = 64  # columns are a multiple of this, so that evaluations share compiled programs
WIDE = 1 << 20  # columns while the width of the problems is not known yet
NOWHERE = Path("no-run")
ASKING = ("check_templates", "verdict_words", "answer", "check_question", "tail_columns")


class Asked(NamedTuple):
    """Asked is what a command line asks for; empty texts mean what the model's run says."""

    model: str  # folder, GGUF file, package:NAME, RUN or RUN:STAGE; empty: an endpoint answers
    data: tuple[str, ...]
    problems: int  # largest number of each source; 0: all
    verifier: str
    tokenizer: str  # of the model; empty: its own
    verifier_tokenizer: str
    system: str  # message that begins chats; of an endpoint it is not needed here
    raw: bool  # prompts without the chat template
    stage: dict[str, Any]  # keys of the stage `evaluate`
    tokens: int  # budget of an answer; 0: that of the run
    overrides: tuple[str, ...]


class Candidate(NamedTuple):
    """A Candidate is ready to answer problems."""

    ws: Workspace
    stage: EvaluateStage
    params: Params  # empty where an endpoint answers
    judge: Params | None  # the verifier
    problems: dataset.RandomAccessSource


class _Opened(NamedTuple):
    """_Opened is a model with the tree of config values that it brings."""

    tree: dict[str, Any]
    run: ModelOfRun | None
    left: str


def open_candidate(asked: Asked) -> Candidate:
    """Read the problems, and load the models onto all devices of this machine.

    Raises:
      ValueError, RunError, CheckpointError or OSError: a model, the problems, the rule or a value
        cannot be used; the message says what to change.
    """
    opened = _open_model(asked)
    _check_prm(asked.stage["prm"], opened.run)
    judge = _open_verifier(asked) if asked.verifier else None
    tree = _tree(asked, opened, judge)
    cfg = settings.build(tree, asked.overrides)
    stage = cfg.evaluations[0]
    if stage.rule:
        rules.check_rule(stage.rule)
    cfg = _with_mesh(cfg, bool(asked.model))
    mesh = sharding.make_mesh(cfg.mesh)
    records = _read_problems(asked, opened.run, cfg)
    with jax.set_mesh(mesh):
        wide = _workspace(_with_columns(cfg, WIDE, WIDE), mesh, opened, judge)
        cfg = _fit_columns(cfg, wide, records)
        ws = _workspace(cfg, mesh, opened, judge)
        problems = ws.fitting(records, "test")
        params = ws.load(stage.policy, cfg.model) if asked.model else {}
        return Candidate(ws, stage, params, _load_verifier(cfg, mesh, judge), problems)


def _open_model(asked: Asked) -> _Opened:
    """Find the policy, and return the config values that its run or its files give."""
    if not asked.model:  # the sizes and the tokenizer of a model that nobody asks
        return _Opened({"tokenizer": "byte", "model": {"vocab": 512}, "data": {}}, None, PRETRAINED)
    if trained := find_model_of_run(asked.model):
        tree = settings.as_tree(trained.cfg)
        tree["tokenizer"] = str(asked.tokenizer or _tokenizer_of(trained))
        return _Opened(tree, trained, trained.left)
    path = weights.find_model(asked.model)
    tok = open_tokenizer(asked.tokenizer or path)
    return _Opened(
        {
            "model": {"weights": str(path), **_on_this_machine()},
            "tokenizer": str(asked.tokenizer or path),
            "data": {"chat": tok.has_chat and not asked.raw},
        },
        None,
        PRETRAINED,
    )


def _open_verifier(asked: Asked) -> _Opened:
    """Find a verifier, and return its section of the config, its tokenizer and how it is asked."""
    tok = asked.verifier_tokenizer
    if trained := find_model_of_run(asked.verifier, "verifier"):
        cfg = trained.cfg
        tok = tok or cfg.verifier_tokenizer or str(_tokenizer_of(trained))
        data = {key: getattr(cfg.data, key) for key in ASKING}
        model = settings.as_tree(cfg)["verifier"]
        return _Opened({"verifier": model, "tokenizer": tok, "data": data}, trained, trained.left)
    path = weights.find_model(asked.verifier)
    model = {"weights": str(path), **_on_this_machine()}
    return _Opened({"verifier": model, "tokenizer": tok or str(path), "data": {}}, None, PRETRAINED)


def _check_prm(name: str, run: ModelOfRun | None) -> None:
    """Refuse a PRM that is not one of the run whose policy answers.

    Raises:
      ValueError: the run has no such stage, or it leaves no PRM.
    """
    known = [s.name for s in run.cfg.stages if "prm" in s.leaves] if run else []
    if name and stage_of(name) not in known:
        told = f"its run has {', '.join(known)}" if known else "nor does another stage of --model"
        raise ValueError(f"--prm names the stage {name!r}, which leaves no PRM: {told}")


def _tokenizer_of(trained: ModelOfRun) -> str | Path:
    return tokenizer_path(trained.cfg, trained.folder)


def _on_this_machine() -> dict[str, str]:
    """Return the dtypes of a model that is only read: float32 on CPU, else bfloat16."""
    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return {"compute": dtype, "frozen_dtype": dtype}


def _tree(asked: Asked, opened: _Opened, judge: _Opened | None) -> dict[str, Any]:
    """Return the config values of an evaluation."""
    own = opened.run
    stage = {"stage": "evaluate", "policy": opened.left, "verifier": judge.left if judge else ""}
    stage |= asked.stage
    if own and not stage.get("rule"):
        of_run = [x for x in own.cfg.evaluations if x.rule]
        stage["rule"] = of_run[-1].rule if of_run else ""
    data = {**opened.tree.get("data", {}), "tasks": [], "sources": [], "preferences": {}}
    data |= {"demonstration_errors": 0.0, "sft": 0, "label": 0, "train": 0}
    data |= {"response_columns": asked.tokens} if asked.tokens else {}
    data |= {"system": asked.system} if asked.system and asked.model else {}
    tree = {**opened.tree, "name": "evaluation", "log": [], "stages": [stage]}
    tree |= {"verifier_tokenizer": "", "verifier": {}, "mesh": {}, "processes": {}}
    if judge:
        data |= judge.tree["data"]
        tree |= {"verifier": judge.tree["verifier"], "verifier_tokenizer": judge.tree["tokenizer"]}
    return tree | {"data": data}


def _with_mesh(cfg: Config, read: bool) -> Config:
    """Return the config with a mesh of all devices, where the config names none.

    Parameters are split over the devices if their sizes allow it, and else each has a copy.
    """
    count = len(jax.devices())
    if cfg.mesh == type(cfg.mesh)():
        split = dataclasses.replace(cfg.mesh, fsdp=count)
        try:
            _check_sizes(dataclasses.replace(cfg, mesh=split), read)
        except ValueError:
            split = dataclasses.replace(cfg.mesh, data=count)
        cfg = dataclasses.replace(cfg, mesh=split)
    _check_sizes(cfg, read)
    return cfg


def _check_sizes(cfg: Config, read: bool) -> None:
    models = {"model": cfg.model} if read else {}
    models |= {"verifier": cfg.verifier} if cfg.uses_verifier else {}
    for name, part in models.items():
        sharding.check_divides(part.sizes, parameters.names(part), cfg.mesh, name)
        sharding.check_decode_view(part.sizes, part.decode_tensor, cfg.mesh, name)


def _read_problems(asked: Asked, run: ModelOfRun | None, cfg: Config) -> list[dataset.Record]:
    """Read the problems that the command names, or the held-out ones of the run."""
    if not asked.data:
        if run is None:
            raise ValueError("--data is missing: name the problems, as in --data test.jsonl")
        found = list(dataset.each(dataset.open_split(run.folder / "data", "test")))
        return found[: asked.problems or None]
    parts = []
    for name in asked.data:
        if name.endswith((".yaml", ".yml")):
            of_config = settings.load(Path(name), sizes=None)
            part = named.build_held_out(of_config.data, of_config.seed)
            parts.append(part[: asked.problems or None])
        else:
            parts.append(named.read_named(name, asked.problems, cfg.seed, _parse_source))
    return named.distinct(parts)


def _parse_source(text: str) -> SourceConfig:
    """Parse the keys of a source.

    Raises:
      ValueError: they are no valid YAML, or no keys of a source.
    """
    tree = {"data": {"sources": [parse_yaml(text)]}, "stages": [{"stage": "tokenizer"}]}
    return settings.parse(tree).data.sources[0]


def _with_columns(cfg: Config, prompt: int, check: int) -> Config:
    data = dataclasses.replace(cfg.data, prompt_columns=prompt, check_columns=check)
    return dataclasses.replace(cfg, data=data)


def _fit_columns(cfg: Config, wide: Workspace, records: list[dataset.Record]) -> Config:
    """Return the config with columns that hold the problems, as far as the model was made for it.

    Raises:
      ValueError: the budget of an answer leaves no room for a prompt.
    """
    needed = [wide.lengths(record, "test") for record in records]
    columns = {
        key: -(-max(n[key] for n in needed) // BUCKET) * BUCKET for key in ("prompt", "check")
    }
    longest, budget = cfg.model.longest, cfg.data.response_columns
    if longest and columns["prompt"] + budget > longest:
        columns["prompt"] = longest - budget
    if columns["prompt"] < 1:
        raise ValueError(
            f"answers of {budget} tokens leave no room for a prompt, and the model was made for "
            f"{longest}: lower --tokens"
        )
    return _with_columns(cfg, columns["prompt"], max(columns["check"], 1))


def _workspace(cfg: Config, mesh: Mesh, opened: _Opened, judge: _Opened | None) -> Workspace:
    """Make the workspace of a policy, and ask a verifier of a run as that run asks it."""
    folder = opened.run.folder if opened.run else NOWHERE
    ws = Workspace(Reader(folder, cfg), mesh, _models(cfg, mesh, opened))
    if judge and judge.run:
        of_run: DataConfig = judge.run.cfg.data
        if judge.run.cfg.verifier_tokenizer:  # then it has its own chat template
            return ws
        data = dataclasses.replace(cfg.data, chat=of_run.chat, system=of_run.system)
        data = dataclasses.replace(data, chat_variables=of_run.chat_variables)
        ws.verifier_prompt = VerifierPrompt(ws.judge_tokenizer, data)
    return ws


def _models(cfg: Config, mesh: Mesh, opened: _Opened) -> Models:
    """Return the models of the run of a policy or verifier, on the mesh of this evaluation."""
    if opened.run is None:
        return Models(Reader(NOWHERE, cfg), mesh)
    of_run = dataclasses.replace(opened.run.cfg, mesh=cfg.mesh)
    return Models(Reader(opened.run.folder, of_run), mesh)


def _load_verifier(cfg: Config, mesh: Mesh, judge: _Opened | None) -> Params | None:
    if judge is None:
        return None
    of_verifier: ModelConfig = cfg.verifier
    return _models(cfg, mesh, judge).load(judge.left, of_verifier)
