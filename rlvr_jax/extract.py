r"""Find the final answer of a response in its token ids, on the device.

The choice is that of `host.text.answers.extract`.  Three things mark an answer: a \boxed{...}, a
line marker such as "answer:" (the rest of the line is the answer), and <answer>...</answer>.  The
answer is the one whose marker comes last, after the thoughts.  Without a marker the answer is the
last line, if the config allows that.  A response has no answer if it ends inside its thoughts, if
the last box or tag is not closed, if a denial stands right before the marker ("not \boxed{42}") or
right after the answer, if later text takes the answer back ("scratch that"), or if the answer is
too long or holds characters that a reader does not see.  `markers` holds all these words.

Tokens are spelled out as bytes, so that it does not matter how a policy cuts a marker into tokens.
Where device and host differ, the device finds no answer.  It accepts no answer of several lines, it
measures limits in bytes where the host counts characters, and a character outside ASCII between
"not" and a box does not separate the two.
"""

from typing import NamedTuple

import jax.numpy as jnp

from rlvr_jax import byte_search as search
from rlvr_jax import markers
from rlvr_jax.byte_search import SPACES, ByteText
from rlvr_jax.structs import Array, Rollout, Spelling, Verdict

REACH = markers.DENIAL_REACH * markers.UTF8_BYTES  # bytes before a marker that may deny its answer
EMPHASIS = (32, 42, 95)  # blank, star, underscore: around an answer they are no part of it


class Span(NamedTuple):
    """A Span holds the last marker of one kind in each response, and the bytes of its answer."""

    at_B: Array  # int32, where the marker begins; -1 without a marker
    first_B: Array  # int32, first byte of the answer
    last_B: Array  # int32, one after the last byte; not above `first_B` if there is no answer
    end_B: Array  # int32, from this place on, later text may take the answer back
    emphasis_B: Array  # bool, whether stars and underscores around the answer are stripped


def last_line(rollout: Rollout, verdict: Verdict, from_BR: Array | bool = True) -> Array:
    """Return a bool [B, R] mask of the tokens of the last non-empty line of each response.

    See arXiv 2503.23829, section 3.2.  A line is non-empty if it holds a token of visible text.
    The newline, blank tokens at the ends of the line and control tokens such as EOS are not in the
    mask.  `from_BR` is a bool mask of the tokens that are searched, or True for all.
    """
    mask_BR = rollout.response_mask_BR & from_BR
    newline_BR = verdict.newline_V[rollout.response_BR] & mask_BR
    visible_BR = ~verdict.blank_V[rollout.response_BR] & ~newline_BR & mask_BR
    line_BR = jnp.cumsum(newline_BR, -1)
    last_B1 = jnp.max(jnp.where(visible_BR, line_BR, -1), -1, keepdims=True)
    # Leading and trailing blanks of the line go too: the answer is the span of its visible tokens.
    on_line_BR = (line_BR == last_B1) & mask_BR & ~newline_BR
    on_line_BR &= ~verdict.control_V[rollout.response_BR]
    shown_BR = on_line_BR & visible_BR
    begun_BR = jnp.cumsum(shown_BR, -1) > 0
    more_BR = jnp.cumsum(shown_BR[:, ::-1], -1)[:, ::-1] > 0
    return on_line_BR & begun_BR & more_BR


def final_answer(rollout: Rollout, verdict: Verdict, spelling: Spelling) -> Array:
    """Return a bool [B, R] mask of the tokens of the final answer; all False without an answer."""
    text = search.spell_bytes(rollout, spelling)
    start_B = jnp.zeros_like(text.total_B)
    begin_B, opened_B = start_B, start_B - 1
    for opening, closing in markers.THOUGHTS:
        close_B = search.last_place(search.find_word(text.sums, closing), start_B)
        after_B = jnp.where(close_B >= 0, close_B + len(closing.encode()), 0)
        begin_B = jnp.maximum(begin_B, after_B)
        open_B = search.last_place(search.find_word(text.sums, opening), start_B)
        opened_B = jnp.maximum(opened_B, open_B)
    spans = [_box_span(text, begin_B), _tag_span(text, begin_B), _line_span(text, begin_B)]
    span = _latest(spans)
    first_B, last_B = _without_blanks(text, span)
    marked_B = span.at_B >= 0
    refused_B = _denied(text, span.at_B, begin_B) | _taken_back(text, span.end_B)
    gone_B = (opened_B >= begin_B) | (marked_B & refused_B)
    real_BR = text.end_BR > text.start_BR
    held_BR = real_BR & (text.end_BR > first_B[:, None])
    held_BR &= text.start_BR < last_B[:, None]
    line_BR = last_line(rollout, verdict, text.end_BR > begin_B[:, None]) & spelling.last_line
    shown_BR = jnp.where(marked_B[:, None], held_BR, line_BR) & rollout.response_mask_BR
    # No answer of several lines is shown: a token with a line break ends the matter.
    broken_BR = shown_BR & verdict.newline_V[rollout.response_BR]
    broken_B = jnp.any(broken_BR, -1)
    shown_BR &= ~verdict.control_V[rollout.response_BR]
    bad_B = gone_B | broken_B | _disguised(text, shown_BR, spelling)
    return shown_BR & ~bad_B[:, None]


# ---- markers ---------------------------------------------------------------------------------


def _box_span(text: ByteText, begin_B: Array) -> Span:
    r"""Return the last \boxed or \fbox: its balanced braces, or the text up to a dollar sign."""
    byte_BN, total_B = text.byte_BN, text.total_B
    place_BN = search.places(byte_BN)
    begun_B, word_B = jnp.full_like(begin_B, -1), begin_B
    goes_on_BN = search.is_among(byte_BN, (*SPACES, ord("{")))
    for word in markers.BOXES:
        word_BN = search.find_word_exactly(byte_BN, word) & search.shift(goes_on_BN, -len(word))
        here_B = search.last_place(word_BN, begin_B)
        word_B = jnp.where(here_B > begun_B, here_B + len(word), word_B)
        begun_B = jnp.maximum(begun_B, here_B)
    next_B = search.first_place((place_BN >= word_B[:, None]) & ~search.is_among(byte_BN, SPACES))
    opens_B = search.pick(byte_BN, next_B) == ord("{")
    first_B = jnp.where(opens_B, next_B, word_B) + 1
    inside_BN = place_BN >= first_B[:, None]
    # A byte behind an odd number of backslashes is escaped.
    plain_BN = (byte_BN != ord("\\")) | ~inside_BN
    run_BN = place_BN - 1 - search.shift(search.last_place_up_to(plain_BN), 1)
    live_BN = inside_BN & (run_BN % 2 == 0)
    step_BN = jnp.where(byte_BN == ord("{"), 1, jnp.where(byte_BN == ord("}"), -1, 0))
    depth_BN = jnp.cumsum(jnp.where(live_BN, step_BN, 0), -1)
    close_B = search.first_place((depth_BN == -1) & live_BN)
    dollar_B = jnp.minimum(search.first_place((byte_BN == ord("$")) & inside_BN), total_B)
    last_B = jnp.where(opens_B, jnp.where(close_B < total_B, close_B, 0), dollar_B)
    return Span(begun_B, first_B, last_B, jnp.maximum(last_B, first_B), begun_B < 0)


def _tag_span(text: ByteText, begin_B: Array) -> Span:
    """Return the last <answer>...</answer>."""
    at_B = search.last_place(search.find_word(text.sums, markers.ANSWER_OPEN), begin_B)
    first_B = at_B + len(markers.ANSWER_OPEN)
    behind_BN = search.places(text.byte_BN) >= first_B[:, None]
    end_B = search.first_place(search.find_word(text.sums, markers.ANSWER_CLOSE) & behind_BN)
    last_B = jnp.where(end_B < text.total_B, end_B, 0)
    return Span(at_B, first_B, last_B, jnp.maximum(last_B, first_B), at_B < 0)


def _line_span(text: ByteText, begin_B: Array) -> Span:
    """Return the line after the last line marker, or the next non-empty line if it is empty."""
    place_BN, total_B1 = search.places(text.byte_BN), text.total_B[:, None]
    full_BN = ~search.is_among(text.byte_BN, SPACES) & (place_BN < total_B1)
    at_B, first_B = jnp.full_like(begin_B, -1), begin_B
    for mark in markers.LINE_MARKERS:
        last_B = search.last_place(search.find_word(text.sums, mark), begin_B)
        if mark == markers.HEADING:
            under_BN = full_BN & (place_BN >= search.line_end(text, last_B)[:, None])
            last_B = jnp.where(jnp.any(under_BN, -1), -1, last_B)
        first_B = jnp.where(last_B > at_B, last_B + len(mark), first_B)
        at_B = jnp.maximum(at_B, last_B)
    end_B = search.line_end(text, first_B)
    on_line_BN = (place_BN >= first_B[:, None]) & (place_BN < end_B[:, None])
    written_B = jnp.any(on_line_BN & ~search.is_among(text.byte_BN, EMPHASIS), -1)
    next_B = search.first_place(full_BN & (place_BN >= end_B[:, None]))
    last_B = jnp.where(written_B, end_B, search.line_end(text, next_B))
    return Span(at_B, jnp.where(written_B, first_B, next_B), last_B, end_B, written_B)


def _latest(spans: list[Span]) -> Span:
    best = spans[0]
    for span in spans[1:]:
        later_B = span.at_B > best.at_B
        best = Span(*(jnp.where(later_B, x, y) for x, y in zip(span, best, strict=True)))
    return best


def _without_blanks(text: ByteText, span: Span) -> tuple[Array, Array]:
    """Return first and end byte of a span without blanks at its ends; (0, 0) if it is empty."""
    place_BN = search.places(text.byte_BN)
    bare_BN = search.is_among(text.byte_BN, SPACES)
    bare_BN |= search.is_among(text.byte_BN, EMPHASIS) & span.emphasis_B[:, None]
    inside_BN = (place_BN >= span.first_B[:, None]) & (place_BN < span.last_B[:, None])
    full_BN = inside_BN & ~bare_BN
    last_B = search.last_place(full_BN, jnp.zeros_like(span.at_B)) + 1
    return jnp.where(last_B > 0, search.first_place(full_BN), 0), last_B


# ---- what refuses a marked answer --------------------------------------------------------------


def _denials() -> list[tuple[bytes, bool]]:
    """Return each text that denies an answer, without blanks, and whether it is a whole word."""
    words = markers.DENYING_WORDS
    signs = [sign for sign in markers.DENYING_SIGNS if sign.isascii()]
    pieces = (*markers.DENYING_ENDINGS, *markers.DENYING_COMMANDS, *signs)
    # A box that is joined to the one before: blanks, dollar signs and stars are gone already.
    ends = [end + word for end in ("}", "})", "}]") for word in markers.JOINING_WORDS]
    return [(end.encode(), False) for end in ends] + [
        ((denial + verb).replace(" ", "").encode(), denial in words)
        for denial in (*words, *pieces)
        for verb in ("", *markers.DENIED_VERBS)
    ]


def _denied(text: ByteText, at_B: Array, begin_B: Array) -> Array:
    """Return bool [B], whether a denial stands right before a marker.

    Tags, blanks and openings of a formula may lie between the denial and the marker.
    """
    place_BM = at_B[:, None] + jnp.arange(-REACH, 0, dtype=jnp.int32)
    byte_BM = search.take(text.fold_BN, jnp.maximum(place_BM, 0))
    byte_BM = jnp.where(place_BM >= begin_B[:, None], byte_BM, 0)
    one_BM, two_BM = search.shift(byte_BM, -1), search.shift(byte_BM, -2)
    # Signs outside ASCII, of three bytes, become `<`: other bytes outside ASCII deny nothing.
    sign_BM = jnp.zeros_like(byte_BM, bool)
    for sign in markers.DENYING_SIGNS:
        if not sign.isascii():
            one, two, three = sign.encode()
            sign_BM |= (byte_BM == one) & (one_BM == two) & (two_BM == three)
    byte_BM = jnp.where(sign_BM, ord("<"), byte_BM)
    blank_BM = search.is_among(byte_BM, (0, *SPACES, *b"$(:*[")) | (byte_BM >= 128)
    blank_BM |= (byte_BM == ord("\\")) & ~search.is_letter(one_BM)
    kept_BM = ~blank_BM & ~_in_tag(byte_BM)
    before_BM = search.shift(byte_BM, 1)
    word_start_BM = ~search.shift(kept_BM, 1) | ~search.is_word_byte(before_BM)
    denials = _denials()
    longest = max(len(word) for word, _ in denials)
    # The last L kept bytes, by the number of kept bytes from each to the marker.
    count_BM = jnp.cumsum(kept_BM[:, ::-1], 1)[:, ::-1]
    chosen_BLM = (count_BM[:, None] == jnp.arange(longest, 0, -1)[:, None]) & kept_BM[:, None]
    byte_BL = jnp.sum(jnp.where(chosen_BLM, byte_BM[:, None], 0), -1)
    word_start_BL = jnp.any(chosen_BLM & word_start_BM[:, None], -1)
    wanted_XL = jnp.array([list(word.rjust(longest, b"\0")) for word, _ in denials], jnp.int32)
    same_BX = jnp.all((byte_BL[:, None] == wanted_XL) | (wanted_XL == 0), -1)
    begins_X = jnp.array([longest - len(word) for word, _ in denials], jnp.int32)
    whole_X = jnp.array([whole for _, whole in denials])
    return jnp.any(same_BX & (word_start_BL[:, begins_X] | ~whole_X), -1)


def _in_tag(byte_BM: Array) -> Array:
    """Return bool [B, M], where a byte belongs to a <tag> or </tag>."""
    place_BM = search.places(byte_BM)
    no_word_BM = ~search.is_word_byte(byte_BM)
    before_BM = jnp.maximum(search.shift(search.last_place_up_to(no_word_BM), 1), 0)
    opening_BM = search.take(byte_BM, before_BM)
    further_BM = jnp.maximum(before_BM - 1, 0)
    closes_BM = (opening_BM == ord("/")) & (search.take(byte_BM, further_BM) == ord("<"))
    named_BM = search.take(search.is_letter(search.shift(byte_BM, -1)), before_BM)
    is_tag_BM = (byte_BM == ord(">")) & named_BM & ((opening_BM == ord("<")) | closes_BM)
    first_BM = jnp.where(closes_BM, further_BM, before_BM)
    begin_BM = jnp.where(is_tag_BM, first_BM, byte_BM.shape[1])
    end_BM = jnp.minimum(search.first_place_from(byte_BM == ord(">")), byte_BM.shape[1] - 1)
    return search.take(begin_BM, end_BM) <= place_BM


def _taken_back(text: ByteText, end_B: Array) -> Array:
    behind_BN = search.places(text.byte_BN) >= end_B[:, None]
    phrase_BN = jnp.zeros_like(behind_BN)
    for phrase in (*markers.TAKEN_BACK, *markers.TAKEN_BACK_WHOLE):
        phrase_BN |= search.find_word(text.sums, phrase)
    near_BN = search.places(text.byte_BN) <= end_B[:, None] + markers.DENYING_GAP
    for phrase in markers.DENYING_BEHIND:
        phrase_BN |= search.find_word(text.sums, phrase) & near_BN
    after_word_BN = search.shift(search.is_word_byte(text.fold_BN), 1)
    return jnp.any(phrase_BN & behind_BN & ~after_word_BN, -1)


def _disguised(text: ByteText, shown_BR: Array, spelling: Spelling) -> Array:
    """Return bool [B], whether `host.text.answers.clean` refuses the answer.

    An answer is refused if it is too long or holds characters that a reader does not see.
    """
    far = 2**30
    first_B = jnp.min(jnp.where(shown_BR, text.start_BR, far), -1)
    last_B = jnp.max(jnp.where(shown_BR, text.end_BR, -far), -1)
    width = text.byte_BN.shape[1]
    answer_K = jnp.arange(min(markers.LONGEST_ANSWER, width), dtype=jnp.int32)
    place_BK = first_B[:, None] + answer_K
    byte_BK = search.take(text.byte_BN, jnp.clip(place_BK, 0, width - 1))
    code_BK, begins_BK = _code_points(byte_BK)
    kind_BK = spelling.kind_U[jnp.minimum(code_BK, spelling.kind_U.shape[0] - 1)]
    kind_BK = jnp.where(begins_BK, kind_BK.astype(jnp.int32), -1)
    # The kind of the character before, which is one to four bytes long.
    base_BK = jnp.full_like(kind_BK, -1)
    for size in range(markers.UTF8_BYTES, 0, -1):
        back_BK = search.shift(kind_BK, size)
        base_BK = jnp.where(back_BK >= 0, back_BK, base_BK)
    bad_BK = kind_BK == markers.REFUSED
    selectors = "\ufe0f".encode()
    keycap_BK = search.shift(kind_BK, -len(selectors)) == markers.KEYCAP
    keycap_BK &= (kind_BK == markers.SELECTOR) & (base_BK == markers.PLAIN)
    for kind, before in markers.BEHIND.items():
        bad_BK |= (kind_BK == kind) & ~search.is_among(base_BK, before) & ~keycap_BK
    bad_BK &= place_BK < last_B[:, None]
    too_long_B = last_B - first_B > markers.LONGEST_ANSWER
    return jnp.any(bad_BK, -1) | too_long_B | (first_B < 0)


def _code_points(byte_BK: Array) -> tuple[Array, Array]:
    """Return the code point that begins at each byte of UTF-8, and whether one begins there."""
    low_BK, mid_BK, high_BK = (search.shift(byte_BK, -k) & 63 for k in (1, 2, 3))
    two_BK = (byte_BK & 31) << 6 | low_BK
    three_BK = (byte_BK & 15) << 12 | low_BK << 6 | mid_BK
    four_BK = (byte_BK & 7) << 18 | low_BK << 12 | mid_BK << 6 | high_BK
    code_BK = jnp.where(byte_BK < 0xF0, three_BK, four_BK)
    code_BK = jnp.where(byte_BK < 0xE0, two_BK, code_BK)
    code_BK = jnp.where(byte_BK < 0x80, byte_BK, code_BK)
    return code_BK, (byte_BK < 0x80) | (byte_BK >= 0xC0)
