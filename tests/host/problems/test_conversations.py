"""Conversations: rows without a reference are read, serve the split sft alone, or are refused."""

import json

import pytest

from rlvr_jax.config import DataConfig, SourceConfig
from rlvr_jax.host.problems import sources
from rlvr_jax.host.problems.sources import files, origin

SYSTEM = {"role": "system", "content": "Be short."}


def talk(*texts):
    roles = ["user", "assistant"] * len(texts)
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]


def parse(**row):
    return files.parse_records(row, "file:mine")


def test_messages_alone_are_a_conversation():
    (row,) = parse(messages=[SYSTEM, *talk("hi", "ho", "why?", "so")], source="x")
    assert json.loads(row["messages"]) == [SYSTEM, *talk("hi", "ho", "why?")]
    assert (row["question"], row["demonstration"]) == ("why?", "so")
    assert (row["task"], row["domain"], row["reference"]) == ("talk:mine", "mine", "")
    assert parse(messages=json.dumps(talk("a", "b")))[0]["demonstration"] == "b"


def test_a_prompt_and_a_completion_are_one():
    (plain,) = parse(prompt="hi", completion=" ho")
    (listed,) = parse(prompt=talk("hi"), completion=talk("", " ho")[1:])
    assert plain == listed and plain["demonstration"] == " ho"
    assert parse(prompt="hi", completion="ho", answer=None, domain="d")[0]["domain"] == "d"


def test_a_reference_makes_a_problem():
    for more in ({"ground_truth": "6"}, {"answer": "6", "prompt": "3 + 3"}):
        (row,) = parse(messages=talk("3 + 3", "It is 6"), **more)
        assert (row["task"], row["reference"]) == ("file:mine", "6")
    (row,) = parse(prompt="3 + 3", completion="It is 6", reward_model={"ground_truth": "6"})
    assert row["reference"] == "6"


@pytest.mark.parametrize(
    "row, message",
    [
        ({"messages": talk("hi", "ho", "?")}, "does not end with the assistant's message"),
        ({"messages": talk("", "ho")}, "must end with a user message"),
        ({"messages": [talk("a", "b")[1]]}, "must end with a user message"),
        ({"messages": talk("hi", " ")}, "content of a message of the assistant is no text"),
        ({"messages": talk("hi", None)}, "content of a message of the assistant is no text"),
        ({"messages": talk("hi", "", "x", "y")}, "content of a message of the assistant is no"),
        ({"messages": "hi"}, "its messages must be a list"),
        ({"messages": [{"role": "tool", "content": "x"}, *talk("a", "b")]}, "needs a role"),
        ({"prompt": "hi", "completion": 3}, "its completion must be text or a list"),
        ({"messages": talk("hi", "a\x00b")}, "NUL"),
        ({"messages": talk("hi", "\frac{1}{2}")}, "LaTeX lost a backslash"),
    ],
)
def test_bad_conversations_are_refused(row, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse(**row)
    assert "\n" not in str(caught.value)


# ---- splits ---------------------------------------------------------------------------------


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def talks(tmp_path):
    rows = [{"messages": talk(f"hi {i}", "ho")} for i in range(60)]
    return write(tmp_path / "talks.jsonl", rows)


@pytest.fixture
def sums(tmp_path):
    rows = [{"question": f"{i} + 1?", "answer": str(i + 1)} for i in range(90)]
    return write(tmp_path / "sums.jsonl", rows)


def test_conversations_are_for_sft_alone(talks, sums):
    mix = [SourceConfig(file=talks), SourceConfig(file=sums)]
    out = sources.mix_sources(mix, {"sft": 20, "train": 20, "test": 10}, 0)
    assert [row["task"][:5] for row in out["sft"]].count("talk:") == 10
    assert {row["task"] for row in [*out["train"], *out["test"]]} == {"file:sums"}
    mix[1] = SourceConfig(file=sums, splits=("train", "test"))
    out = sources.mix_sources(mix, {"sft": 20, "train": 20, "test": 10}, 0)
    assert {row["task"] for row in out["sft"]} == {"talk:talks"}
    assert len(out["train"]) == 20 and len(out["test"]) == 10
    with pytest.raises(ValueError, match="data.train is 5 and no source has problems for it"):
        sources.mix_sources([SourceConfig(file=talks)], {"sft": 5, "train": 5}, 0)


def test_several_answers_to_one_prompt_are_kept_in_one_split(tmp_path):
    rows = [{"prompt": f"say {i % 9}", "completion": f"so {i}"} for i in range(45)]
    rows += rows[:5]  # the same again
    path = write(tmp_path / "a.jsonl", rows)
    out = sources.mix_sources([SourceConfig(file=path)], {"sft": 45}, 0)
    assert len(out["sft"]) == 45
    tests = [{"question": "SAY  3", "answer": "1"}]
    held = SourceConfig(file=write(tmp_path / "b.jsonl", tests), splits=("test",))
    held = SourceConfig(file=held.file, test_file=held.file, splits=("test",))
    out = sources.mix_sources([SourceConfig(file=path), held], {"sft": 40, "test": 1}, 0)
    assert "say 3" not in {row["question"] for row in out["sft"]}


def test_a_file_of_both_kinds_is_refused(tmp_path, talks):
    rows = [{"messages": talk("a", "b")}, {"question": "1 + 1?", "answer": "2"}]
    path = write(tmp_path / "both.jsonl", rows)
    with pytest.raises(ValueError, match="both.jsonl has rows with a reference and conversations"):
        sources.mix_sources([SourceConfig(file=path)], {"sft": 1}, 0)


def test_the_origin_of_older_folders_has_no_splits(talks):
    data = DataConfig(sources=(SourceConfig(file=talks), SourceConfig(file=talks, splits=("sft",))))
    described = origin.compute_origin(data, {"sft": 1}, 0)["config"]["sources"]
    assert "splits" not in described[0] and described[1]["splits"] == ["sft"]
