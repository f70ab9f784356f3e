"""The check of a whole config: each need that is not met is refused with a sentence."""

import dataclasses
import typing

import pytest

from rlvr_jax import config
from rlvr_jax.config import (
    AdvantageConfig,
    Config,
    CritiqueConfig,
    DataConfig,
    EvaluateStage,
    FilterConfig,
    JudgeConfig,
    LabelStage,
    MeshConfig,
    ModelConfig,
    OverlongConfig,
    PrmConfig,
    PrmStage,
    RewardConfig,
    RlStage,
    SftStage,
    TokenizerStage,
    VerifierStage,
)
from rlvr_jax.stages import check
from rlvr_jax.stages.check import check_config

RULED = RewardConfig(source="rule")
EIGHT = MeshConfig(data=2, fsdp=4)
DENSE = AdvantageConfig(process_weight=1.0)
ASKED = EvaluateStage(policy="sft", verifier="")
ITEMS = CritiqueConfig(data=DataConfig(tasks=("sum",)))


def with_stages(*stages, **changes) -> Config:
    data = DataConfig(tasks=("sum",))
    own = {"stages": stages, "data": data, "critique": CritiqueConfig(data=data)}
    return Config(**own | changes)


@pytest.fixture(autouse=True)
def tasks(monkeypatch):
    """The tasks' own package need not be installed."""
    monkeypatch.setattr(check.tasks, "check_task", lambda name: None)


def test_all_stages_with_their_defaults_are_accepted():
    collecting = RlStage(collect=0.5, split="label")
    kinds = [kind() for kind in typing.get_args(config.Stage)]
    stages = [collecting if stage.name == "rl" else stage for stage in kinds]  # for `compare`
    check_config(with_stages(*stages, critique=ITEMS))
    stages = SftStage(), LabelStage(), VerifierStage(), collecting
    again = LabelStage(name="again", answers="rl")
    third = LabelStage(name="third", answers="again")
    check_config(with_stages(*stages, again, third, config.CompareStage()))


def test_every_product_can_be_named_in_a_sentence():
    assert set(check.LEFT_BY) == set(typing.get_args(config.Product))
    for kind in typing.get_args(config.Stage):
        assert kind().leaves <= set(check.LEFT_BY)


@pytest.mark.parametrize("kind", typing.get_args(config.Stage))
def test_what_a_stage_declares_are_keys_of_the_config(kind):
    stage = kind()
    for needed in stage.inputs:
        value = stage
        for part in needed.key.split("."):
            assert part in [item.name for item in dataclasses.fields(value)]
            value = getattr(value, part)
        assert needed.source in (value if isinstance(value, tuple) else (value,))
    if stage.problems is not None:
        assert stage.problems.split in ("sft", "label", "train", "test")


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ([ASKED], "evaluate.policy names the stage 'sft', and no stage has that name"),
        ([ASKED, SftStage()], "list it before"),
        ([SftStage(init="later")], "sft.init names the stage 'later'"),
        ([SftStage(), RlStage(reward=RULED, policy="fresh")], "rl.policy names the stage 'fresh'"),
        ([SftStage(), RlStage()], "no such stage: write `reward: {source: rule}`"),
        ([SftStage(), VerifierStage()], "verifier.verdicts names the stage 'label'"),
        (
            [SftStage(), VerifierStage(verdicts="sft")],
            "verifier.verdicts names the stage 'sft', which leaves no verdicts: name a label stage",
        ),
        (
            [SftStage(), VerifierStage(verdicts="pretrained")],
            "verifier.verdicts names the stage 'pretrained'",
        ),
        (
            [TokenizerStage(), EvaluateStage(policy="tokenizer", verifier="")],
            "evaluate.policy names the stage 'tokenizer', which leaves no model: name an sft, "
            "verifier, rl or prm stage",
        ),
        (
            [SftStage(), EvaluateStage(policy="sft")],
            "write `verifier: ''` to measure without one",
        ),
        ([SftStage(), RlStage(reward=RULED, prm=PrmConfig(init="x"))], "rl.prm.init names"),
        (
            [SftStage(), LabelStage(answers="sft")],
            "label.answers names the stage 'sft', which leaves no answers: name a label stage, or "
            "an rl stage with collect above 0, or leave it empty",
        ),
        ([SftStage(), LabelStage(answers="rl"), RlStage()], "label.answers names the stage 'rl'"),
        (
            [SftStage(), RlStage(reward=RULED), LabelStage(answers="rl")],
            "leaves no answers: name a label stage, or an rl stage with collect above 0",
        ),
        ([SftStage(init="pretrained")], "`pretrained` and model.weights is empty"),
        (
            [SftStage(), RlStage(verifier="pretrained")],
            "rl.verifier is `pretrained` and verifier.weights is empty",
        ),
        (
            [SftStage(), LabelStage(), VerifierStage(init="pretrained")],
            "verifier.init is `pretrained` and verifier.weights is empty",
        ),
        ([SftStage(batch=5000)], "stage sft needs at least 5000 problems and data.sft is 4096"),
        (
            [SftStage(), PrmStage(reward=RULED, prompts=4000)],
            "stage prm needs at least 4000 problems and data.label is 2048: raise data.label",
        ),
        ([SftStage(), RlStage(reward=RewardConfig(source="rule", rule="mtah"))], "mtah"),
        ([SftStage(), RlStage(reward=RewardConfig(source="rule", gates=("frmat",)))], "frmat"),
        (
            [
                SftStage(),
                RlStage(
                    reward=RULED, also={"x": "nonesuch"},
                    advantage=AdvantageConfig(weights={"reward": 1.0, "x": 1.0}),
                ),
            ],
            "nonesuch",
        ),
        ([SftStage(), EvaluateStage(policy="sft", verifier="", rule="mtah")], "mtah"),
        ([SftStage(), LabelStage(judge=JudgeConfig(rule="mtah"))], "mtah"),
        (
            [SftStage(), RlStage(reward=RULED, overlong=OverlongConfig(buffer=17))],
            "rl.overlong.buffer is 17, more than data.response_columns 16: lower it",
        ),
    ],
)  # fmt: skip
def test_a_need_that_is_not_met_is_refused(stages, words):
    with pytest.raises(ValueError) as error:
        check_config(with_stages(*stages))
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        (SftStage(batch=12), "sft.batch is 12, not a multiple of mesh.data x mesh.fsdp = 8"),
        (LabelStage(batch=12), "label.batch is 12, not"),
        (VerifierStage(batch=12), "verifier.batch is 12, not"),
        (PrmStage(prompts=12), "prm.prompts is 12, not"),
        (RlStage(prompts=12), "rl.prompts is 12, not"),
        (RlStage(prompts=16, minibatches=4), "rl.prompts / minibatches is 4, not"),
        (EvaluateStage(batch=12), None),
        (TokenizerStage(), None),
    ],
)
def test_rows_are_a_multiple_of_the_shards(stage, words):
    cfg = with_stages(SftStage(name="other"), mesh=EIGHT)
    if words is None:
        check._check_rows(cfg, stage)
    else:
        with pytest.raises(ValueError, match=words):
            check._check_rows(cfg, stage)


def test_devices_share_rows_and_columns_evenly():
    mesh = MeshConfig(fsdp=2, context=4)
    cfg = with_stages(SftStage(), LabelStage(), VerifierStage(), mesh=mesh)
    with pytest.raises(ValueError, match="batch is 4, not a multiple of .* x mesh.context = 8"):
        check._check_rows(cfg, SftStage(batch=4))
    check.check_columns(cfg, SftStage())
    for key in ("prompt_columns", "response_columns", "check_columns"):
        uneven = dataclasses.replace(cfg, data=DataConfig(tasks=("sum",), **{key: 30}))
        with pytest.raises(ValueError, match=f"data.{key} is 30, not a multiple of mesh.context"):
            check_config(uneven)
    assert [mesh.even(columns) for columns in (8, 9)] == [8, 12]


@pytest.mark.parametrize("name", ["tokenizer", "mine"])
def test_a_tokenizer_that_nobody_would_read_is_refused(name):
    cfg = with_stages(TokenizerStage(name=name), tokenizer="byte")
    with pytest.raises(ValueError, match=f"nobody would read what stage {name} trains"):
        check_config(cfg)


def test_rows_longer_than_a_model_was_made_for_are_refused():
    with pytest.raises(ValueError, match="data.prompt_columns . data.response_columns is 64 and"):
        check_config(with_stages(SftStage(), model=ModelConfig(context=63)))
    short = ModelConfig(context=79)
    check_config(with_stages(SftStage(), verifier=short))  # nobody asks the verifier
    with pytest.raises(ValueError, match="data.check_columns . data.response_columns is 80 and"):
        check_config(with_stages(SftStage(), RlStage(verifier="sft"), verifier=short))


def test_rows_of_a_longrope_are_short_unless_the_config_says_otherwise():
    fields = dict(head_size=4, rope_scaling="longrope", rope_short=(1.0, 2.0), rope_long=(3.0, 4.0))
    short = ModelConfig(context=500, rope_original=63, **fields)
    with pytest.raises(ValueError, match="was made for 63: set model.long_rows, or lower them"):
        check_config(with_stages(SftStage(), model=short))
    check_config(with_stages(SftStage(), model=dataclasses.replace(short, long_rows=True)))
    graded = SftStage(role="grm")
    with pytest.raises(ValueError, match="was made for 63: set grm.long_rows, or lower them"):
        check_config(with_stages(graded, grm=short, critique=ITEMS))
    longer = dataclasses.replace(short, long_rows=True)
    check_config(with_stages(graded, grm=longer, critique=ITEMS))


def test_a_prm_of_either_kind_of_stage_can_be_evaluated():
    beside = RlStage(reward=RULED, advantage=DENSE, filter=FilterConfig(spread=True))
    alone = PrmStage(reward=RULED)
    for name in ("rl", "prm"):
        asked = EvaluateStage(policy="sft", verifier="", prm=name, prm_reference="sft")
        cfg = with_stages(SftStage(), beside, alone, asked)
        check_config(cfg)
        assert cfg.prm_stage(name).name == name
    with pytest.raises(KeyError):
        with_stages(SftStage(), RlStage(reward=RULED)).prm_stage("rl")


def test_a_config_without_problems_is_refused():
    with pytest.raises(ValueError, match="names no problems: give data.tasks or data.sources"):
        check_config(Config(stages=(SftStage(),)))


def test_programs_run_only_behind_the_walls_that_the_config_requires(monkeypatch):
    monkeypatch.setattr(check.sandbox, "walls", lambda: frozenset({"system calls", "memory"}))
    code = RlStage(reward=RewardConfig(source="rule", rule="code"))
    cfg = with_stages(SftStage(), code)
    check_config(cfg)
    assert check.missing_walls(cfg.stages) == ["namespaces"]
    assert check.missing_walls([RlStage(reward=RULED)]) == []
    strict = dataclasses.replace(code.reward, require_walls=True)
    with pytest.raises(ValueError, match="no wall for namespaces here"):
        check_config(with_stages(SftStage(), dataclasses.replace(code, reward=strict)))
