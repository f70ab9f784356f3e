r"""Read the scores that a generative reward model writes, from its token ids, on the device.

A judgement ends with its scores in one box, such as \boxed{8, 3}.  Only the last box that is
closed counts, and it counts only if it holds exactly one integer for each response, in range and
without leading zeros, separated by commas and blanks.  Everything else is an invalid vote; there
is no default score.  `host.critiques.reader` reads the same from text.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlvr_jax import byte_search as search
from rlvr_jax import markers
from rlvr_jax.structs import Array, Ranking, Rollout, Spelling

BLANKS = (9, 10, 13, 32)
LARGEST = 10_000  # longer numbers are cut off here, far outside of every range


class Votes(NamedTuple):
    """Votes hold the scores of judgements, in the order in which the responses were shown."""

    score_BN: Array  # float32, 0 where there is no response and in an invalid vote
    valid_B: Array  # bool


def read_scores(
    rollout: Rollout, ranking: Ranking, spelling: Spelling, clamp: bool, pick: bool
) -> Votes:
    """Return the votes of the judgements in a rollout; a truncated judgement is invalid.

    `ranking` has one entry for each judgement.  N is the largest number of responses.  With `clamp`
    an integer outside the range counts as the nearest one in it.  With `pick` the box holds the
    number of the best response, counted from 1, which gets the score 1; the others get 0.
    """
    number_BN, count_B = _read_box(rollout, spelling, ranking.exists_BN.shape[1])
    low_B, high_B = jnp.where(ranking.binary_B, 0, 1), jnp.where(ranking.binary_B, 1, 10)
    wanted_B, exists_BN = ranking.count_B, ranking.exists_BN
    if pick:
        high_B, wanted_B = ranking.count_B, jnp.ones_like(wanted_B)
        exists_BN = jnp.arange(exists_BN.shape[1]) == jnp.zeros_like(wanted_B)[:, None]
    if clamp:
        number_BN = jnp.clip(number_BN, low_B[:, None], high_B[:, None])
    in_range_BN = (number_BN >= low_B[:, None]) & (number_BN <= high_B[:, None])
    valid_B = (count_B == wanted_B) & jnp.all(in_range_BN | ~exists_BN, 1) & ~rollout.truncated_B
    if pick:
        places_N = jnp.arange(exists_BN.shape[1])
        number_BN = jnp.where(places_N == number_BN[:, :1] - 1, 1, 0)
        exists_BN = ranking.exists_BN
    score_BN = jnp.where(valid_B[:, None] & exists_BN, number_BN, 0)
    return Votes(score_BN.astype(jnp.float32), valid_B)


def is_right(votes: Votes, ranking: Ranking) -> Array:
    """Return bool [B]: whether a vote is right (arXiv 2504.02495, section 3.2, equation 4).

    Of several responses the best one must have a score strictly above every other one; a tie with
    it is wrong.  A single response must have its true score.  An invalid vote is wrong.
    """
    places_N = jnp.arange(votes.score_BN.shape[1])
    best_BN = places_N == ranking.best_B[:, None]
    best_B = jnp.sum(jnp.where(best_BN, votes.score_BN, 0.0), 1)
    other_B = jnp.max(
        jnp.where(ranking.exists_BN & ~best_BN, votes.score_BN, -jnp.inf), 1, initial=-jnp.inf
    )
    alone_B = votes.score_BN[:, 0].astype(jnp.int32) == ranking.best_B
    return votes.valid_B & jnp.where(ranking.count_B == 1, alone_B, best_B > other_B)


def is_tied(votes: Votes, ranking: Ranking) -> Array:
    """Return bool [B]: whether a valid vote on several responses gives its top score twice."""
    score_BN = jnp.where(ranking.exists_BN, votes.score_BN, -jnp.inf)
    top_B = jnp.sum(score_BN == jnp.max(score_BN, 1, keepdims=True), 1)
    return votes.valid_B & (top_B > 1)


def read_probability(rollout: Rollout, spelling: Spelling) -> Array:
    """Return the probability with which the content of the last closed box was sampled, [B].

    It is the product of those of all tokens that spell a part of the content, under the
    distribution that the rollout was sampled from; 0 without a box.  As the weight of a verdict it
    is that of the judge with token probabilities in arXiv 2504.02495, section 5.
    """
    box = _find_box(rollout, spelling)
    first_B, end_B = box.first_B[:, None], (box.first_B + box.length_B)[:, None]
    start_BR, end_BR = box.text.start_BR, box.text.end_BR
    inside_BR = (start_BR < end_B) & (end_BR > first_B) & (end_BR > start_BR)
    inside_BR &= rollout.response_mask_BR
    logprob_B = jnp.sum(jnp.where(inside_BR, rollout.logprob_BR, 0.0), 1)
    return jnp.where(box.length_B > 0, jnp.exp(logprob_B), 0.0)


class _Box(NamedTuple):
    """A _Box is the content of the last closed box of each judgement."""

    text: search.ByteText
    first_B: Array  # int32, the place of its first byte
    length_B: Array  # int32, its bytes; 0 if there is no box, or one that is too long


def _read_box(rollout: Rollout, spelling: Spelling, most: int) -> tuple[Array, Array]:
    """Return the integers in the last closed box, int32 [B, N], and their number.

    The number is 0 if there is no such box or if it holds anything but integers.
    """
    text, first_B, length_B = _find_box(rollout, spelling)
    place_BX = first_B[:, None] + jnp.arange(markers.SCORE_BYTES)
    byte_BX = search.take(text.byte_BN, jnp.clip(place_BX, 0, text.byte_BN.shape[1] - 1))
    return _parse_integers(byte_BX, length_B, most)


def _find_box(rollout: Rollout, spelling: Spelling) -> _Box:
    """Return the content of the last closed box."""
    text = search.spell_bytes(rollout, spelling)
    opening = search.find_word_exactly(text.byte_BN, markers.SCORE_BOX)
    start_B = jnp.zeros_like(text.total_B)
    closing_BN = text.byte_BN == ord("}")
    last_B = search.last_place(closing_BN, start_B)
    before_BN = search.places(text.byte_BN) < last_B[:, None]
    open_B = search.last_place(opening & before_BN, start_B)
    first_B = open_B + len(markers.SCORE_BOX)
    behind_BN = search.places(text.byte_BN) >= first_B[:, None]
    length_B = search.first_place(closing_BN & behind_BN) - first_B
    readable_B = (open_B >= 0) & (length_B <= markers.SCORE_BYTES)
    return _Box(text, first_B, jnp.where(readable_B, length_B, 0))


class _Parsed(NamedTuple):
    """A _Parsed is the state of the reader after some bytes of a box."""

    number_BN: Array  # int32, the integers that are complete
    count_B: Array  # int32, how many they are
    value_B: Array  # int32, the integer that is being read
    digits_B: Array  # int32, its digits so far
    ended_B: Array  # bool, a blank has ended it
    bad_B: Array  # bool, these are no integers


def _parse_integers(byte_BX: Array, length_B: Array, most: int) -> tuple[Array, Array]:
    """Parse integers that commas separate; return them [B, N] and their number, 0 if it is bad."""
    rows = byte_BX.shape[0]
    zero_B, false_B = jnp.zeros(rows, jnp.int32), jnp.zeros(rows, bool)
    empty = _Parsed(jnp.zeros((rows, most), jnp.int32), zero_B, zero_B, zero_B, false_B, false_B)

    def finish(s: _Parsed) -> _Parsed:
        here_BN = jnp.arange(most) == s.count_B[:, None]
        number_BN = jnp.where(here_BN, s.value_B[:, None], s.number_BN)
        bad_B = s.bad_B | (s.digits_B == 0)
        return _Parsed(number_BN, s.count_B + 1, zero_B, zero_B, false_B, bad_B)

    def choose(where_B: Array, yes: _Parsed, no: _Parsed) -> _Parsed:
        def pick(a: Array, b: Array) -> Array:
            return jnp.where(where_B.reshape(-1, *[1] * (a.ndim - 1)), a, b)

        return jax.tree.map(pick, yes, no)

    def read(place, s: _Parsed) -> _Parsed:
        byte_B = jax.lax.dynamic_index_in_dim(byte_BX, place, 1, keepdims=False)
        digit_B = (byte_B >= ord("0")) & (byte_B <= ord("9"))
        blank_B = search.is_among(byte_B, BLANKS)
        comma_B = byte_B == ord(",")
        zero_led_B = (s.digits_B > 0) & (s.value_B == 0)
        longer = s._replace(
            value_B=jnp.minimum(s.value_B * 10 + byte_B - ord("0"), LARGEST),
            digits_B=s.digits_B + 1,
            bad_B=s.bad_B | s.ended_B | zero_led_B,
        )
        after = s._replace(ended_B=s.ended_B | (s.digits_B > 0))
        other = s._replace(bad_B=~false_B)
        read = choose(digit_B, longer, choose(comma_B, finish(s), choose(blank_B, after, other)))
        return choose(place < length_B, read, s)

    end = finish(jax.lax.fori_loop(0, byte_BX.shape[1], read, empty))
    return end.number_BN, jnp.where(end.bad_B, 0, end.count_B)
