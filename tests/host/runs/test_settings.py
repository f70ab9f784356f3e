"""Configs from YAML and the command line: what is meant is read, the rest refused in a sentence."""

import dataclasses
import json
import os
import time
import typing
from pathlib import Path

import pytest

from rlvr_jax import config
from rlvr_jax.config import Config, MeshConfig, RlStage
from rlvr_jax.host.runs import settings
from rlvr_jax.host.runs.config_text import ConfigError

ROOT = Path(__file__).parents[3]
RL = "name: demo\nstages:\n- stage: rl\n"
RULED = "name: demo\nstages:\n- {stage: rl, reward: {source: rule}}\n"
THREE = "name: demo\nstages:\n- stage: verifier\n- stage: rl\n- {stage: sft, name: warm}\n"


@pytest.fixture
def load(tmp_path):
    """Text and overrides -> Config."""

    def load(text, *overrides):
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return settings.load(path, overrides)

    return load


@pytest.fixture
def refused(load):
    """Text and overrides -> the sentence they are refused with."""

    def refused(text, *overrides):
        with pytest.raises(ConfigError) as error:
            load(text, *overrides)
        return str(error.value)

    return refused


# ---- reading -------------------------------------------------------------------------------


def test_values_reach_their_fields(load):
    cfg = load(
        "name: demo\nseed: 3\nmodel: {width: 64, tied: false}\n"
        "mesh: {letters: {K: [], F: [fsdp]}}\n"
        "data: {tasks: [sum, legs]}\n"
        "stages:\n- stage: sft\n  name: warm\n  optim: {decay: cosine}\n- stage: rl\n"
        "  loss: {kl_coef: 0.1, kl_in: loss}\n"
    )
    assert (cfg.name, cfg.seed, cfg.model.width, cfg.model.tied) == ("demo", 3, 64, False)
    assert cfg.mesh.letters == {"K": (), "F": ("fsdp",)}
    assert cfg.data.tasks == ("sum", "legs")
    assert [type(stage) for stage in cfg.stages] == [config.SftStage, RlStage]
    assert cfg.stages[0].name == "warm" and cfg.stages[0].optim.decay == "cosine"
    assert cfg.stages[1].loss == config.LossConfig(kl_coef=0.1, kl_in="loss")
    assert cfg.verifier == config.ModelConfig()


@pytest.mark.parametrize(
    "text, value", [("1e-4", 1e-4), ("1.0e-4", 1e-4), ("3", 3.0), ("2E-5", 2e-5)]
)
def test_numbers_as_people_write_them(load, text, value):
    """YAML 1.1 takes 1e-4 for a string."""
    in_file = load(f"stages:\n- stage: rl\n  optim: {{lr: {text}}}\n").stages[0].optim.lr
    on_line = load(RL, f"rl.optim.lr={text}").stages[0].optim.lr
    assert in_file == on_line == value and isinstance(in_file, float)


def test_what_is_dumped_is_read_back(load):
    cfg = load(
        THREE,
        "mesh.letters={K: [tensor, fsdp], F: []}",
        "rl.optim.eps=1e-30",
        "name='007'",
        "seed=-0",
    )
    text = settings.dump(cfg)
    assert load(text) == cfg
    assert settings.dump(load(text)) == text
    assert not (set(text.split()) & {"!!python/tuple", "&id001", "*id001"})


# ---- refused: keys -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("sed: 1\n" + RL, "sed: unknown key 'sed'; did you mean 'seed'?"),
        ("model: {widht: 3}\n" + RL, "model.widht: unknown key 'widht'; did you mean 'width'?"),
        ("mesh: {fsp: 2}\n" + RL, "mesh.fsp: unknown key 'fsp'; did you mean 'fsdp'?"),
        (RL + "  stepps: 3\n", "stages.0 (rl).stepps: unknown key 'stepps'; did you mean 'steps'?"),
        (
            RL + "  optim: {warm_up: 3}\n",
            "stages.0 (rl).optim.warm_up: unknown key 'warm_up'; did you mean 'warmup'?",
        ),
        (
            "stages:\n- {stage: sft, name: warm, bach: 3}\n",
            "stages.0 (warm).bach: unknown key 'bach'; did you mean 'batch'?",
        ),
        (
            "stages:\n- {stage: rll}\n",
            "stages.0: `stage: rll` is not a stage; did you mean 'rl'?",
        ),
    ],
)
def test_an_unknown_key_gets_a_near_one(refused, text, sentence):
    assert refused(text) == sentence


def test_a_key_that_is_near_to_none_gets_all(refused):
    assert refused("mesh: {qqqqq: 1}\n" + RL) == (
        "mesh.qqqqq: unknown key 'qqqqq'; known: context, data, fsdp, letters, tensor"
    )


def test_all_errors_are_told_at_once(refused):
    lines = refused("sed: 1\nmodel: {widht: 3, layers: x}\n" + RL).splitlines()
    assert [line.partition(":")[0] for line in sorted(lines)] == [
        "model.layers", "model.widht", "sed"
    ]  # fmt: skip


# ---- refused: values -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, start, part",
    [
        ("seed: x\n" + RL, "seed: ", "valid integer"),
        ("seed: 1.5\n" + RL, "seed: ", "not 1.5"),
        ("name: 3\n" + RL[11:], "name: ", "valid string, not 3"),
        ("model: 3\n" + RL, "model: ", "not 3"),
        ("model: {kv_heads: 3}\n" + RL, "model: ", "kv_heads 3 does not divide heads 4"),
        (RL + "  optim: {lr: fast}\n", "stages.0 (rl).optim.lr: ", "valid number"),
        (RL + "  steps: [1]\n", "stages.0 (rl).steps: ", "valid integer"),
        (RL + "  reward: {source: exacct}\n", "stages.0 (rl).reward.source: ", "'rule'"),
        (RL + "  samples: 1\n", "stages.0 (rl)", "rloo needs samples of at least 2"),
        ("mesh: {letters: {K: tensor}}\n" + RL, "mesh.letters.K: ", "not 'tensor'"),
        ("mesh: {letters: {X: []}}\n" + RL, "mesh: ", "'X' is not one of D, N, K, F, V"),
        ("data: {tasks: sum}\n" + RL, "data.tasks: ", "not 'sum'"),
        ("stages: rl\n", "stages: ", "not 'rl'"),
        ("stages: []\n", "config: ", "stages is empty: name at least one stage"),
        ("name: demo\n", "config: ", "stages is empty"),
        (RL + "- stage: rl\n", "config: ", "two stages are named 'rl'"),
        ("stages:\n- {name: x}\n", "stages.0: ", "the key `stage` is missing"),
        ("stages:\n- 3\n", "stages.0: ", "is not a stage"),
        ("1: 2\n" + RL, "1: ", "keys should be strings"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(refused, text, start, part):
    sentence = refused(text)
    assert sentence.startswith(start) and part in sentence
    assert "\n" not in sentence and "pydantic" not in sentence


@pytest.mark.parametrize("text", ["name: [", "a: b: c", "\tx: 1", "name: '\x00'", "{", "? [", "*x"])
def test_invalid_yaml_is_refused_in_one_line(refused, text):
    sentence = refused(text)
    assert "config.yaml is not valid YAML: " in sentence and "\n" not in sentence


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9}]\n" for i in range(1, 9))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: " + "[" * 1000 + "]" * 1000, "nested more than 40 deep"),
        ("".join(" " * i + "a:\n" for i in range(1000)), "nested more than 40 deep"),
        (BOMB, "aliases stand for more than 100000 values"),
        ("a: &a [*a]", "an alias of itself"),
        ("a: &a {b: {c: *a}}", "an alias of itself"),
        ("seed: " + "9" * 400, "an integer beyond 9007199254740992"),
        ("name: !!timestamp x", "a value cannot be read"),
        ("name: !!bool x", "a value cannot be read"),
        ("name: !!float ''", "a value cannot be read"),
    ],
    ids=range(9),
)
def test_yaml_that_nobody_writes_is_refused_at_once(refused, text, why):
    began = time.monotonic()
    said = refused(text)
    assert "is not valid YAML: " in said and why in said and "\n" not in said
    assert time.monotonic() - began < 5


def test_a_nested_override_is_refused(refused):
    assert "is not valid YAML" in refused(RL, f"rl.steps={'[' * 1000}")


def test_a_config_that_is_no_file_is_refused_at_once(tmp_path):
    pipe, large = tmp_path / "pipe", tmp_path / "large"
    os.mkfifo(pipe)
    with pytest.raises(ConfigError, match="pipe is a pipe or a device, not a file"):
        settings.load(pipe)
    with pytest.raises(ConfigError, match="/dev/zero is a pipe or a device"):
        settings.load("/dev/zero")
    with large.open("w") as file:
        file.truncate(2**33)
    with pytest.raises(ConfigError, match="more than 1048576 bytes"):
        settings.load(large)


@pytest.mark.parametrize("text", ["", "- a", "3", "null", "just words"])
def test_a_file_that_is_no_mapping_is_refused(refused, text):
    assert "must hold a mapping of config keys, such as `name: demo`" in refused(text)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(ConfigError, match="is not valid YAML: 'utf-8' codec"):
        settings.load(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    "name, near",
    [
        ("configs/quickstar.yaml", "; did you mean configs/quickstart.yaml?"),
        ("quickstart", "; did you mean configs/quickstart.yaml?"),
    ],
)
def test_a_missing_file_gets_a_near_one(tmp_path, monkeypatch, name, near):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    for file in ("quickstart", "verifier_demo"):
        (tmp_path / "configs" / f"{file}.yaml").write_text(RL)
    with pytest.raises(ConfigError) as error:
        settings.load(Path(name))
    assert str(error.value) == f"there is no config file {name}{near}"


def test_a_missing_file_without_neighbours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rf"^there is no config file nowhere.yaml in {tmp_path}$"):
        settings.load(Path("nowhere.yaml"))


def test_a_folder_is_no_config(tmp_path):
    with pytest.raises(ConfigError, match="cannot read config .*: Is a directory"):
        settings.load(tmp_path)


@pytest.mark.parametrize("tag", ["[rl]", "{a: b}"])
def test_a_stage_tag_that_is_no_word_is_refused(refused, tag):
    assert "is not a stage" in refused(f"stages:\n- {{stage: {tag}}}\n")


@pytest.mark.parametrize("override", ["rl.steps=true", "rl.optim.lr=true", "seed=false"])
def test_true_is_no_number(refused, override):
    assert "true" in refused(RL, override).lower()


def test_a_key_given_twice_is_refused(refused):
    assert "name" in refused("name: a\nseed: 1\nname: b\nstages: [{stage: rl}]\n")


# ---- overrides -----------------------------------------------------------------------------


def test_overrides_reach_config_keys_and_stages_by_name(load):
    changes = ["seed=4", "data.tasks=[legs]", "model.vocab=300", "verifier.vocab=300"]
    cfg = load(THREE, *changes, "rl.optim.lr=1e-4", "warm.steps=9")
    assert (cfg.seed, cfg.data.tasks, cfg.model.vocab) == (4, ("legs",), 300)
    assert cfg.stages[1].optim.lr == 1e-4
    assert cfg.stages[2].steps == 9
    assert cfg.stages[0] == config.VerifierStage()


def test_later_overrides_win(load):
    assert load(RL, "rl.steps=3", "rl.steps=4").stages[0].steps == 4
    assert load("seed: 1\n" + RL, "seed=2").seed == 2


def test_the_word_verifier_means_the_stage_where_that_has_the_key(load):
    cfg = load(THREE, "verifier.steps=7", "verifier.width=64", "verifier.optim.lr=0.5")
    assert cfg.stages[0].steps == 7 and cfg.stages[0].optim.lr == 0.5
    assert cfg.verifier.width == 64
    assert cfg.stages[1].verifier == "verifier"


def test_the_word_verifier_means_the_model_where_there_is_no_such_stage(load, refused):
    assert load(RL, "verifier.layers=2").verifier.layers == 2
    assert refused(RL, "verifier.steps=2").startswith("verifier.steps: unknown key 'steps'")


@pytest.mark.parametrize(
    "override, sentence",
    [
        ("rl.steps", "override 'rl.steps' is not of the form key=value, e.g. rl.steps=20"),
        ("rl.steps=[", "the value of override 'rl.steps=[' is not valid YAML"),
        ("rl=3", "rl: name a key of the stage, e.g. rl.steps=20"),
        ("warn.steps=9", "warn.steps: unknown key 'warn'; did you mean 'warm'?"),
        ("sed=9", "sed: unknown key 'sed'; did you mean 'seed'?"),
        ("seed.x=9", "seed: input should be a valid integer, not {'x': 9}"),
        ("stages.0.steps=3", "stages.0.steps: stages holds a value, not further keys"),
        ("rl.stepps=4", "stages.1 (rl).stepps: unknown key 'stepps'; did you mean 'steps'?"),
        ("verifier.widht=4", "verifier.widht: unknown key 'widht'; did you mean 'width'?"),
    ],
)
def test_an_override_that_fits_nowhere_is_refused(refused, override, sentence):
    assert refused(THREE, override) == sentence


@pytest.mark.parametrize("override", ["=4", ".=4", "rl.=4", "..=4", "rl..steps=4", "", "="])
def test_an_override_without_a_key_is_refused(refused, override):
    assert refused(RL, override)


def test_an_override_of_a_value_with_equals_signs(load):
    assert load(RL, "name=a=b").name == "a=b"


def test_the_file_is_not_touched(load, tmp_path):
    load(RL, "seed=7")
    assert (tmp_path / "config.yaml").read_text() == RL


# ---- difference and help -------------------------------------------------------------------


@pytest.mark.parametrize(
    "override, words",
    [
        ("seed=4", "seed is 0 there and 4 here"),
        ("model.width=64", "model.width is 128 there and 64 here"),
        ("rl.steps=3", "stages.rl.steps is 100 there and 3 here"),
        ("rl.optim.lr=0.5", "stages.rl.optim.lr is 0.001 there and 0.5 here"),
        ("data.tasks=[legs]", "data.tasks is ['sum'] there and ['legs'] here"),
        ("mesh.letters={K: []}", None),  # where it computes, not what
        ("mesh.fsdp=8", None),
        ("processes.count=2", None),
    ],
)
def test_the_difference_is_told_in_words(load, override, words):
    base = ["data.tasks=[sum]"]
    old, new = settings.dump(load(THREE, *base)), settings.dump(load(THREE, *base, override))
    assert settings.difference(old, new) == words
    assert settings.difference(old, old) is None


def test_a_stage_more_or_less_is_a_difference(load):
    three, one = settings.dump(load(THREE)), settings.dump(load(RL))
    assert settings.difference(one, three).endswith("is absent there and verifier here")
    assert settings.difference(three, one).endswith("is verifier there and absent here")


def test_another_order_of_stages_is_a_difference(load):
    a = settings.dump(load("stages:\n- stage: sft\n- stage: rl\n"))
    b = settings.dump(load("stages:\n- stage: rl\n- stage: sft\n"))
    assert settings.difference(a, b)


def without(text, *lines):
    """A resolved config as a version wrote it that did not know the keys of these lines."""
    kept = [line for line in text.splitlines(keepends=True) if line.strip() not in lines]
    assert len(kept) < len(text.splitlines())
    return "".join(kept)


def test_a_key_that_an_older_version_did_not_know_counts_as_its_default(load):
    new = settings.dump(load(THREE))
    old = without(new, "preset: ''", "too_long: refuse", "verifier_tokenizer: ''")
    assert settings.difference(old, new) is None and settings.difference(new, old) is None
    other = settings.dump(load(THREE, "data.too_long=drop"))
    assert settings.difference(old, other) == "data.too_long is refuse there and drop here"
    filled = settings.dump(load(THREE, "rl.preset=dr_grpo"))
    assert settings.difference(old, filled) == "stages.rl.preset is  there and dr_grpo here"


def test_a_config_with_a_key_that_is_gone_is_compared_as_it_stands(load):
    new = settings.dump(load(THREE))
    old = without(new, "preset: ''").replace("  prompts: 16\n", "  prompts: 16\n  parts: 4\n")
    assert settings.difference(old, new) == "stages.rl.parts is 4 there and absent here"
    old = without(new, "preset: ''").replace("seed: 0\n", "seed: -1\n")
    assert settings.difference(old, new) == "seed is -1 there and 0 here"


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "3\n", "just words\n"])
def test_what_is_no_config_differs_from_every_config(load, text):
    assert settings.difference(text, settings.dump(load(THREE)))


def test_what_is_no_yaml_cannot_be_compared(load):
    with pytest.raises(ConfigError):
        settings.difference("name: [", settings.dump(load(THREE)))


def test_help_mentions_every_field():
    text = settings.describe()
    stages = typing.get_args(config.Stage)
    sections = dict(zip(["run", *settings.STAGES], text.split("\nstage `"), strict=True))

    def check(kind, prefix, section):
        hints = typing.get_type_hints(kind)
        for item in dataclasses.fields(kind):
            if kind is Config and item.name in settings.ALIKE:
                assert f"  {item.name}.* " in section
            elif dataclasses.is_dataclass(hints[item.name]):
                check(hints[item.name], f"{prefix}{item.name}.", section)
            elif item.name not in ("stage", "stages"):
                line = next(
                    x for x in section.splitlines() if x.split()[:1] == [prefix + item.name]
                )
                assert line.endswith(" " + item.metadata["help"])
                if isinstance(item.default, int | float | str):
                    assert f"[{item.default}]" in line

    run, source = sections["run"].split("\na source of data.sources: ")
    check(Config, "", run)
    check(config.SourceConfig, "", source)
    for kind in stages:
        check(kind, "", sections[kind().stage])
        assert kind.__doc__.splitlines()[0] in sections[kind().stage]


def test_letters_of_a_mesh_survive_the_way_through_a_file(load):
    cfg = load(RL, "mesh.letters={K: [tensor, fsdp]}")
    assert cfg.mesh == MeshConfig(letters={"K": ("tensor", "fsdp")})
    assert hash(cfg) == hash(load(settings.dump(cfg)))


# ---- sizes of pretrained models ------------------------------------------------------------

MODELS = Path(__file__).parents[2] / "golden" / "models"
QWEN3 = MODELS / "qwen3"


def test_sizes_come_from_the_weights(load):
    cfg = load(RULED + f"model: {{weights: {QWEN3}, unroll: true}}\n")
    theirs = json.loads((QWEN3 / "config.json").read_text())
    assert cfg.model.family == "qwen3" and cfg.model.has.qk_norm and cfg.model.unroll
    assert cfg.model.width == theirs["hidden_size"] and cfg.model.vocab == theirs["vocab_size"]
    assert load(settings.dump(cfg)) == cfg


def test_a_config_is_checked_without_the_files_of_its_model(load, tmp_path):
    away, path = tmp_path / "models" / "away", tmp_path / "config.yaml"
    with pytest.raises(ValueError):
        load(RULED + f"model: {{weights: {away}}}\n")
    assert settings.load(path, ["seed=3"], sizes=None).seed == 3
    with pytest.raises(settings.ConfigError, match="stepz"):
        settings.load(path, ["rl.stepz=3"], sizes=None)


def test_sizes_that_are_lists_come_back_from_a_resolved_config(load):
    cfg = load(RULED + f"model: {{weights: {MODELS / 'phi3_longrope'}}}\n")
    assert cfg.model.rope_short == (1.0, 1.5, 2.5)
    assert load(settings.dump(cfg)) == cfg


def test_the_weights_fix_the_architecture_and_leave_the_rest_to_the_user(load):
    free = dict(compute="bfloat16", cache_dtype="int8", unroll=True, remat=True, part_tokens=3)
    free |= dict(kernels="pallas", slots=2, decode_tensor=1)
    free |= dict(frozen_dtype="bfloat16", long_rows=False)
    fields = [item.name for item in dataclasses.fields(config.Execution)]
    assert fields == list(free)
    cfg = load(RULED, f"model.weights={QWEN3}", *(f"model.{k}={v}" for k, v in free.items()))
    assert {name: getattr(cfg.model, name) for name in free} == free
    sizes = settings.weights.load_architecture(QWEN3)
    assert set(sizes) <= {item.name for item in dataclasses.fields(config.Architecture)}
    assert {name: getattr(cfg.model, name) for name in sizes} == sizes


def test_weights_can_be_named_by_an_override(load):
    cfg = load(RULED, f"model.weights={QWEN3}")
    assert cfg.model.family == "qwen3"


def test_a_size_that_contradicts_the_weights_is_refused(refused):
    sentence = refused(RULED + f"model: {{weights: {QWEN3}, width: 7}}\n")
    assert sentence.startswith("model.width is 7 in the config and ")
    assert sentence.endswith("leave it out, sizes come from the weights")


@pytest.mark.parametrize("key, value", [("logit_softcap", 3.0), ("query_scale", 2.0)])
def test_what_the_weights_do_not_say_cannot_be_added(refused, key, value):
    sentence = refused(RULED + f"model: {{weights: {QWEN3}, {key}: {value}}}\n")
    assert sentence.startswith(f"model.{key} is {value} in the config and 0.0 in")


def test_a_typo_in_a_source_is_named_with_its_place(refused):
    sentence = refused(RULED + "data: {sources: [{gym: gcd}, {fil: x}]}\n")
    assert "data.sources.1.fil: unknown key 'fil'; did you mean 'file'?" in sentence


def test_weights_that_are_not_there_are_refused(load):
    with pytest.raises(ValueError, match="there is no model at nowhere/at/all"):
        load(RL + "verifier: {weights: nowhere/at/all}\n")


# ---- paths and counts ----------------------------------------------------------------------


def test_a_tilde_is_the_home_folder_in_every_path(load, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    cfg = load(
        "tokenizer: ~/tok.model\nruns: ~/runs\n"
        "data: {sources: [{file: ~/a.jsonl, suffix: ~/ is home}], check_templates: [~/t.yaml]}\n"
        "stages:\n- {stage: rl, policy: '~/runs/a:rl@3', reward: {source: rule, rule: ~/r.py}}\n"
    )
    (stage,) = cfg.rl_stages
    source = cfg.data.sources[0]
    assert (cfg.tokenizer, cfg.runs) == ("/home/me/tok.model", "/home/me/runs")
    assert (source.file, source.suffix) == ("/home/me/a.jsonl", "~/ is home")
    assert cfg.data.check_templates == ("/home/me/t.yaml",)
    assert (stage.policy, stage.reward.rule) == ("/home/me/runs/a:rl@3", "/home/me/r.py")


def test_counts_that_are_not_given_are_what_files_have(load):
    def counts(text: str) -> list:
        rule = "{stage: rl, policy: pretrained, reward: {source: rule}}"
        data = load(f"data: {text}\nstages:\n- {rule}\n").data
        return [data.sft, data.label, data.train, data.test]

    assert counts("{sources: [{file: a.jsonl}]}") == [0, 0, "all", "all"]
    assert counts("{sources: [{file: a.jsonl}], train: 30, label: 5}") == [0, 5, 30, "all"]
    assert counts("{sources: [{file: a.jsonl}, {gym: chain_sum}]}") == [4096, 2048, 4096, 400]
    assert counts("{sources: [{file: a.jsonl, weight: 2}, {file: b}]}") == [4096, 2048, 4096, 400]
    assert counts("{tasks: [sum]}") == [4096, 2048, 4096, 400]
    cfg = load(f"data: {{sources: [{{file: a.jsonl}}]}}\n{RULED}")
    assert settings.parse(settings.as_tree(cfg)) == cfg


def test_all_is_not_for_what_has_no_end(refused):
    assert "a count `all` is for sources" in refused(f"data: {{tasks: [sum], train: all}}\n{RULED}")


PASSES = """
data: {sources: [{file: a.jsonl}], sft: 100, train: 90}
stages:
  - {stage: sft, passes: 3, batch: 32}
  - {stage: rl, passes: 1, prompts: 16, epochs: 2, reward: {source: rule}}
"""


def test_passes_are_steps_in_the_resolved_config(load):
    cfg = load(PASSES)
    assert [stage.steps for stage in cfg.stages] == [3 * 3, 5]
    assert cfg.stages[1].epochs == 2
    resolved = settings.dump(cfg)
    assert "steps: 9" in resolved and load(resolved) == cfg
    assert load(PASSES, "data.sft=64").stages[0].steps == 6
    with pytest.raises(settings.ConfigError, match="give steps or passes, not both"):
        load(PASSES, "sft.steps=500")  # the default too


def test_passes_over_verdicts_are_counted_later(load):
    text = (
        "data: {tasks: [sum]}\nstages: [{stage: sft}, {stage: label}, {stage: verifier, passes: 2}]"
    )
    cfg = load(text)
    assert (cfg.stages[2].steps, cfg.stages[2].passes) == (0, 2)
    assert load(settings.dump(cfg)) == cfg
