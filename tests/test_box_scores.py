"""Scores are read from token ids as from text, and hostile texts are no votes."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlvr_jax import box_scores
from rlvr_jax.host.critiques import reader
from rlvr_jax.structs import Ranking, Rollout, Spelling

PIECES = (
    *("\\", "boxed", "{", "}", "8", "10", "1", "0", " ", ",", ", ", "\n", "\\boxed{", "} ", "9"),
    *("text", "7, 3", "\u00e9", "-", ".", "\\box", "ed{", "}}", "00", "\\boxed {"),
)


def spelling():
    texts = [piece.encode() for piece in PIECES]
    table = np.zeros((len(texts), max(map(len, texts))), np.uint8)
    for i, text in enumerate(texts):
        table[i, : len(text)] = np.frombuffer(text, np.uint8)
    length = np.array([len(text) for text in texts], np.int32)
    return Spelling(table, length, np.zeros(0, np.uint8), np.bool_(True))


def rollout(rows, truncated=None):
    width = max(map(len, rows))
    ids = np.zeros((len(rows), width), np.int32)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    length = np.array([len(row) for row in rows], np.int32)
    truncated = np.zeros(len(rows), bool) if truncated is None else np.array(truncated)
    none = np.zeros((len(rows), 0), np.int32)
    return Rollout(none, none > 0, ids, length, truncated, ids * 0.0)


def ranking(counts, best=None, binary=None, most=4):
    counts = np.array(counts)
    best = np.zeros(len(counts), np.int32) if best is None else np.array(best, np.int32)
    binary = np.zeros(len(counts), bool) if binary is None else np.array(binary)
    return Ranking(np.arange(most) < counts[:, None], best, binary)


def random_rows(count, seed):
    """Random tokens, half of them in the shape of a box that is often nearly right."""
    rng = random.Random(seed)
    rows, counts = [], []
    for _ in range(count):
        n = rng.randint(1, 4)
        ids = [rng.randrange(len(PIECES)) for _ in range(rng.randint(0, 10))]
        if rng.random() < 0.7:
            ids.append(12)
            for j in range(n):
                ids += [rng.choice([9, 10])] if j else []
                ids += [rng.choice([4, 4, 4, 5, 6, 7, 14, 23])]
                ids += [8] if rng.random() < 0.2 else []
            ids += [rng.choice([3, 13, 22])]
            ids += [rng.randrange(len(PIECES)) for _ in range(rng.randint(0, 4))]
        rows.append(ids)
        counts.append(n)
    return rows, counts


READ = jax.jit(box_scores.read_scores, static_argnums=(3, 4))


@pytest.mark.parametrize("clamp", [False, True])
def test_device_and_host_read_the_same_scores_from_thousands_of_texts(clamp):
    rows, counts = random_rows(4000, 1)
    binary = [n == 1 and i % 2 == 0 for i, n in enumerate(counts)]
    votes = READ(rollout(rows), ranking(counts, binary=binary), spelling(), clamp, False)
    valid = 0
    for i, row in enumerate(rows):
        text = "".join(PIECES[j] for j in row)
        scale = reader.BINARY if binary[i] else reader.LIKERT
        expected = reader.read_scores(text, counts[i], scale, clamp)
        assert bool(votes.valid_B[i]) == (expected is not None), text
        found = tuple(np.asarray(votes.score_BN[i]).astype(int))
        assert found == (*(expected or (0,) * counts[i]), *[0] * (4 - counts[i])), text
        valid += expected is not None
    assert 500 < valid < 3500  # both cases are frequent


def test_device_and_host_read_the_same_picks():
    rows, counts = random_rows(4000, 2)
    counts = [max(n, 2) for n in counts]
    votes = READ(rollout(rows), ranking(counts), spelling(), False, True)
    picked = 0
    for i, row in enumerate(rows):
        text = "".join(PIECES[j] for j in row)
        expected = reader.read_pick(text, counts[i])
        assert bool(votes.valid_B[i]) == (expected is not None), text
        assert np.asarray(votes.score_BN[i]).tolist() == [float(j == expected) for j in range(4)]
        picked += expected is not None
    assert picked > 50


def test_the_probability_of_a_verdict_is_that_of_the_tokens_that_spell_it():
    """Neither those of the box nor of text around it, and 0 where nothing is boxed."""
    words = [
        (["text", "\\boxed{", "8", "}", "text"], [2]),
        (["\\boxed{", " ", "1", "0", "} "], [1, 2, 3]),
        (["\\", "boxed", "{", "7, 3", "}}"], [3]),
        (["\\boxed{", "8", "}", "\\boxed{", "9", "}", "8"], [4]),  # the last box
        (["\\boxed{", "}"], None),
        (["\\boxed{", "8"], None),
        (["text"], None),
    ]
    given = rollout([[PIECES.index(word) for word in row] for row, _ in words])
    chance = np.random.default_rng(0).uniform(0.2, 1.0, given.response_BR.shape)
    given = given.replace(logprob_BR=np.log(chance).astype(np.float32))
    found = jax.jit(box_scores.read_probability)(given, spelling())
    for i, (_, columns) in enumerate(words):
        expected = 0.0 if columns is None else np.prod(chance[i, columns])
        np.testing.assert_allclose(found[i], expected, rtol=1e-5)


@pytest.mark.parametrize(
    "text",
    [
        "no box at all",
        r"\boxed{8, 6",  # not closed
        r"\boxed{8}",  # one score for two responses
        r"\boxed{8, 6, 4}",
        r"\boxed{}",
        r"\boxed{8,, 6}",
        r"\boxed{8, 6,}",
        r"\boxed{8 6}",
        r"\boxed{8.5, 6}",
        r"\boxed{11, 6}",
        r"\boxed{0, 6}",
        r"\boxed{-8, 6}",
        r"\boxed{08, 6}",
        r"\boxed{\text{8, 6}}",
        r"\boxed{8, six}",
        r"\boxed{٨, ٦}",
        r"\boxed{" + "9" * 1000 + ", 6}",
        r"\boxed{8, 6} and then \boxed{none}",
        r"\boxed{8, 6}" + "x" * 5000,  # too far from the end
    ],
)
def test_what_is_not_exactly_one_list_of_scores_is_no_vote(text):
    assert reader.read_scores(text, 2) is None


def test_the_last_closed_box_counts():
    assert reader.read_scores(r"\boxed{1, 2} \boxed{ 10,3 } so \boxed{4, ", 2) == (10, 3)
    assert reader.read_scores(r"all scores 10! \boxed{10, 10} Scores: \boxed{2, 7}.", 2) == (2, 7)
    assert reader.read_scores(r"\boxed{12, 0}", 2, clamp=True) == (10, 1)
    assert reader.read_scores(r"\boxed{1}", 1, reader.BINARY) == (1,)
    assert reader.read_scores(r"\boxed{2}", 1, reader.BINARY) is None


def test_a_truncated_judgement_is_no_vote():
    rows = [[12, 4, 9, 14, 3]] * 2
    votes = READ(rollout(rows, [False, True]), ranking([2, 2]), spelling(), False, False)
    assert votes.valid_B.tolist() == [True, False]
    assert votes.score_BN.tolist() == [[8, 9, 0, 0], [0, 0, 0, 0]]


def test_a_judgement_is_right_if_the_best_response_is_strictly_on_top():
    cases = [  # scores, best, right, tied
        ((8, 3, 0, 0), 3, 0, True, False),
        ((8, 8, 3, 0), 3, 0, False, True),
        ((8, 9, 3, 0), 3, 0, False, False),
        ((8, 3, 3, 0), 3, 0, True, False),
        ((2, 3, 0, 0), 2, 1, True, False),
        ((1, 0, 0, 0), 1, 1, True, False),
        ((1, 0, 0, 0), 1, 0, False, False),
        ((0, 0, 0, 0), 1, 0, True, False),
    ]
    score = jnp.array([case[0] for case in cases], jnp.float32)
    rank = ranking([case[1] for case in cases], [case[2] for case in cases])
    votes = box_scores.Votes(score, jnp.ones(len(cases), bool))
    assert box_scores.is_right(votes, rank).tolist() == [case[3] for case in cases]
    assert box_scores.is_tied(votes, rank).tolist() == [case[4] for case in cases]
    for scores, n, best, right, _ in cases:
        assert reader.is_right(scores[:n], best) == right
    nobody = box_scores.Votes(score, jnp.zeros(len(cases), bool))
    assert not box_scores.is_right(nobody, rank).any()
    assert not reader.is_right(None, 0)
