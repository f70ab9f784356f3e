"""Presets: each fills the published values, gives way key by key, and stands in the docs."""

import dataclasses
import re
from pathlib import Path

import pytest

from rlvr_jax.config import PRESETS, RlStage
from rlvr_jax.host.runs import config_text, settings
from rlvr_jax.host.runs.config_text import ConfigError

ROOT = Path(__file__).parents[1]
NAMES = "grpo rloo dr_grpo dapo gspo cispo prime ppo reinforce++ spct".split()
KEYS = [
    (name, section, key)
    for name, preset in PRESETS.items()
    for section, values in preset.fills.items()
    for key in values
]


def stage(**keys) -> RlStage:
    """An rl stage as it is read from YAML."""
    (stage,) = settings.parse({"stages": [{"stage": "rl"} | keys]}).stages
    assert isinstance(stage, RlStage)
    return stage


def values(stage: RlStage, section: str) -> dict:
    return dataclasses.asdict(getattr(stage, section))


def contains(whole: dict, part: dict) -> bool:
    return all(
        contains(whole[key], value) if isinstance(value, dict) else whole[key] == value
        for key, value in part.items()
    )


def test_these_presets_exist():
    assert list(PRESETS) == NAMES
    for preset in PRESETS.values():
        assert re.search(r"\b\d{4}\.\d{5}\b", preset.paper) and preset.summary.endswith(".")
        assert set(preset.fills) <= {"advantage", "loss", "filter", "overlong", "prm"}
    assert [name for name in PRESETS if "prm" in PRESETS[name].fills] == ["prime"]


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_fills_its_values_and_leaves_all_others_at_their_defaults(name):
    filled, plain = stage(preset=name), stage()
    for section in ("advantage", "loss", "filter", "overlong", "prm"):
        given = PRESETS[name].fills.get(section, {})
        found = values(filled, section)
        assert contains(found, given)
        rest = {key: value for key, value in found.items() if key not in given}
        assert contains(values(plain, section), rest)
    assert dataclasses.replace(
        filled, preset="", advantage=plain.advantage, loss=plain.loss, filter=plain.filter,
        overlong=plain.overlong, prm=plain.prm,
    ) == plain  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_resolved_config_shows_what_a_preset_filled(tmp_path, name):
    (tmp_path / "c.yaml").write_text(f"stages: [{{stage: rl, preset: {name}}}]\n")
    cfg = settings.load(tmp_path / "c.yaml")
    text = settings.dump(cfg)
    tree = config_text.parse_yaml(text)["stages"][0]
    assert tree["preset"] == name and contains(tree, PRESETS[name].fills)
    (tmp_path / "again.yaml").write_text(text)
    assert settings.load(tmp_path / "again.yaml") == cfg


# Values that are allowed beside every preset, for each key that any preset fills.
OTHERS = {
    ("advantage", "normalise"): "batch",
    ("advantage", "baseline"): "opo",
    ("advantage", "ddof"): 1,
    ("advantage", "credit"): "token",
    ("advantage", "process_weight"): 0.5,
    ("advantage", "discount"): 0.99,
    ("advantage", "gae_lambda"): 0.5,
    ("advantage", "whiten"): "none",
    ("loss", "objective"): "gmpo",
    ("loss", "ratio"): "product",
    ("loss", "clip_low"): 0.5,
    ("loss", "clip_high"): 0.5,
    ("loss", "aggregate"): "seq-mean-token-mean",
    ("loss", "kl_coef"): 0.123,
    ("loss", "kl_in"): "loss",
    ("loss", "kl_form"): "k2",
    ("loss", "value_coef"): 0.5,
    ("loss", "value_clip"): 0.0,
    ("filter", "spread"): False,
    ("filter", "rounds"): 2,
    ("filter", "low"): 0.1,
    ("filter", "high"): 0.9,
    ("overlong", "buffer"): 8,
    ("overlong", "penalty"): 2.0,
    ("prm", "loss"): "nca",
    ("prm", "beta"): 1.0,
    ("prm", "order"): "update-first",
    ("prm", "reference"): "policy",
    ("prm", "granularity"): "line",
    ("prm", "optim"): {"lr": 0.5},
}
TOGETHER = {  # what has to change with a key, so that the two make sense
    ("dapo", "spread"): {"filter": {"low": 0.1}},
    ("cispo", "spread"): {"filter": {"low": 0.1}},
    ("gspo", "objective"): {"loss": {"ratio": "token", "clip_low": 0.2, "clip_high": 0.2}},
    ("cispo", "ratio"): {"loss": {"objective": "clip"}},
    ("rloo", "kl_in"): {"loss": {"kl_form": "k3"}},
    ("reinforce++", "kl_in"): {"loss": {"kl_form": "k3"}},
    ("ppo", "baseline"): {"advantage": {"gae_lambda": 1.0}},
}


@pytest.mark.parametrize(("name", "section", "key"), KEYS, ids=lambda x: str(x))
def test_every_key_of_a_preset_can_be_overridden_alone(tmp_path, name, section, key):
    other = OTHERS[section, key]
    more = TOGETHER.get((name, key), {}).get(section, {})
    keys = {**more, key: other}
    overrides = [f"rl.{section}.{k}={settings.json.dumps(v)}" for k, v in keys.items()]
    (tmp_path / "c.yaml").write_text(f"stages: [{{stage: rl, preset: {name}}}]\n")
    on_line = settings.load(tmp_path / "c.yaml", overrides).stages[0]
    assert on_line == stage(preset=name, **{section: keys})
    expected = values(stage(preset=name), section)
    for k, value in keys.items():
        expected[k] = expected[k] | value if isinstance(value, dict) else value
    assert values(on_line, section) == expected
    others = {s: v for s, v in PRESETS[name].fills.items() if s != section}
    assert contains({s: values(on_line, s) for s in others}, others)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("dapoo", "did you mean 'dapo'?"),
        ("drgrpo", "did you mean 'dr_grpo'?"),
        ("?", "known presets"),
    ],
)
def test_an_unknown_preset_gets_a_near_one(name, hint):
    with pytest.raises(ConfigError) as error:
        stage(preset=name)
    assert str(error.value).startswith(f"stages.0 (rl).preset: there is no preset {name!r}; ")
    assert hint in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ValueError, match="there is no preset"):
        RlStage(preset=name)


@pytest.mark.parametrize("value", [3, ["grpo"], None, {"grpo": 1}, True])
def test_a_preset_that_is_no_name_is_refused(value):
    with pytest.raises(ConfigError, match="preset"):
        stage(preset=value)


def test_only_an_rl_stage_has_presets():
    with pytest.raises(ConfigError, match="unknown key 'preset'"):
        settings.parse({"stages": [{"stage": "sft", "preset": "grpo"}]})


def test_a_section_that_is_no_mapping_is_refused_as_without_a_preset():
    with pytest.raises(ConfigError, match=r"stages.0 \(rl\).loss: "):
        stage(preset="grpo", loss=3)


def test_a_preset_is_chosen_on_the_command_line(tmp_path):
    (tmp_path / "c.yaml").write_text("stages: [{stage: rl, loss: {kl_coef: 0.5}}]\n")
    (found,) = settings.load(tmp_path / "c.yaml", ["rl.preset=reinforce++"]).stages
    assert found == stage(preset="reinforce++", loss={"kl_coef": 0.5})
    assert found.loss.kl_coef == 0.5 and found.advantage.whiten == "tokens"


def test_the_preset_of_prime_is_what_its_config_says():
    text = (ROOT / "configs" / "prime_qwen2.5_math_7b.yaml").read_text("utf-8")
    tree = next(x for x in config_text.parse_yaml(text)["stages"] if x["stage"] == "rl")
    given = settings.parse({"stages": [tree]}).stages[0]
    filled = stage(preset="prime")
    for section in ("advantage", "loss", "filter", "overlong", "prm"):
        assert getattr(given, section) == getattr(filled, section)


def flow(value) -> str:
    """A value as one writes it in YAML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(x)}" for key, x in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else f"{value}"


def test_the_page_of_objectives_begins_with_the_table_of_presets():
    rows = [
        f"| `{name}` | {preset.paper} | {preset.summary} | "
        + " ".join(f"`{section}: {flow(keys)}`" for section, keys in preset.fills.items())
        + " |"
        for name, preset in PRESETS.items()
    ]
    table = "\n".join(
        ["| preset | paper (arXiv) | in words | what it fills |", "|---" * 4 + "|", *rows]
    )
    page = (ROOT / "docs" / "objectives.md").read_text("utf-8")
    assert table in page, f"docs/objectives.md needs this table:\n{table}"
    assert page.index(table) < page.index("\n## ")
