"""Problems that are named on a command line."""

import json

import pytest
import yaml

from rlvr_jax.config import DataConfig, SourceConfig
from rlvr_jax.host.problems import sources
from rlvr_jax.host.problems.sources import named, prompt_files


def parse(text: str) -> SourceConfig:
    return SourceConfig(**yaml.safe_load(text))


def write(path, count: int, start: int = 0) -> str:
    rows = [{"question": f"{i} + 1?", "answer": str(i + 1)} for i in range(start, start + count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows + rows[:1]))
    return str(path)


def test_a_file_gives_all_its_problems_once_and_in_their_order(tmp_path) -> None:
    name = write(tmp_path / "p.jsonl", 9)
    rows = named.read_named(name, 0, 0, parse)
    assert [row["question"] for row in rows] == [f"{i} + 1?" for i in range(9)]
    some = named.read_named(name, 4, 0, parse)
    assert len(some) == 4 and some == [row for row in rows if row in some]
    assert some == named.read_named(name, 4, 0, parse) != named.read_named(name, 4, 1, parse)
    assert named.read_named(name, 20, 0, parse) == rows
    assert len(named.distinct([rows, some])) == 9


def test_a_source_that_holds_problems_out_gives_those(tmp_path) -> None:
    train, test = write(tmp_path / "a.jsonl", 9), write(tmp_path / "b.jsonl", 3, 50)
    rows = named.read_named(f"{{file: {train}, test_file: {test}, domain: d}}", 0, 0, parse)
    assert [row["question"] for row in rows] == [f"{i} + 1?" for i in (50, 51, 52)]
    assert {row["domain"] for row in rows} == {"d"}


@pytest.mark.parametrize("name", ["task:sum", "gym:chain_sum"])
def test_what_has_no_end_gives_a_number(name) -> None:
    pytest.importorskip("reasoning_gym")
    rows = named.read_named(name, 5, 0, parse)
    assert len({row["key"] for row in rows}) == 5 == len(rows)
    assert rows == named.read_named(name, 5, 0, parse)


def test_a_config_gives_what_its_run_would_hold_out(tmp_path) -> None:
    source = SourceConfig(file=write(tmp_path / "p.jsonl", 60))
    data = DataConfig(sources=(source,), sft=0, label=0, train=20, test=8)
    counts = {"train": 20, "test": 8}
    assert named.build_held_out(data, 3) == sources.build_splits(data, counts, 3)["test"]


@pytest.mark.parametrize("name", ["gsm8k", "p.csv", "tsak:sum", ""])
def test_a_name_of_nothing_is_refused(name) -> None:
    with pytest.raises(ValueError, match="names no problems: give a file"):
        named.read_named(name, 0, 0, parse)


def test_prompts_come_from_lines_and_from_json(tmp_path) -> None:
    (tmp_path / "a.txt").write_text("one\n\n two \n")
    assert prompt_files.read_prompts(tmp_path / "a.txt") == [{"prompt": "one"}, {"prompt": " two "}]
    messages = [{"role": "user", "content": "three"}]
    rows = [{"prompt": "x", "id": 7}, {"messages": messages}, {"prompt": messages}]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = prompt_files.read_prompts(tmp_path / "b.jsonl")
    assert read[:2] == rows[:2] and read[2]["messages"] == messages
    (tmp_path / "c.txt").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="not UTF-8"):
        prompt_files.read_prompts(tmp_path / "c.txt")
    with pytest.raises(ValueError, match="there is no file"):
        prompt_files.read_prompts(tmp_path / "d.txt")
