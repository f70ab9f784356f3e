"""The config dataclasses: values only, each field documented, each one read by the program."""

import ast
import dataclasses
import math
import typing
from pathlib import Path

import jax
import pytest

from rlvr_jax import config
from rlvr_jax.config import (
    AdvantageConfig,
    Config,
    DataConfig,
    LabelStage,
    MeshConfig,
    ModelConfig,
    RlStage,
    SampleConfig,
    SftStage,
    Stage,
)
from rlvr_jax.host.runs import settings

ROOT = Path(__file__).parents[1]
KINDS = [kind for kind in vars(config).values() if dataclasses.is_dataclass(kind)]
STAGES = typing.get_args(Stage)
VERIFIER = (config.VerifierStage(),)
MIXTURE = ModelConfig(family="qwen3_moe", experts=4, experts_used=2)
GCD = config.SourceConfig(gym="gcd")
FIELDS = [(kind, item) for kind in KINDS for item in dataclasses.fields(kind)]


def one_stage(**changes):
    return Config(**{"stages": (RlStage(),)} | changes)


def some(kind):
    needs = {Config: {"stages": (RlStage(),)}, config.SourceConfig: {"gym": "gcd"}}
    return kind(**needs.get(kind, {}))


@pytest.mark.parametrize("kind", KINDS)
def test_a_config_cannot_be_changed(kind):
    cfg = some(kind)
    for item in dataclasses.fields(kind):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(cfg, item.name, None)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_configs_are_one_static_argument(kind):
    """Equal and of equal hash, so that jit sees the same program."""
    a, b = some(kind), some(kind)
    assert a == b and hash(a) == hash(b) and a is not b
    traced = []

    def f(x, cfg):
        traced.append(cfg)
        return x

    jitted = jax.jit(f, static_argnums=1)
    jitted(1, a), jitted(2, b)
    assert len(traced) == 1


def test_letters_are_part_of_a_mesh_hash_whatever_their_order():
    a = MeshConfig(letters={"K": (), "F": ("fsdp",)})
    b = MeshConfig(letters={"F": ("fsdp",), "K": ()})
    assert a == b and hash(a) == hash(b)
    assert hash(a) != hash(MeshConfig(letters={"K": ()})) and a != MeshConfig()


@pytest.mark.parametrize(
    "kind, item", FIELDS, ids=lambda x: x.__name__ if isinstance(x, type) else x.name
)
def test_every_field_has_a_default_and_a_meaning(kind, item):
    has_default = item.default is not dataclasses.MISSING
    assert has_default or item.default_factory is not dataclasses.MISSING
    if item.name == "stage":
        assert item.default and kind in STAGES
    else:
        assert len(item.metadata["help"]) > 3 and not item.metadata["help"].endswith(".")


def test_every_kind_says_what_it_is():
    for kind in KINDS:
        assert kind.__doc__ and not kind.__doc__.startswith(kind.__name__ + "("), kind


def names_read():
    """Attribute names that the program reads, and keys that it gives to getattr and `get`."""
    read = set()
    for path in (ROOT / "rlvr_jax").rglob("*.py"):
        if path.parent.name == "config":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        uses_getattr = any(isinstance(x, ast.Name) and x.id == "getattr" for x in ast.walk(tree))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                read.add(node.attr)
            elif uses_getattr and isinstance(node, ast.Constant) and isinstance(node.value, str):
                read.add(node.value)
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "get":
                read |= {arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)}
    return read


def test_every_field_of_a_model_is_of_its_weights_architecture_execution_or_training():
    """In this order, which is that of a resolved config; no field is of two of them."""
    parts = (config.Pretrained, config.Architecture, config.Execution, config.Training)
    names = [item.name for part in parts for item in dataclasses.fields(part)]
    assert names == [item.name for item in dataclasses.fields(ModelConfig)]
    assert len(set(names)) == len(names)


def test_a_stage_tells_the_loop_its_updates_rounds_and_alarms():
    plain = [stage for stage in (kind() for kind in STAGES) if stage.stage != "rl"]
    assert {(x.updates, x.rounds, x.alarms.action) for x in plain} == {(1, 1, "off")}
    kept = config.FilterConfig(spread=True, rounds=3)
    rl = RlStage(epochs=2, minibatches=4, filter=kept)
    assert (rl.updates, rl.rounds, rl.alarms.action) == (8, 3, "warn")
    trained = {kind().stage: kind().trains for kind in typing.get_args(config.Trained)}
    policies = {"sft": "model", "verifier": "verifier", "rl": "model", "prm": "model"}
    assert trained == policies | {"meta": "grm", "scalar": "grm"}
    judge = RlStage(reward=config.RewardConfig(source="preference"))
    assert (judge.trains, judge.role, judge.rules) == ("grm", "grm", ())
    assert config.SftStage(role="grm").trains == "grm"


def test_every_field_is_read_somewhere():
    read, unread = names_read(), []
    for kind, item in FIELDS:
        if item.name not in read:
            unread.append(f"{kind.__name__}.{item.name}")
    assert not unread


def test_every_stage_can_be_named_and_run():
    from rlvr_jax import train

    assert set(settings.STAGES) == set(train.STAGES)
    assert [settings.STAGES[kind().stage] for kind in STAGES] == list(STAGES)
    assert all(kind().name == kind().stage for kind in STAGES)


def test_stages_refer_to_stages_by_their_default_names():
    """A list of all stages in order, each with its defaults, hangs together."""
    names = {kind().name for kind in STAGES} | {"fresh"}
    for kind in STAGES:
        for field in ("policy", "verifier", "init", "verdicts"):
            # A label stage has an empty verifier: it asks one only with a limit.
            assert getattr(kind(), field, "sft") in names | {"" if kind is LabelStage else "sft"}


def test_the_default_tasks_are_tasks():
    from rlvr_jax.host.problems import tasks

    assert set(DataConfig().tasks) <= set(tasks.TASKS)


# ---- what is refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: ModelConfig(layers=0), "layers must be at least 1, not 0"),
        (lambda: ModelConfig(vocab=-5), "vocab must be at least 1, not -5"),
        (lambda: ModelConfig(heads=6, kv_heads=4), "kv_heads 4 does not divide heads 6"),
        (lambda: ModelConfig(head_size=5), "head_size must be even and at least 2, not 5"),
        (lambda: ModelConfig(head_size=0), "head_size must be even and at least 2, not 0"),
        (lambda: MeshConfig(tensor=0), "tensor must be at least 1, not 0"),
        (lambda: MeshConfig(letters={"B": ()}), "'B' is not one of D, N, K, F, V"),
        (lambda: MeshConfig(letters={"DN": ()}), "'DN' is not one of D, N, K, F, V"),
        (lambda: MeshConfig(letters={"": ()}), "'' is not one of D, N, K, F, V"),
        (lambda: MeshConfig(letters={"K": ("rows",)}), "'rows' is not an axis"),
        (lambda: DataConfig(test=-1), "needs sft, label, train, test and tail_columns of at"),
        (lambda: SampleConfig(top_p=0), "0 < top_p <= 1"),
        (lambda: SampleConfig(top_p=1.5), "0 < top_p <= 1"),
        (lambda: SampleConfig(temperature=-1), "temperature >= 0"),
        (lambda: SampleConfig(top_k=-1), "top_k >= 0"),
        (lambda: config.OptimConfig(lr=-1), "lr >= 0"),
        (lambda: config.OptimConfig(grad_clip=0), "grad_clip > 0"),
        (lambda: config.LossConfig(clip_low=-3.0), "0 < clip_low <= 1"),
        (lambda: config.LossConfig(clip_high=0.0), "clip_high > 0"),
        (lambda: config.LossConfig(kl_coef=-1.0), "kl_coef >= 0"),
        (lambda: config.LossConfig(value_coef=-1.0), "value_coef >= 0"),
        (lambda: config.LossConfig(value_clip=-0.2), "value_clip >= 0"),
        (
            lambda: RlStage(
                advantage=AdvantageConfig(baseline="value"), loss=config.LossConfig(value_coef=0.0)
            ),
            "leaves the value head at 0",
        ),
        (lambda: SftStage(steps=0), "steps must be at least 1"),
        (lambda: SftStage(passes=2), "give steps or passes, not both"),
        (lambda: SftStage(steps=0, passes=-1), "passes must be at least 0"),
        (
            lambda: RlStage(steps=0, passes=1, filter=config.FilterConfig(spread=True, rounds=2)),
            "passes needs steps that take one batch each",
        ),
        (lambda: config.VerifierStage(held_out=0), "held_out must be at least 1"),
        (lambda: ModelConfig(part_tokens=0), "part_tokens must be at least 1"),
        (lambda: ModelConfig(slots=-1), "slots >= 0"),
        (lambda: RlStage(sample=SampleConfig(temperature=0)), "greedy answers give nothing"),
        (lambda: RlStage(samples=1), "rloo needs samples of at least 2"),
        (
            lambda: config.SourceConfig(file="a", columns={"anwser": "b"}),
            "columns has 'anwser': 'b'; it",
        ),
        (
            lambda: config.SourceConfig(file="a", columns={"answer": ""}),
            "one or more of question, answer",
        ),
        (lambda: RlStage(also={"max": "contains"}), "reward max, and reward/max is another metric"),
        (lambda: RlStage(also={"short": "overlong"}), "advantage.weights names []"),
        (
            lambda: RlStage(advantage=config.AdvantageConfig(weights={"reward": 1.0})),
            "`also` names those beside `reward`",
        ),
        (lambda: config.AlarmConfig(prm_rise=0.0), "prm_rise > 0"),
        (lambda: Config(), "stages is empty"),
        (lambda: Config(stages=(RlStage(), RlStage())), "two stages are named 'rl'"),
        (
            lambda: Config(stages=(config.VerifierStage(),), model=ModelConfig(vocab=300)),
            "need one vocabulary",
        ),
        (lambda: config.SourceConfig(), "exactly one of gym, file, tfds and hub"),
        (lambda: config.SourceConfig(gym="gcd", file="a.jsonl"), "exactly one of"),
        (lambda: config.SourceConfig(gym="gcd", weight=0.0), "weight > 0"),
        (lambda: config.SourceConfig(file="a.jsonl", folder="b"), "folder belongs to a source"),
        (lambda: config.SourceConfig(gym="gcd", test_file="b"), "test_file belongs to a source"),
        (lambda: DataConfig(sources=(GCD,), demonstration_errors=0.5), "is for tasks"),
        (lambda: DataConfig(chat_variables={"a": 1}), "need chat: true"),
        (lambda: RlStage(name="pretrained"), "has a meaning of its own"),
        (lambda: SftStage(name="fresh"), "has a meaning of its own"),
        (lambda: one_stage(seed=2**31), "seed must be from 0"),
        (lambda: one_stage(seed=-1), "seed must be from 0"),
        (lambda: DataConfig(tasks=("sum",), sources=(GCD,)), "either tasks or sources"),
        (lambda: DataConfig(system="Be short."), "need chat: true"),
        (lambda: ModelConfig(family="qwen3_moe"), "a mixture of experts needs both"),
        (lambda: ModelConfig(experts=4, experts_used=2), "another family none"),
        (lambda: ModelConfig(family="qwen3_moe", experts=4, experts_used=5), "5 used"),
        (lambda: ModelConfig(router_aux_loss_coef=0.1), "llama is none"),
        (lambda: dataclasses.replace(MIXTURE, router_aux_loss_coef=-1.0), "finite and at least 0"),
        (
            lambda: dataclasses.replace(MIXTURE, router_aux_loss_coef=math.nan),
            "finite and at least 0",
        ),
        (lambda: ModelConfig(global_every=2), "only with a window"),
        (lambda: ModelConfig(logit_softcap=-1.0), "logit_softcap must be finite"),
        (lambda: ModelConfig(rope_factor=0.5), "rope_factor >= 1"),
        (lambda: ModelConfig(rope_low=4.0, rope_high=4.0), "rope_low < rope_high"),
        (lambda: ModelConfig(rope_size=3), "rope_size must be even"),
        (lambda: ModelConfig(head_size=8, rope_size=10), "from 0 to head_size"),
        (lambda: ModelConfig(rope_amplitude=1.5), "belongs to rope_scaling yarn"),
        (lambda: ModelConfig(rope_scaling="yarn", rope_amplitude=0.0), "above 0"),
        (lambda: ModelConfig(rope_scaling="yarn", rope_theta=1.0), "rope_theta > 1"),
        (lambda: ModelConfig(window=4, unrotated_every=2), "only without a window"),
        (lambda: ModelConfig(rope_short=(1.0,)), "needs 0 numbers above 0"),
        (lambda: ModelConfig(rope_scaling="longrope"), "needs 16 numbers above 0"),
        (lambda: ModelConfig(rope_scaling="yarn", long_rows=True), "long_rows belongs to longrope"),
    ],
)
def test_values_that_cannot_work_are_refused(make, words):
    with pytest.raises(ValueError) as error:
        make()
    assert words in str(error.value)


def test_values_at_the_border_are_fine():
    ModelConfig(heads=4, kv_heads=4, head_size=2)
    SampleConfig(temperature=0, top_p=1.0)
    RlStage(samples=1, advantage=AdvantageConfig(baseline="none"))
    ModelConfig(part_tokens=1, slots=1)
    Config(stages=(RlStage(), RlStage(name="again")))
    dataclasses.replace(MIXTURE, experts_used=4, router_aux_loss_coef=0.01)
    ModelConfig(family="gemma2", window=8, global_every=2)


def test_vocabularies_may_differ_where_nobody_is_judged():
    ruled = RlStage(reward=config.RewardConfig(source="rule"))
    asked = config.EvaluateStage(verifier="")
    Config(stages=(ruled, asked), model=ModelConfig(vocab=300))
    with pytest.raises(ValueError, match="no such stage: write .verifier: .."):
        Config(stages=(ruled, config.EvaluateStage()), model=ModelConfig(vocab=300))


@pytest.mark.parametrize(
    "stage",
    [config.LabelStage(), config.VerifierStage(), RlStage(collect=0.5)],
)
def test_who_reads_ids_needs_a_verifier_that_shares_them(stage):
    alone = Config(stages=(RlStage(),), verifier_tokenizer="own", model=ModelConfig(vocab=300))
    with pytest.raises(ValueError, match=f"stage {stage.name} reads the policy's ids"):
        dataclasses.replace(alone, stages=(stage,))


def test_the_families_of_the_table_are_those_that_can_be_chosen():
    chosen = typing.get_args(typing.get_type_hints(ModelConfig)["family"])
    assert set(chosen) == set(config.FAMILIES)


SENSELESS = {
    "lr is not a number": lambda: config.OptimConfig(lr=float("nan")),
    "lr is infinite": lambda: config.OptimConfig(lr=float("inf")),
    "beta1 above 1": lambda: config.OptimConfig(beta1=2.0),
    "negative weight decay": lambda: config.OptimConfig(weight_decay=-1.0),
    "max_skipped 0": lambda: config.OptimConfig(max_skipped=0),
    "min_mass above 1": lambda: config.RewardConfig(min_mass=7.0),
    "negative std_floor": lambda: AdvantageConfig(std_floor=-1.0),
    "rope_theta 0": lambda: ModelConfig(rope_theta=0.0),
    "negative number of problems": lambda: DataConfig(sft=-4),
    "share above 1": lambda: DataConfig(demonstration_errors=2.0),
    "run name outside of the runs folder": lambda: one_stage(name="../../elsewhere"),
    "empty run name": lambda: one_stage(name=""),
    "stage name with a folder": lambda: RlStage(name="a/b"),
    "empty stage name": lambda: RlStage(name=""),
    "no template": lambda: DataConfig(check_templates=()),
    "a template twice": lambda: DataConfig(check_templates=("plain", "plain")),
    "temperature 0 of a verdict": lambda: config.RewardConfig(temperature=0.0),
    "threshold above 1": lambda: config.RewardConfig(threshold=1.5),
    "a rule that nobody asks": lambda: config.RewardConfig(rule="math"),
    "alarms without a window": lambda: config.AlarmConfig(window=0),
    "kl_jump of nothing": lambda: config.AlarmConfig(kl_jump=1.0),
    "a rate above 1": lambda: config.AuditConfig(max_dark=2.0),
    "nothing is accepted": lambda: config.AuditConfig(accept=0.0),
}


@pytest.mark.parametrize("make", SENSELESS.values(), ids=SENSELESS.keys())
def test_values_without_sense_are_refused(make):
    with pytest.raises(ValueError):
        make()
