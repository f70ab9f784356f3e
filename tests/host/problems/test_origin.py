"""The origin of a problem set changes with its data and with nothing else."""

import dataclasses
import importlib.metadata

import pytest

from rlvr_jax.config import DataConfig, SourceConfig
from rlvr_jax.host.problems.sources import origin

COUNTS = {"train": 5, "test": 2}


@pytest.fixture
def data(tmp_path) -> DataConfig:
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    files = SourceConfig(file=str(tmp_path / "train.jsonl"), test_file=str(tmp_path / "test.jsonl"))
    return DataConfig(sources=(files, SourceConfig(tfds="gsm8k", folder=str(tmp_path))))


def change(data, other, seed=0) -> str:
    return origin.describe_change(data, origin.compute_origin(other, COUNTS, seed))


def test_only_what_decides_the_problems_counts(data, tmp_path):
    before = origin.compute_origin(data, COUNTS, 0)
    assert len(before["files"]) == 2 and change(before, data) == ""
    assert change(before, dataclasses.replace(data, prompt_columns=99, chat=True)) == ""
    suffixed = dataclasses.replace(data.sources[0], suffix="Think.")
    other = dataclasses.replace(data, sources=(suffixed, data.sources[1]))
    assert "config" in change(before, other) and "config" in change(before, data, seed=1)


def test_the_file_that_changed_is_named(data, tmp_path):
    before = origin.compute_origin(data, COUNTS, 0)
    text = (tmp_path / "test.jsonl").read_text()
    (tmp_path / "test.jsonl").write_text(text.replace('"2"', '"3"'))
    assert change(before, data) == f"the data file {tmp_path / 'test.jsonl'} has changed"
    (tmp_path / "test.jsonl").write_text(text)
    assert change(before, data) == ""
    gone = before | {"files": before["files"] | {"more.jsonl": "1"}}
    assert change(gone, data) == "the data file more.jsonl is gone"
    new = before | {"files": {str(tmp_path / "train.jsonl"): "1"}}
    assert "is new" in change(new, data)


def test_the_version_of_reasoning_gym_counts_where_it_is_used(data, monkeypatch):
    gym = DataConfig(sources=(SourceConfig(gym="chain_sum"),))
    before, files = origin.compute_origin(gym, COUNTS, 0), origin.compute_origin(data, COUNTS, 0)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99.0")
    assert "version of reasoning-gym was" in change(before, gym)
    assert change(files, data) == ""
