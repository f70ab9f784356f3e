"""The judge that is a rule."""

from rlvr_jax.host.verdicts.judge import Rule

RECORDS = [{"question": "", "reference": "4", "answer": "4", "task": "", "extra": ""}] * 3


def test_a_named_rule():
    judge = Rule("math")
    assert judge(["4.0", "5", ""], RECORDS) == [[1], [0], [0]]
    judge.close()


def test_a_rule_that_crashes_or_hangs_says_nothing_of_the_answer(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import time\n\n"
        "def score(completion, record):\n"
        "    if completion == 'hang':\n        time.sleep(60)\n"
        "    return float(completion)\n"
    )
    judge = Rule(str(path))
    assert judge(["1", "crash", "hang"], RECORDS) == [[1], [None], [None]]
    judge.close()
