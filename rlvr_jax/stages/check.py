"""This module checks a whole config before any work: data, sizes, and the inputs of each stage.

Each type of stage declares its needs as data (rlvr_jax/config/needs.py); the functions here compare
those needs with the config and with what earlier stages leave behind.
"""

import dataclasses
import difflib
from collections.abc import Iterable

from rlvr_jax import parameters, sharding
from rlvr_jax.config import (
    BEST,
    AdapterConfig,
    Config,
    DataConfig,
    Input,
    Left,
    ModelConfig,
    Part,
    Product,
    RlStage,
    ScalarStage,
    SftStage,
    Stage,
    VoteStage,
    parse_left,
)
from rlvr_jax.host import rules
from rlvr_jax.host.critiques.template import load_template
from rlvr_jax.host.problems import sources, tasks
from rlvr_jax.host.runs.sinks import check_sinks
from rlvr_jax.host.text.wording import load_wording
from rlvr_jax.host.workers import sandbox
from rlvr_jax.stages import own_formulas
from rlvr_jax.stages.judges import check_judge
from rlvr_jax.stages.learned import check_held_out
from rlvr_jax.stages.models import origin
from rlvr_jax.stages.other_runs import check_other_run

# The name of each product in a sentence, and the stages that leave it behind.
LEFT_BY: dict[Product, tuple[str, str]] = {
    "model": ("model", "an sft, verifier, rl or prm stage"),
    "prm": ("PRM", "a prm stage, or an rl stage with advantage.process_weight"),
    "answers": ("answers", "a label stage, or an rl stage with collect above 0"),
    "verdicts": ("verdicts", "a label stage"),
    "tokenizer": ("tokenizer", "a tokenizer stage"),
    "judgements": ("judgements", "an rft stage"),
    "meta": ("meta RM", "a meta stage"),
    "scalar": ("scalar reward model", "a scalar stage"),
    "items": ("preference items", "a compare stage"),
}


# The model of the config as which a product is read.
READ_AS: dict[Product, Part] = {"model": "model", "prm": "model", "meta": "grm", "scalar": "grm"}


def check_config(cfg: Config) -> None:
    """Refuse a config that cannot run.

    Raises:
      ValueError: the message says what to change.
    """
    check_sinks(cfg.log)
    _check_data(cfg)
    earlier: list[Stage] = []
    for stage in cfg.stages:
        for judge in stage.judges:
            check_judge(judge)
        _check_tokenizer(cfg, stage)
        _check_problems(cfg, stage)
        check_held_out(cfg, stage)
        for needed in stage.inputs:
            if needed.source:
                _check_input(cfg, stage, needed, earlier)
        _check_baseline(cfg, stage)
        own_formulas.check_files(stage)
        _check_adapter(cfg, stage)
        for rule in filter(None, stage.rules):
            rules.check_rule(rule)
        _check_walls(stage)
        earlier.append(stage)
    models = {"model": cfg.model} | ({"verifier": cfg.verifier} if cfg.uses_verifier else {})
    models |= {"grm": cfg.grm} if cfg.uses_grm else {}
    for name, part in models.items():
        sharding.check_divides(part.sizes, parameters.names(part), cfg.mesh, name)
        sharding.check_decode_view(part.sizes, part.decode_tensor, cfg.mesh, name)
        _check_context(cfg, name, part)
        _check_use(cfg, name, part.adapter)
        _check_frozen(cfg, name, part)
    _check_budget(cfg)
    for stage in cfg.stages:
        _check_rows(cfg, stage)
        check_columns(cfg, stage)


def missing_walls(stages: Iterable[Stage]) -> list[str]:
    """Return the walls that are missing around programs which a rule of these stages runs."""
    if not any("code" in stage.rules for stage in stages):
        return []
    return [wall for wall in sandbox.WALLS if wall not in sandbox.walls()]


def _check_walls(stage: Stage) -> None:
    missing = missing_walls([stage])
    if missing and isinstance(stage, RlStage) and stage.reward.require_walls:
        raise ValueError(
            f"stages.{stage.name}.reward.require_walls is set, and the sandbox has no wall for "
            f"{' and '.join(missing)} here; run as root on Linux, or leave require_walls out"
        )


def _check_data(cfg: Config) -> None:
    # A tokenizer is trained on the texts of whatever data there are.
    policies = [
        s
        for s in cfg.stages
        if s.role == "policy"
        and s.problems
        and "tokenizer" not in s.leaves
        or isinstance(s, SftStage)
        and s.others == "problems"
    ]
    for key, data, used in (
        ("data", cfg.data, bool(policies) or not cfg.uses_grm),
        ("critique.data", cfg.critique.data, cfg.reads_items),
    ):
        if used and not (data.tasks or data.sources):
            raise ValueError(f"the config names no problems: give {key}.tasks or {key}.sources")
        for task in data.tasks:
            tasks.check_task(task)
        for source in data.sources:
            sources.check_source(source)
    if cfg.uses_grm:
        load_template(cfg.critique.template, cfg.critique.form)
    if cfg.uses_verifier:
        for name in cfg.data.check_templates:
            load_wording(name)


def _check_tokenizer(cfg: Config, stage: Stage) -> None:
    """Refuse to train a tokenizer in a run that already has one."""
    if "tokenizer" in stage.leaves and (cfg.tokenizer or cfg.model.weights or cfg.grm.weights):
        raise ValueError(
            f"nobody would read what stage {stage.name} trains: leave it out, tokenizer or "
            "model.weights brings one"
        )


def _check_problems(cfg: Config, stage: Stage) -> None:
    """Refuse a stage whose split has fewer problems than the stage needs."""
    key, data = _data_of(cfg, stage)
    for split, at_least in stage.splits:
        available = getattr(data, split)
        if available != "all" and available < at_least:
            raise ValueError(
                f"stage {stage.name} needs at least {at_least} problems and {key}.{split} is "
                f"{available}: raise {key}.{split}"
            )


def _data_of(cfg: Config, stage: Stage) -> tuple[str, DataConfig]:
    """Return the data that a stage works on, with the config key of that data."""
    if stage.role == "grm":
        return "critique.data", cfg.critique.data
    return "data", cfg.data


def _check_input(cfg: Config, stage: Stage, needed: Input, earlier: list[Stage]) -> None:
    """Refuse a stage that reads what no earlier stage leaves behind."""
    if needed.fresh and needed.source == "fresh":
        return
    key = f"{stage.name}.{needed.key}"
    if needed.pretrained and needed.source == "pretrained":
        if not getattr(cfg, needed.pretrained).weights:
            raise ValueError(
                f"{key} is `pretrained` and {needed.pretrained}.weights is empty: name a model "
                "folder or a GGUF file there"
            )
        return
    left = parse_left(needed.source)
    if left.run:
        check_other_run(cfg, key, needed, READ_AS.get(needed.product))
        return
    noun, who = LEFT_BY[needed.product]
    otherwise = ", or leave it empty" if needed.optional else ""
    leaves = {other.name: other.leaves for other in cfg.stages}
    name = left.stage
    if name not in leaves:
        if needed.key == name == "verifier":  # the default of the key
            raise ValueError(cfg.missing_verifier)
        near = difflib.get_close_matches(name, leaves, 1, 0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"{key} names the stage {needed.source!r}, and no stage has that name{hint}: name "
            f"{who} and list it before{otherwise}"
        )
    if left.step:
        _check_step(cfg, key, left, needed.product)
    if needed.product not in leaves[name]:
        raise ValueError(
            f"{key} names the stage {needed.source!r}, which leaves no {noun}: name {who}"
            f"{otherwise}"
        )
    if name not in [other.name for other in earlier]:
        raise ValueError(
            f"{key} names the stage {needed.source!r}, which leaves no {noun} by then, because it "
            f"would not have been run: list it before{otherwise}"
        )


def _check_step(cfg: Config, key: str, left: Left, product: Product) -> None:
    """Refuse the name of a step that no checkpoint will be kept of."""
    stage = next(stage for stage in cfg.stages if stage.name == left.stage)
    steps = getattr(stage, "steps", 0) if product in ("model", "prm") else 0
    if left.step == BEST and not (stage.keep_best and steps):
        raise ValueError(
            f"{key} names the best step of stage {left.stage!r}, which keeps none: set "
            f"{left.stage}.keep_best, or leave out `@{BEST}`"
        )
    if left.step != BEST and not 0 < int(left.step) <= steps:
        raise ValueError(
            f"{key} names step {left.step} of stage {left.stage!r}, which has {steps} steps"
        )


def _check_baseline(cfg: Config, stage: Stage) -> None:
    """Refuse baselines of a GRM that do not fit the form of its judgements, or one another."""
    form = cfg.critique.form
    if isinstance(stage, ScalarStage) and stage.critiques:
        if form == "pick":
            raise ValueError(
                f"{stage.name}.critiques needs judgements of one response, and critique.form is "
                "pick: set it to scores, or leave critiques out"
            )
        if cfg.critique.principles == "from_query":
            raise ValueError(
                f"{stage.name}.critiques are written without criteria from the query, and "
                "critique.principles is from_query: take another value, or leave critiques out"
            )
    if not isinstance(stage, VoteStage):
        return
    if stage.weighted and form != "pick":
        raise ValueError(
            f"{stage.name}.weighted is for verdicts, and critique.form is {form}: set it to pick, "
            "or leave weighted out"
        )
    for other in cfg.stages:
        alone = isinstance(other, ScalarStage) and not other.critiques
        if alone and other.name == stage.scalar and stage.votes != (1,):
            raise ValueError(
                f"{stage.name}.votes is {list(stage.votes)}, and a scalar reward model without "
                "critiques gives a response one value: set votes to [1]"
            )


def _check_adapter(cfg: Config, stage: Stage) -> None:
    """Refuse a stage whose adapter has no base, and inputs whose adapters do not suit."""
    own: ModelConfig = getattr(cfg, stage.trains or "model")
    learns = bool(stage.trains) and own.adapter.rank > 0
    if learns and isinstance(stage, RlStage) and stage.reference.mixup != 1:
        raise ValueError(
            f"{stage.name}.reference.mixup mixes weights, and the matrices of an adapter do not "
            "mix: set it to 1"
        )
    for needed in stage.inputs:
        part = needed.pretrained or READ_AS.get(needed.product)
        if not needed.source or part is None:
            continue
        if needed.source == "fresh":
            if learns:
                raise ValueError(
                    f"{stage.name}.{needed.key} is `fresh` and {stage.trains}.adapter.rank is "
                    f"{own.adapter.rank}: random weights below an adapter never learn; name "
                    "trained ones, or set the rank to 0"
                )
            continue
        _check_form(cfg, stage, needed, part)
        if learns and needed.key == "prm.init":
            policy = next(x.source for x in stage.inputs if x.key == "policy")
            if origin(cfg, needed.source, own)[:2] != origin(cfg, policy, own)[:2]:
                raise ValueError(
                    f"{stage.name}.prm.init {needed.source!r} lies on another base than the "
                    f"policy {policy!r}: both adapters need one base"
                )


def _check_form(cfg: Config, stage: Stage, needed: Input, part: Part) -> None:
    """Refuse an input whose adapter is not of the form of its reader's adapter."""
    form: AdapterConfig = getattr(cfg, part).adapter
    left = origin(cfg, needed.source, getattr(cfg, part))
    if left.adapter and form.rank and _differ(left.form, form):
        raise ValueError(
            f"{stage.name}.{needed.key} names {needed.source!r}, whose adapter has another rank, "
            f"scale or targets than {part}.adapter: make the two equal, or set the second rank to "
            "0 to start from merged weights"
        )


def _check_use(cfg: Config, name: str, form: AdapterConfig) -> None:
    """Refuse an adapter that no stage would train or read."""
    inputs = [needed for stage in cfg.stages for needed in stage.inputs]
    starts = any(x.source == "pretrained" and x.pretrained == name for x in inputs)
    if form.weights and not form.rank:
        raise ValueError(f"{name}.adapter.weights names an adapter, and rank is 0: leave it out")
    if form.weights and not starts:
        raise ValueError(
            f"nobody would read {name}.adapter.weights: let a stage start from `pretrained`, or "
            "leave it out"
        )
    if form.rank and not form.weights and not any(stage.trains == name for stage in cfg.stages):
        raise ValueError(
            f"{name}.adapter.rank is {form.rank} and no stage trains that model: leave it out, or "
            f"name a trained adapter by {name}.adapter.weights"
        )


def _check_frozen(cfg: Config, name: str, part: ModelConfig) -> None:
    """Refuse int8 for a model all of whose weights learn."""
    learns = any(stage.trains == name for stage in cfg.stages)
    if part.frozen_dtype == "int8" and learns and not part.adapter.rank:
        raise ValueError(
            f"{name}.frozen_dtype is int8 and all weights of {name} learn: set "
            f"{name}.adapter.rank above 0, or {name}.frozen_dtype to bfloat16"
        )


def _differ(one: AdapterConfig, other: AdapterConfig) -> bool:
    return dataclasses.replace(one, weights="") != dataclasses.replace(other, weights="")


def _check_context(cfg: Config, name: str, part: ModelConfig) -> None:
    """Refuse rows that are longer than a pretrained model was made for."""
    first = "check_columns" if name == "verifier" else "prompt_columns"
    key, data = ("critique.data", cfg.critique.data) if name == "grm" else ("data", cfg.data)
    longest = getattr(data, first) + data.response_columns
    more = f"set {name}.long_rows, or " if part.longest < part.context else ""
    if part.longest and longest > part.longest:
        raise ValueError(
            f"{key}.{first} + {key}.response_columns is {longest} and {name} was made for "
            f"{part.longest}: {more}lower them"
        )


def _check_budget(cfg: Config) -> None:
    """Refuse a length penalty that begins before the response does."""
    for stage in cfg.rl_stages:
        key, data = _data_of(cfg, stage)
        if stage.overlong.buffer > data.response_columns:
            raise ValueError(
                f"{stage.name}.overlong.buffer is {stage.overlong.buffer}, more than "
                f"{key}.response_columns {data.response_columns}: lower it"
            )


def _check_rows(cfg: Config, stage: Stage) -> None:
    """Refuse a batch whose rows cannot be split evenly over the mesh."""
    if stage.rows is not None and stage.rows.number % cfg.mesh.row_shards:
        raise ValueError(
            f"{stage.name}.{stage.rows.key} is {stage.rows.number}, not a multiple of "
            f"{cfg.mesh.product('data', 'fsdp', 'context')}"
        )


def check_columns(cfg: Config, stage: Stage) -> None:
    """Refuse widths of columns that devices cannot share evenly.

    Raises:
      ValueError: the message says what to change.
    """
    key, data = _data_of(cfg, stage)
    checked = ("check_columns",) if cfg.uses_verifier else ()
    for name in ("prompt_columns", "response_columns", *checked):
        if getattr(data, name) % cfg.mesh.context:
            raise ValueError(
                f"{key}.{name} is {getattr(data, name)}, not a multiple of mesh.context = "
                f"{cfg.mesh.context}: change one of them"
            )
