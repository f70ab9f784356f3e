"""The hub: what is downloaded, which commit it is, and the sentences where it cannot be."""

import inspect
import json
import sys

import pytest
import yaml
from make_hub import COMMITS, install

from rlvr_jax.config import DataConfig, SourceConfig
from rlvr_jax.host import weights
from rlvr_jax.host.files import hub
from rlvr_jax.host.problems import sources
from rlvr_jax.host.problems.sources import origin
from rlvr_jax.host.runs import settings

MAIN, OLD = COMMITS["main"], COMMITS["v1"]
CONFIG = {
    "model_type": "llama",
    **{"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 300},
    **{"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 8},
}


@pytest.fixture
def repositories(monkeypatch, tmp_path):
    yield install(monkeypatch, tmp_path / "cache")
    hub._download.cache_clear()


def lines(count, start=0):
    rows = [{"question": f"{i} + 1?", "answer": f"so\n#### {i + 1}"} for i in range(start, count)]
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def sums(repositories):
    files = {"main/train.jsonl": lines(60), "main/test.jsonl": lines(80, 60), "x.py": "raise"}
    repositories.put("openai/gsm8k", "dataset", files)
    return SourceConfig(hub="openai/gsm8k", subset="main", test_split="test")


def test_the_package_has_the_function_that_is_called():
    huggingface_hub = pytest.importorskip("huggingface_hub")
    known = inspect.signature(huggingface_hub.snapshot_download).parameters
    assert {"repo_id", "repo_type", "revision", "allow_patterns", "ignore_patterns"} <= set(known)


def test_only_weights_settings_and_vocabularies_of_a_model_are_downloaded(repositories):
    wanted = {"model.safetensors", "config.json", "tokenizer.model", "merges.txt"}
    others = {"model.bin", "run.py", "onnx/config.json", "x.pkl", "original/model.safetensors"}
    repositories.put("a/b", "model", dict.fromkeys(wanted | others, "x"))
    folder = hub.download_model("a/b@v1")
    assert folder.name == OLD
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == wanted
    assert weights.find_model("hub:a/b@v1") == folder
    assert len(repositories.calls) == 1, "a process asks once"


def test_a_data_set_of_the_hub_is_a_source(sums):
    sources.check_source(sums)
    out = sources.mix_sources([sums], {"train": 40, "test": 10}, 0)
    assert {len(rows) for rows in out.values()} == {40, 10}
    assert {row["task"] for row in out["train"]} == {"file:gsm8k"}
    assert all(int(row["reference"]) <= 60 for row in out["train"])
    assert all(int(row["reference"]) > 60 for row in out["test"])


def test_conversations_of_the_hub_are_for_sft(repositories):
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    rows = [{"messages": [{**talk[0], "content": f"hi {i}"}, talk[1]]} for i in range(30)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    repositories.put("a/talks", "dataset", {"data/train.jsonl": text})
    out = sources.mix_sources([SourceConfig(hub="a/talks")], {"sft": 20}, 0)
    assert {row["task"] for row in out["sft"]} == {"talk:talks"}


def test_the_origin_of_problems_has_the_commit(sums):
    data = DataConfig(sources=(sums, SourceConfig(gym="chain_sum")))
    described = origin.compute_origin(data, {"train": 1}, 0)["config"]["sources"]
    assert described[0]["hub"] == f"openai/gsm8k@{MAIN}"
    assert not {"hub", "subset", "split", "test_split", "splits"} & set(described[1])


@pytest.mark.parametrize(
    "source, message",
    [
        (dict(hub="openai/gsm8k"), "has no files of the split 'train'.* by `subset`"),
        (dict(hub="openai/gsm8k", subset="main", split="dev"), "has no files of the split 'dev'"),
        (dict(hub="openai/gsm8"), "dataset openai/gsm8 cannot be downloaded .404.* Not Found"),
        (dict(hub="../x"), "is no name of the hub"),
        (dict(hub="a/b@"), "is no name of the hub"),
        (dict(hub="a/b/c"), "is no name of the hub"),
    ],
)
def test_data_sets_that_are_not_there_are_named(sums, source, message):
    with pytest.raises(ValueError, match=message) as caught:
        sources.check_source(SourceConfig(**source))
    assert "\n" not in str(caught.value)


def test_without_the_package_a_sentence_says_what_to_do(monkeypatch):
    hub._download.cache_clear()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"needs a package: pip install -e '.\[hub\]'") as caught:
        weights.find_model("hub:a/b")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(hub="a/b", file="c.jsonl"), "exactly one of gym, file, tfds and hub"),
        (dict(file="a.jsonl", subset="main"), "belong to a source of the kind hub"),
        (dict(hub="a/b", subset=".."), "subset must be a word"),
        (dict(hub="a/b", split="*"), "split must be a word"),
        (dict(hub="a/b", split=""), "split is empty"),
    ],
)
def test_sources_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        SourceConfig(**fields)


# ---- commits in the config -------------------------------------------------------------------


@pytest.fixture
def load(repositories, sums, tmp_path, monkeypatch):
    monkeypatch.setattr(settings.weights, "load_architecture", lambda path: {"vocab": 300})
    repositories.put("q/Qwen", "model", {"config.json": json.dumps(CONFIG)})

    def load(weights="hub:q/Qwen", **source):
        named = {"hub": "openai/gsm8k", "subset": "main"} | source
        tree = {
            **{"runs": str(tmp_path), "name": "mine", "data": {"sources": [named]}},
            **{"model": {"weights": weights}, "stages": [{"stage": "sft", "init": "pretrained"}]},
        }
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(tree))
        return settings.load(path)

    return load


def test_a_run_keeps_the_commits_with_which_it_began(repositories, load, tmp_path):
    cfg = load()
    assert cfg.model.weights == f"hub:q/Qwen@{MAIN}"
    assert cfg.data.sources[0].hub == f"openai/gsm8k@{MAIN}"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.resolved.yaml").write_text(settings.dump(cfg))
    repositories.commits["main"] = "c" * 40
    hub._download.cache_clear()
    assert load() == cfg, "the branch moved, and the run did not"
    other = load(weights="hub:q/Qwen@v1", hub="openai/gsm8k@main")
    assert other.model.weights == f"hub:q/Qwen@{OLD}"
    assert other.data.sources[0].hub == f"openai/gsm8k@{'c' * 40}"
    (tmp_path / "mine" / "config.resolved.yaml").unlink()
    assert load().model.weights == f"hub:q/Qwen@{'c' * 40}"


def test_a_name_that_is_part_of_another_is_not_that_one():
    assert hub.pinned("q/Qwen", f"hub:q/Qwen2@{MAIN}, hub:x-q/Qwen@{OLD}") == "q/Qwen"
    assert hub.pinned("q/Qwen", f"hub:q/Qwen@{MAIN}\n") == f"q/Qwen@{MAIN}"
