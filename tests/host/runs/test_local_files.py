"""Files on the disks of the hosts are compared: rules whole, models and tokenizers in samples."""

import json

import pytest

from rlvr_jax.config import Config, DataConfig, ModelConfig, RewardConfig, RlStage
from rlvr_jax.host.runs.local_files import compute_mark, describe_local


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 8000)
    return folder


def test_the_files_of_a_config_are_named_with_what_they_hold(tmp_path, model):
    rule, tokenizer = tmp_path / "rule.py", tmp_path / "tokenizer.json"
    for path in (rule, tokenizer):
        path.write_text("1\n")
    stage = RlStage(reward=RewardConfig(source="rule", rule=str(rule)))
    cfg = Config(
        data=DataConfig(tasks=("sum",)),
        tokenizer=str(tokenizer),
        model=ModelConfig(weights=str(model)),
        stages=(stage,),
    )
    before = describe_local(cfg)
    assert list(before) == [f"the content of {x}" for x in (rule, tokenizer, model)]
    json.dumps(before)
    rule.write_text("2\n")
    changed = {name for name, mark in describe_local(cfg).items() if mark != before[name]}
    assert changed == {f"the content of {rule}"}
    tokenizer.unlink()  # the other host then has a fact that this one lacks
    assert f"the content of {tokenizer}" not in describe_local(cfg)


def test_words_are_no_files():
    cfg = Config(data=DataConfig(tasks=("sum",)), tokenizer="byte", stages=(RlStage(),))
    assert describe_local(cfg) == {}


def changed_at(place):
    def change(folder):
        path = folder / "model.safetensors"
        data = bytearray(path.read_bytes())
        data[place] ^= 1
        path.write_bytes(data)

    return change


@pytest.mark.parametrize(
    "change",
    [
        changed_at(0),
        changed_at(-1),
        lambda folder: (folder / "model.safetensors").write_bytes(b"shorter"),
        lambda folder: (folder / "config.json").rename(folder / "other.json"),
        lambda folder: (folder / "chat_template.jinja").write_text(""),
    ],
    ids=["first byte", "last byte", "size", "name", "one more"],
)
def test_another_model_has_another_mark(model, change):
    before = compute_mark(model)
    assert compute_mark(model) == before
    change(model)
    assert compute_mark(model) != before


def test_what_a_download_leaves_beside_a_model_changes_no_mark(model):
    before = compute_mark(model)
    hidden = model / ".cache" / "huggingface" / "config.json.metadata"
    hidden.parent.mkdir(parents=True)
    hidden.write_text("1764.5")
    assert compute_mark(model) == before
