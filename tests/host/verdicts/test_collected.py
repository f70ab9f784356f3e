"""Answers that rl leaves for the label stage."""

import json

import pytest

from rlvr_jax.host.verdicts import collected


def row(step, i=0):
    return {
        "step": step, "problem": f"p{i}", "question": "q", "reference": "r",
        "answer_ids": [i], "opening": "\u89e3",
    }  # fmt: skip


def test_what_a_resumed_stage_does_again_replaces_what_was_there(tmp_path):
    path = tmp_path / "folder" / "rl.jsonl"
    whole = collected.Writer(path, 1)
    for step in range(1, 6):
        whole.write([row(step), row(step, 1)])
    whole.close()
    expected = path.read_bytes()
    path.write_bytes(expected[:-20])  # killed within the last line
    again = collected.Writer(path, 4)  # the last checkpoint was of step 3
    for step in (4, 5):
        again.write([row(step), row(step, 1)])
    again.close()
    assert path.read_bytes() == expected
    assert collected.load_answers(path)[0] == row(1)


def test_nothing_collected_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="holds no answers: raise `collect`"):
        collected.load_answers(tmp_path / "none.jsonl")


def test_a_share_is_a_share_and_always_the_same():
    picked = [collected.is_chosen("rl", step, i, 0.3) for step in range(100) for i in range(20)]
    assert 0.25 < sum(picked) / 2000 < 0.35
    assert picked == [collected.is_chosen("rl", s, i, 0.3) for s in range(100) for i in range(20)]
    assert all(collected.is_chosen("rl", 1, i, 1.0) for i in range(999))
    assert not any(collected.is_chosen("rl", 1, i, 0.0) for i in range(999))


@pytest.mark.parametrize("line", ["x", "[1]", "{}", "[" * 5000])
def test_a_damaged_line_in_the_middle_is_refused(tmp_path, line):
    """Only the last line can be one that a killed process was writing."""
    path = tmp_path / "rl.jsonl"
    text = "".join(json.dumps(row(step)) + "\n" for step in (1, 2))
    path.write_text(text + line + "\n" + text)
    with pytest.raises(ValueError, match=r"rl\.jsonl, line 3, is damaged"):
        collected.Writer(path, 4)
