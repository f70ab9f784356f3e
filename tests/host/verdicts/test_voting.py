"""One answer of several: against counting by hand."""

import math

import numpy as np
import pytest

from rlvr_jax.host.verdicts import voting


def test_equal_answers_are_one_ballot() -> None:
    same = ["so \\boxed{12}", "12", "we add\n12.0", "The answer is: 12.", "#### 12", "$12$"]
    assert {voting.ballot(text) for text in same} == {"12"}
    assert voting.ballot("1,000") == voting.ballot("1000") != voting.ballot("100")
    assert voting.ballot("it is\nYes.") == voting.ballot("  yes ") == "yes"
    assert voting.ballot("\\boxed{x +  1}") == voting.ballot("x + 1")
    assert voting.ballot("") is None and voting.ballot("\\boxed{12") is None


def by_hand(ballots, weights):
    """Add up, look for the largest, take whoever said it first."""
    place, most = 0, -1.0
    for i, vote in enumerate(ballots):
        total = sum(w for other, w in zip(ballots, weights, strict=True) if other == vote)
        if vote is not None and total > most:
            place, most = i, total
    return place


@pytest.mark.parametrize("samples", [1, 4, 7])
def test_votes_are_those_that_a_hand_counts(samples) -> None:
    rng = np.random.default_rng(samples)
    problems = 50
    ballots = rng.choice(["3", "4", "5", None], problems * samples).tolist()
    score = rng.normal(0, 3, problems * samples)
    weight = [1 / (1 + math.exp(-s)) for s in score]
    groups = [slice(q * samples, (q + 1) * samples) for q in range(problems)]

    want = [g.start + by_hand(ballots[g], [1] * samples) for g in groups]
    np.testing.assert_array_equal(voting.majority(ballots, samples), want)
    want = [g.start + by_hand(ballots[g], weight[g]) for g in groups]
    np.testing.assert_array_equal(voting.weighted(ballots, score, samples), want)
    want = [g.start + max(range(samples), key=lambda i: score[g][i]) for g in groups]  # noqa: B023
    np.testing.assert_array_equal(voting.best(score, samples), want)


def test_ties_go_to_the_first_and_who_says_nothing_does_not_vote() -> None:
    assert voting.majority(["a", "b", "b", "a"], 4).tolist() == [0]
    assert voting.majority([None, None, "b", "a"], 4).tolist() == [2]
    assert voting.majority([None, None, None, "a", "b", "b"], 3).tolist() == [0, 4]
    assert voting.best(np.array([1.0, 2.0, 2.0]), 3).tolist() == [1]


def test_weights_may_outvote_and_extremes_are_no_nan() -> None:
    ballots = ["a", "a", "b"]
    assert voting.weighted(ballots, np.array([-5.0, -5.0, 5.0]), 3).tolist() == [2]
    assert voting.weighted(ballots, np.array([-1e6, -1e6, 1e6], np.float32), 3).tolist() == [2]
    assert voting.weighted(ballots, np.zeros(3), 3).tolist() == [0]
