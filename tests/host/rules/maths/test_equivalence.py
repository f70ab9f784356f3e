r"""The rule `math`: the pairs of `make_pairs`, hostile answers, threads and processes."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from make_pairs import HOSTILE, RIGHT, WRONG

from rlvr_jax.host import rules

MARKED = ("boxed", "####", "Answer:", "<", "\\[")


def ways(answer):
    """The answer alone, and as models end a solution."""
    if any(mark in answer for mark in MARKED):
        return [answer]
    return [answer, f"We divide.\nSo it is $\\boxed{{{answer}}}$.", f"First, 3 + 4 = 7.\n{answer}"]


def wrong(pairs, score):
    texts = [(gold, text) for gold, answer in pairs for text in ways(answer)]
    return [pair for pair in texts if rules.score(pair[1], pair[0]) != score], len(texts)


def test_answers_that_say_the_same():
    missed, total = wrong(RIGHT, 1.0)
    assert len(RIGHT) >= 200 and len(missed) <= 0.1 * total  # the promise
    assert not missed  # what it is today


def test_answers_that_do_not():
    missed, total = wrong(WRONG, 0.0)
    assert len(WRONG) >= 150 and len(missed) <= 0.03 * total
    assert not missed


@pytest.mark.parametrize("gold", [pair[0] for pair in RIGHT])
def test_a_reference_is_equal_to_itself(gold):
    assert rules.score(gold, gold) == 1.0


def test_hostile_answers_score_zero_and_fast():
    assert len(set(HOSTILE)) >= 50
    for answer in HOSTILE:
        for text in (answer, f"\\boxed{{{answer}}}"):
            for gold in ("7", "x^2+1", r"\{1,2\}"):
                begin = time.monotonic()
                assert rules.score(text, gold) == 0.0, text[:60]
                assert time.monotonic() - begin < 5, text[:60]
    assert rules.score("so \\boxed{42}", "42") == 1.0
    assert not Path("/tmp/rlvr_jax_was_here").exists()


@pytest.mark.parametrize("gold", [None, 3, b"7", "", "\x00", "9" * 10**6, "(" * 10**5, "\\boxed{"])
def test_a_strange_reference_scores_zero(gold):
    assert rules.score("7", gold) == 0.0


def test_kinds_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="neither a kind .* did you mean 'math'"):
        rules.score("7", "7", "maths")


def test_from_a_thread_and_a_process():
    found = []
    thread = threading.Thread(target=lambda: found.append(rules.score("1/2", "0.5")))
    thread.start()
    thread.join()
    code = "from rlvr_jax.host import rules; print(rules.score('0.5', '1/2'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found == [1.0] and done.stdout == "1.0\n"


def test_importing_the_rules_imports_no_jax():
    code = (
        "import sys; from rlvr_jax.host import rules\n"
        "from rlvr_jax.host.workers import pool, worker; print('jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
