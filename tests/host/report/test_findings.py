"""The first view says in plain words what was learned, and whether to trust it."""

import pytest

from rlvr_jax.host.report import findings, words


def stage(name="rl", kind="rl", steps=10, **series):
    named = {key.replace("__", "/"): value for key, value in series.items()}
    return {"name": name, "type": kind, "step": list(range(1, steps + 1)), "series": named}


def evaluation(name, policy, share, step=0, n=400, **verifier):
    ways = {"accuracy": {"all": share}}
    entry = {"name": name, "policy": policy, "step": step, "n": n, "verifier": verifier}
    return entry | {"ways": ways, "audit": {}}


BEFORE = evaluation("before", "sft", 0.4)


def judged(stages, evals, starts):
    found = findings.changes(stages, evals, starts)
    return findings.learned(stages, evals, found), findings.trust(stages, evals, found)


def test_a_gain_that_nothing_speaks_against():
    evals = [BEFORE, evaluation("after", "rl", 0.6, step=150)]
    said, trust = judged([stage()], evals, {"rl": "sft"})
    # 1.96 sqrt(0.24/400 + 0.24/400) = 0.0679
    assert said == [
        "rl: 60.0 % of the answers to held-out problems are right after 150 steps, and 40.0 % were "
        "before: +20.0 points (95 % interval +13.2 to +26.8)."
    ]
    assert trust == {"level": "good", "why": []}


def test_each_stage_is_compared_with_its_own_start():
    evals = [BEFORE, evaluation("a", "rl", 0.5, 5), evaluation("b", "rl2", 0.7, 5)]
    stages = [stage(), stage("rl2")]
    found = findings.changes(stages, evals, {"rl": "sft", "rl2": "rl"})
    assert [(c.stage, c.before, c.after) for c in found] == [("rl", 0.4, 0.5), ("rl2", 0.5, 0.7)]
    # A best checkpoint is of its stage, and without a start the first evaluation counts.
    best = [BEFORE, evaluation("best", "rl@best", 0.8, 5)]
    assert [c.gain for c in findings.changes([stage()], best, {})] == [pytest.approx(0.4)]


@pytest.mark.parametrize(
    ("after", "n", "level", "reason"),
    [
        (0.42, 400, "care", "within what chance explains"),
        (0.2, 400, "bad", "made the policy worse"),
        (0.9, 64, "care", "Only 64 held-out problems"),
    ],
)
def test_reasons_to_doubt_a_change(after, n, level, reason):
    evals = [BEFORE, evaluation("after", "rl", after, 9, n)]
    _, trust = judged([stage()], evals, {"rl": "sft"})
    assert trust["level"] == level and reason in trust["why"][0]


def test_a_reward_above_the_oracle_is_bad_where_nothing_else_was_measured():
    hacked = stage(oracle__gap=[0.2] * 10, reward__mean=[0.1] * 5 + [0.9] * 5)
    said, trust = judged([hacked], [], {})
    assert "nothing was measured on held-out problems" in said[0]
    assert (
        trust["level"] == "bad" and "20.0 points above the score of the oracle" in trust["why"][0]
    )
    assert "not known whether the policy answers better" in trust["why"][1]
    evals = [BEFORE, evaluation("after", "rl", 0.6, 9)]
    assert judged([hacked], evals, {"rl": "sft"})[1]["level"] == "care"


def test_alarms_cuts_and_verifiers_are_named():
    series = {"hack__alarm_length": [0.0] * 4 + [1.0] * 6, "completion__truncated_frac": [0.5] * 10}
    evals = [BEFORE, evaluation("after", "rl", 0.6, 9, false_positive=0.3)]
    why = judged([stage(**series)], evals, {"rl": "sft"})[1]["why"]
    assert why == [
        "rl: alarm length from step 5 on.",
        "50 % of the answers of rl were cut off at the token limit.",
        "The verifier accepts 30.0 % of the wrong answers in after.",
    ]


def test_held_out_accuracy_during_a_stage_counts_as_measured():
    said, trust = judged([stage(eval__accuracy=[0.3, None, 0.5], steps=3)], [], {})
    assert said == ["rl: held-out accuracy went from 30.0 % to 50.0 % by step 3."]
    assert trust["level"] == "good"


def test_a_prm_alone_is_judged_by_what_it_tells_apart():
    """The rewards are those of a policy that stays."""
    series = {"prm__acc": [0.5, 0.9], "reward__mean": [0.6, 0.5]}
    said, _ = judged([stage("prm", "prm", steps=2, **series)], [], {})
    assert said == [
        "prm: the PRM tells right from wrong in 50.0 % of the answers at first, and in 90.0 % "
        "after 2 steps."
    ]


def test_a_run_without_rewards_says_what_it_has():
    assert judged([stage("sft", "sft", loss=[4.0, 1.0], steps=2)], [], {})[0] == [
        "sft: the loss went from 4 to 1."
    ]
    assert judged([], [BEFORE], {})[0][0].startswith("before: 40.0 % of the answers")
    assert judged([], [], {}) == ([], {"level": "unknown", "why": []})


def test_what_is_worth_a_look_includes_constants_outside_their_range():
    constant = stage(completion__truncated_frac=[1.0] * 10, policy__lr=[1e-3] * 10)
    constant["nonfinite"] = {"policy/grad_norm": 2}
    data = {"remarks": ["said"], "stages": [constant], "damaged": 1}
    found = findings.attention(data)
    assert [entry.get("key") for entry in found] == [None, "completion/truncated_frac", None, None]
    assert found[1]["value"] == 1.0 and found[1]["stage"] == "rl"
    assert found[2]["text"] == "policy/grad_norm was not finite in 2 steps of rl."
    assert found[3]["text"] == "1 line of metrics.jsonl could not be read."


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.5"),
        (-1234, "\u22121234"),
        (12345, "12.3k"),
        (2e9, "2G"),
        (1e-5, "1e\u22125"),
        (0, "0"),
    ],
)
def test_numbers_are_written_short(value, text):
    assert words.amount(value) == text


def test_times_have_the_unit_that_suits_them():
    assert [words.seconds(x) for x in (0.25, 42, 600, 7200)] == [
        "0.25 s",
        "42 s",
        "10.0 min",
        "2.0 h",
    ]
