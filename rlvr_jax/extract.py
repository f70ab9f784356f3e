r"""Where the answer of a response stands, told on the device from token ids.

The same choice as `host.answers.extract`: the last of a terminated \boxed{...}, the rest of a line
after a marker and <answer>...</answer>; without any, the last line.  Nothing where the last of
them is not closed, denied or taken back, or holds what no reader sees.  Tokens are spelled out by a
table of their bytes, so that it does not matter how a policy cuts a marker into tokens.  Where the
two differ, this one finds nothing: an answer of several lines is not shown, bytes stand for
characters in the limits of length, and what is not ASCII does not separate "not" from a box.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlvr_jax.structs import Array, Rollout, Spelling, Verdict

WINDOW = 4096  # bytes of a response that are looked at, from its end
LONGEST = 1000  # bytes of an answer
NEAR = 160  # bytes before a marker in which it may be denied: the host's 40 characters
NEWLINE, SPACES, STARS = 10, (9, 10, 11, 12, 13, 32), (32, 42, 95)
BOXES = (b"\\boxed", b"\\fbox")
LINE_MARKS = (b"####", b"answer:", b"answer is:")
DENIED_WORDS = (b"not", b"never", b"cannotbe")  # whole words; blanks are taken out
DENIED = (
    *(b"n't", b"\\ne", b"\\neq", b"\\le", b"\\leq", b"\\ge", b"\\geq", b"\\lt", b"\\gt"),
    *(b"<", b">", b"!="),
)
VERBS = (b"", b"be", b"equal", b"equalto")
BASE = 0x9E3779B1  # odd: of the sums by which words are found
TAKEN_BACK = (
    *(b"no wait", b"no, wait", b"wait no", b"wait, no", b"scratch that", b"correction"),
    *(b"i made a mistake", b"i made an error", b"on second thought", b"that's wrong"),
    *(b"that's incorrect", b"that's not right", b"that is wrong", b"that is incorrect"),
    *(b"that is not right", b"actually it", b"actually, it", b"actually the answer"),
    *(b"actually, the answer", b"actually that", b"actually, that"),
)
REFUSED, MARK, LETTER = 1, 2, 3  # kinds of characters, as `host.answers.kinds` tells them


class Text(NamedTuple):
    """The last bytes of each response, and where in them its tokens stand."""

    byte_BN: Array  # int32; 0 past the end
    fold_BN: Array  # the same in small letters
    sums: "Sums"  # of fold_BN
    start_BR: Array  # int32, first byte of a token; negative before the window
    end_BR: Array
    total_B: Array


class Sums(NamedTuple):
    """Running sums of bytes times powers of BASE, modulo 2^32 (Rabin and Karp)."""

    before_BN: Array  # uint32 [B, N + 1], of the bytes before each place
    power_N: Array  # uint32


class Span(NamedTuple):
    """What one kind of marker found: the last of its kind, and the bytes it holds."""

    at_B: Array  # int32, where it begins; -1: there is none
    first_B: Array  # int32, first byte of what it holds
    last_B: Array  # int32, behind its last byte; not after `first_B`: it holds nothing
    end_B: Array  # int32, from where what follows may take it back
    starred_B: Array  # bool, emphasis around it is no part of it


def last_line(rollout: Rollout, verdict: Verdict, from_BR: Array | bool = True) -> Array:
    """[B, R] bool: the last non-empty line (arXiv 2503.23829, section 3.2), without EOS.

    A line is non-empty when it holds a token of visible text.  Control tokens are never shown.
    Only tokens in `from_BR` count.
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


def find(rollout: Rollout, verdict: Verdict, spelling: Spelling) -> Array:
    """[B, R] bool: the tokens of the final answer; none where there is no answer."""
    text = spell(rollout, spelling)
    think_B = _last(_match(text.sums, b"<think>"))
    thought_B = _last(_match(text.sums, b"</think>"))
    begin_B = jnp.where(thought_B >= 0, thought_B + len(b"</think>"), 0)
    found = _latest([_box(text, begin_B), _tag(text, begin_B), _after(text, begin_B)])
    first_B, last_B = _trimmed(text, found)
    marked_B = found.at_B >= 0
    refused_B = _denied(text, found.at_B, begin_B) | _taken_back(text, found.end_B)
    gone_B = (think_B > thought_B) | (marked_B & refused_B)
    real_BR = text.end_BR > text.start_BR
    held_BR = real_BR & (text.end_BR > first_B[:, None])
    held_BR &= text.start_BR < last_B[:, None]
    line_BR = last_line(rollout, verdict, text.end_BR > begin_B[:, None]) & spelling.last_line
    shown_BR = jnp.where(marked_B[:, None], held_BR, line_BR) & rollout.response_mask_BR
    # A token at either end that only adds a new line is left out; one inside ends the matter.
    broken_BR = shown_BR & verdict.newline_V[rollout.response_BR]
    broken_B = jnp.any(broken_BR, -1)
    shown_BR &= ~verdict.control_V[rollout.response_BR]
    bad_B = gone_B | broken_B | _unreadable(text, shown_BR, spelling)
    return shown_BR & ~bad_B[:, None]


def spell(rollout: Rollout, spelling: Spelling) -> Text:
    """Responses as bytes."""
    columns = rollout.response_BR.shape[1]
    count_BR = spelling.length_V[rollout.response_BR]
    count_BR = jnp.where(rollout.response_mask_BR, count_BR, 0)
    end_BR = jnp.cumsum(count_BR, -1, dtype=jnp.int32)
    start_BR, total_B = end_BR - count_BR, end_BR[:, -1]
    window = min(WINDOW, columns * spelling.bytes_VW.shape[1])
    skipped_B = jnp.maximum(total_B - window, 0)
    place_BN = jnp.arange(window, dtype=jnp.int32) + skipped_B[:, None]
    owner_BN = jax.vmap(lambda end_R, place_N: jnp.searchsorted(end_R, place_N, side="right"))(
        end_BR, place_BN
    )
    owner_BN = jnp.minimum(owner_BN, columns - 1).astype(jnp.int32)
    token_BN = _take(rollout.response_BR, owner_BN)
    offset_BN = place_BN - _take(start_BR, owner_BN)
    offset_BN = jnp.clip(offset_BN, 0, spelling.bytes_VW.shape[1] - 1)
    byte_BN = spelling.bytes_VW[token_BN, offset_BN].astype(jnp.int32)
    byte_BN = jnp.where(place_BN < total_B[:, None], byte_BN, 0)
    fold_BN = jnp.where((byte_BN >= 65) & (byte_BN <= 90), byte_BN + 32, byte_BN)
    shift_B1 = skipped_B[:, None]
    places = (start_BR - shift_B1, end_BR - shift_B1, total_B - skipped_B)
    return Text(byte_BN, fold_BN, _sums(fold_BN), *places)


# ---- markers ---------------------------------------------------------------------------------


def _box(text: Text, begin_B: Array) -> Span:
    r"""The last \boxed or \fbox: {balanced braces}, or what follows it up to a dollar sign."""
    byte_BN, total_B = text.byte_BN, text.total_B
    at_BN = _index(byte_BN)
    begun_B, word_B = jnp.full_like(begin_B, -1), begin_B
    goes_on_BN = _among(byte_BN, (*SPACES, ord("{")))
    for word in BOXES:
        here_B = _last(_written(byte_BN, word) & _shift(goes_on_BN, -len(word)), begin_B)
        word_B = jnp.where(here_B > begun_B, here_B + len(word), word_B)
        begun_B = jnp.maximum(begun_B, here_B)
    next_B = _first((at_BN >= word_B[:, None]) & ~_among(byte_BN, SPACES))
    opens_B = _pick(byte_BN, next_B) == ord("{")
    first_B = jnp.where(opens_B, next_B, word_B) + 1
    inside_BN = at_BN >= first_B[:, None]
    # Escaped is what follows an odd number of backslashes.
    plain_BN = (byte_BN != ord("\\")) | ~inside_BN
    run_BN = at_BN - 1 - _shift(_latest_index(plain_BN), 1)
    live_BN = inside_BN & (run_BN % 2 == 0)
    step_BN = jnp.where(byte_BN == ord("{"), 1, jnp.where(byte_BN == ord("}"), -1, 0))
    depth_BN = jnp.cumsum(jnp.where(live_BN, step_BN, 0), -1)
    close_B = _first((depth_BN == -1) & live_BN)
    dollar_B = jnp.minimum(_first((byte_BN == ord("$")) & inside_BN), total_B)
    last_B = jnp.where(opens_B, jnp.where(close_B < total_B, close_B, 0), dollar_B)
    return Span(begun_B, first_B, last_B, jnp.maximum(last_B, first_B), begun_B < 0)


def _tag(text: Text, begin_B: Array) -> Span:
    """The last <answer>...</answer>."""
    at_B = _last(_match(text.sums, b"<answer>"), begin_B)
    first_B = at_B + len(b"<answer>")
    behind_BN = _index(text.byte_BN) >= first_B[:, None]
    end_B = _first(_match(text.sums, b"</answer>") & behind_BN)
    last_B = jnp.where(end_B < text.total_B, end_B, 0)
    return Span(at_B, first_B, last_B, jnp.maximum(last_B, first_B), at_B < 0)


def _after(text: Text, begin_B: Array) -> Span:
    """The rest of the line behind the last of LINE_MARKS, or the next line that is not empty."""
    index_BN, total_B1 = _index(text.byte_BN), text.total_B[:, None]
    full_BN = ~_among(text.byte_BN, SPACES) & (index_BN < total_B1)
    at_B, first_B = jnp.full_like(begin_B, -1), begin_B
    for mark in LINE_MARKS:
        last_B = _last(_match(text.sums, mark), begin_B)
        if mark == b"####":  # one with text under it is a heading
            under_BN = full_BN & (index_BN >= _line_end(text, last_B)[:, None])
            last_B = jnp.where(jnp.any(under_BN, -1), -1, last_B)
        first_B = jnp.where(last_B > at_B, last_B + len(mark), first_B)
        at_B = jnp.maximum(at_B, last_B)
    end_B = _line_end(text, first_B)
    on_line_BN = (index_BN >= first_B[:, None]) & (index_BN < end_B[:, None])
    written_B = jnp.any(on_line_BN & ~_among(text.byte_BN, STARS), -1)
    next_B = _first(full_BN & (index_BN >= end_B[:, None]))
    last_B = jnp.where(written_B, end_B, _line_end(text, next_B))
    return Span(at_B, jnp.where(written_B, first_B, next_B), last_B, end_B, written_B)


def _latest(spans: list[Span]) -> Span:
    best = spans[0]
    for span in spans[1:]:
        later_B = span.at_B > best.at_B
        best = Span(*(jnp.where(later_B, x, y) for x, y in zip(span, best, strict=True)))
    return best


# ---- what makes a marked answer none ----------------------------------------------------------


def _denied(text: Text, at_B: Array, begin_B: Array) -> Array:
    """Whether "not", an inequality or the like stands right before, whatever tags, blanks and
    openings of a formula lie between.
    """
    place_BM = at_B[:, None] + jnp.arange(-NEAR, 0, dtype=jnp.int32)
    byte_BM = _take(text.fold_BN, jnp.maximum(place_BM, 0))
    byte_BM = jnp.where(place_BM >= begin_B[:, None], byte_BM, 0)
    one_BM, two_BM = _shift(byte_BM, -1), _shift(byte_BM, -2)
    # Signs of inequality, of three bytes, are read as `<`; no other letter of theirs denies.
    sign_BM = (byte_BM == 0xE2) & (one_BM == 0x89) & _among(two_BM, (0xA0, 0xA4, 0xA5))
    byte_BM = jnp.where(sign_BM, ord("<"), byte_BM)
    blank_BM = _among(byte_BM, (0, *SPACES, *b"$(:*[")) | (byte_BM >= 128)
    blank_BM |= (byte_BM == ord("\\")) & ~_letter(one_BM)
    kept_BM = ~blank_BM & ~_tagged(byte_BM)
    apart_BM = ~_shift(kept_BM, 1) | ~_word(_shift(byte_BM, 1))
    words = [
        (word + verb, word in DENIED_WORDS) for word in DENIED_WORDS + DENIED for verb in VERBS
    ]
    longest = max(len(word) for word, _ in words)
    # The last bytes that are kept, by how many of them follow.
    left_BM = jnp.cumsum(kept_BM[:, ::-1], 1)[:, ::-1]
    is_it_BLM = (left_BM[:, None] == jnp.arange(longest, 0, -1)[:, None]) & kept_BM[:, None]
    byte_BL = jnp.sum(jnp.where(is_it_BLM, byte_BM[:, None], 0), -1)
    apart_BL = jnp.any(is_it_BLM & apart_BM[:, None], -1)
    wanted_XL = jnp.array([list(word.rjust(longest, b"\0")) for word, _ in words], jnp.int32)
    same_BX = jnp.all((byte_BL[:, None] == wanted_XL) | (wanted_XL == 0), -1)
    begins_X = jnp.array([longest - len(word) for word, _ in words], jnp.int32)
    whole_X = jnp.array([whole for _, whole in words])
    return jnp.any(same_BX & (apart_BL[:, begins_X] | ~whole_X), -1)


def _tagged(byte_BM: Array) -> Array:
    """What belongs to a <tag> or </tag>."""
    index_BM = _index(byte_BM)
    before_BM = jnp.maximum(_shift(_latest_index(~_word(byte_BM)), 1), 0)
    opening_BM = _take(byte_BM, before_BM)
    further_BM = jnp.maximum(before_BM - 1, 0)
    closes_BM = (opening_BM == ord("/")) & (_take(byte_BM, further_BM) == ord("<"))
    named_BM = _take(_letter(_shift(byte_BM, -1)), before_BM)
    is_tag_BM = (byte_BM == ord(">")) & named_BM & ((opening_BM == ord("<")) | closes_BM)
    first_BM = jnp.where(closes_BM, further_BM, before_BM)
    begin_BM = jnp.where(is_tag_BM, first_BM, byte_BM.shape[1])
    end_BM = jnp.minimum(_next(byte_BM == ord(">")), byte_BM.shape[1] - 1)
    return _take(begin_BM, end_BM) <= index_BM


def _taken_back(text: Text, end_B: Array) -> Array:
    behind_BN = _index(text.byte_BN) >= end_B[:, None]
    hit_BN = jnp.zeros_like(behind_BN)
    for phrase in TAKEN_BACK:
        hit_BN |= _match(text.sums, phrase)
    return jnp.any(hit_BN & behind_BN & ~_shift(_word(text.fold_BN), 1), -1)


def _unreadable(text: Text, shown_BR: Array, spelling: Spelling) -> Array:
    """Longer than an answer may be, or with characters inside that `host.answers.clean` refuses."""
    far = 2**30
    first_B = jnp.min(jnp.where(shown_BR, text.start_BR, far), -1)
    last_B = jnp.max(jnp.where(shown_BR, text.end_BR, -far), -1)
    width = text.byte_BN.shape[1]
    place_BK = first_B[:, None] + jnp.arange(min(LONGEST, width), dtype=jnp.int32)
    byte_BK = _take(text.byte_BN, jnp.clip(place_BK, 0, width - 1))
    low_BK, mid_BK, high_BK = (_shift(byte_BK, -k) & 63 for k in (1, 2, 3))
    two_BK = (byte_BK & 31) << 6 | low_BK
    three_BK = (byte_BK & 15) << 12 | low_BK << 6 | mid_BK
    four_BK = (byte_BK & 7) << 18 | low_BK << 12 | mid_BK << 6 | high_BK
    code_BK = jnp.where(byte_BK < 0xF0, three_BK, four_BK)
    code_BK = jnp.where(byte_BK < 0xE0, two_BK, code_BK)
    code_BK = jnp.where(byte_BK < 0x80, byte_BK, code_BK)
    begins_BK = (byte_BK < 0x80) | (byte_BK >= 0xC0)
    kind_BK = spelling.kind_U[jnp.minimum(code_BK, spelling.kind_U.shape[0] - 1)]
    kind_BK = jnp.where(begins_BK, kind_BK.astype(jnp.int32), -1)
    # A mark stands on a letter that is no ASCII: of two, three or four bytes.
    base_BK = jnp.full_like(kind_BK, -1)
    for size in (4, 3, 2, 1):
        back_BK = _shift(kind_BK, size)
        base_BK = jnp.where(back_BK >= 0, back_BK, base_BK)
    bad_BK = (kind_BK == REFUSED) | (kind_BK == MARK) & (base_BK != LETTER)
    bad_BK &= place_BK < last_B[:, None]
    return jnp.any(bad_BK, -1) | (last_B - first_B > LONGEST) | (first_B < 0)


# ---- bytes -----------------------------------------------------------------------------------


def _index(x_BN: Array) -> Array:
    return jnp.broadcast_to(jnp.arange(x_BN.shape[1], dtype=jnp.int32), x_BN.shape)


def _shift(x_BN: Array, by: int) -> Array:
    """Moved to the right (by > 0) or left; zeros, or -1 of an index, come in."""
    width = x_BN.shape[1]
    fill = False if x_BN.dtype == bool else (-1 if by > 0 else 0)
    pad = (0, 0), (max(by, 0), max(-by, 0))
    return jnp.pad(x_BN, pad, constant_values=fill)[:, max(-by, 0) :][:, :width]


def _among(x_BN: Array, values: tuple[int, ...]) -> Array:
    found = x_BN == values[0]
    for value in values[1:]:
        found |= x_BN == value
    return found


def _letter(fold_BN: Array) -> Array:
    return (fold_BN >= 97) & (fold_BN <= 122)


def _word(fold_BN: Array) -> Array:
    return _letter(fold_BN) | (fold_BN >= 48) & (fold_BN <= 57) | (fold_BN == 95)


def _sums(x_BN: Array) -> Sums:
    powers = [pow(BASE, k + 1, 2**32) for k in range(x_BN.shape[1])]
    power_N = jnp.array(powers, jnp.uint32)
    total_BN = jnp.cumsum((x_BN.astype(jnp.uint32) + 1) * power_N, 1, dtype=jnp.uint32)
    return Sums(jnp.pad(total_BN, ((0, 0), (1, 0))), power_N)


def _match(sums: Sums, word: bytes) -> Array:
    """Where a word begins."""
    width, size = sums.power_N.shape[0], len(word)
    wanted = sum((byte + 1) * BASE**k for k, byte in enumerate(word)) % 2**32
    behind_BN = jnp.pad(sums.before_BN, ((0, 0), (0, size)), mode="edge")[:, size:]
    found_BN = behind_BN[:, :width] - sums.before_BN[:, :width]
    return found_BN == sums.power_N * jnp.uint32(wanted)


def _written(byte_BN: Array, word: bytes) -> Array:
    """Where a word begins, letter by letter: capitals count."""
    found_BN = byte_BN == word[0]
    for k, letter in enumerate(word[1:], 1):
        found_BN &= _shift(byte_BN, -k) == letter
    return found_BN


def _last(found_BN: Array, begin_B: Array | None = None) -> Array:
    """Index of the last one (from `begin_B` on); -1 if there is none."""
    index_BN = _index(found_BN)
    if begin_B is not None:
        found_BN = found_BN & (index_BN >= begin_B[:, None])
    return jnp.max(jnp.where(found_BN, index_BN, -1), -1)


def _first(found_BN: Array) -> Array:
    """Index of the first one; past the end if there is none."""
    return jnp.min(jnp.where(found_BN, _index(found_BN), found_BN.shape[1]), -1)


def _latest_index(found_BN: Array) -> Array:
    """At each place the index of the last one up to and with it, or -1."""
    return jax.lax.cummax(jnp.where(found_BN, _index(found_BN), -1), 1)


def _next(found_BN: Array) -> Array:
    """At each place the index of the first one from it on, or the width."""
    index_BN = jnp.where(found_BN, _index(found_BN), found_BN.shape[1])
    return jax.lax.cummin(index_BN, 1, reverse=True)


def _take(x_BN: Array, index_BX: Array) -> Array:
    """[B, X]: of each row what stands at the indices, which are in it or just past its ends."""
    return jnp.take_along_axis(x_BN, index_BX, 1, mode="clip")


def _pick(x_BN: Array, at_B: Array) -> Array:
    at_B = jnp.clip(at_B, 0, x_BN.shape[1] - 1)
    return _take(x_BN, at_B[:, None])[:, 0]


def _line_end(text: Text, from_B: Array) -> Array:
    ends_BN = (text.byte_BN == NEWLINE) & (_index(text.byte_BN) >= from_B[:, None])
    return jnp.minimum(_first(ends_BN), text.total_B)


def _trimmed(text: Text, span: Span) -> tuple[Array, Array]:
    """What a span holds without blanks at its ends; (0, 0) if nothing is left."""
    index_BN = _index(text.byte_BN)
    bare_BN = _among(text.byte_BN, SPACES)
    bare_BN |= _among(text.byte_BN, STARS) & span.starred_B[:, None]
    inside_BN = (index_BN >= span.first_B[:, None]) & (index_BN < span.last_B[:, None])
    full_BN = inside_BN & ~bare_BN
    last_B = _last(full_BN) + 1
    return jnp.where(last_B > 0, _first(full_BN), 0), last_B
