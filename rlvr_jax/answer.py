r"""Where the answer of a response stands, told on the device from token ids.

The same choice as `host.answers.extract`: the last of a terminated \boxed{...}, the rest of a line
after a marker and <answer>...</answer>; without any, the last line.  Nothing where the last of
them is not closed, denied or taken back, or holds what no reader sees.  Tokens are spelled out by a
table of their bytes, so that it does not matter how a policy cuts a marker into tokens.  Where the
two differ, this one finds nothing: an answer of several lines is not shown, and bytes stand for
characters in the limits of length.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlvr_jax.structs import Array, Rollout, Spelling, Verdict

WINDOW = 4096  # bytes of a response that are looked at, from its end
LONGEST = 1000  # bytes of an answer
NEAR = 40  # bytes before a marker in which it may be denied
NEWLINE, SPACES, STARS = 10, (9, 10, 11, 12, 13, 32), (32, 42, 95)
LINE_MARKS = (b"####", b"answer:", b"answer is:")
DENIED = (
    *(b"n't", b"\\ne", b"\\neq", b"\\le", b"\\leq", b"\\ge", b"\\geq", b"\\lt", b"\\gt"),
    *(b"\\not", b"<", b">", b"!=", b"\xe2\x89\xa0", b"\xe2\x89\xa4", b"\xe2\x89\xa5"),
)
DENIED_WORDS = (b"not", b"never", b"cannot be")
VERBS = (b"equal to", b"equal", b"be")
BASE = 0x9E3779B1  # odd: of the sums by which words are found
TAKEN_BACK = (
    *(b"no wait", b"no, wait", b"wait no", b"wait, no", b"scratch that", b"correction"),
    *(b"i made a mistake", b"i made an error", b"on second thought", b"that's wrong"),
    *(b"that's incorrect", b"that's not right", b"that is wrong", b"that is incorrect"),
    *(b"that is not right", b"actually it", b"actually, it", b"actually the answer"),
    *(b"actually, the answer", b"actually that", b"actually, that"),
)


class Text(NamedTuple):
    """The last bytes of each response, and where in them its tokens stand."""

    byte_BN: Array  # int32; 0 past the end
    fold_BN: Array  # the same in small letters
    byte_sums: "Sums"
    fold_sums: "Sums"
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
    think_B = _last(_match(text.fold_sums, b"<think>"))
    thought_B = _last(_match(text.fold_sums, b"</think>"))
    begin_B = jnp.where(thought_B >= 0, thought_B + len(b"</think>"), 0)
    spans = [_box(text, begin_B), _tag(text, begin_B)]
    spans += [_after(text, begin_B, mark) for mark in LINE_MARKS]
    at_B, first_B, last_B, end_B = _latest(spans)
    marked_B = at_B >= 0
    gone_B = (think_B > thought_B) | (marked_B & (_denied(text, at_B) | _taken_back(text, end_B)))
    real_BR = text.end_BR > text.start_BR
    held_BR = real_BR & (text.end_BR > first_B[:, None]) & (text.start_BR < last_B[:, None])
    line_BR = last_line(rollout, verdict, text.end_BR > begin_B[:, None]) & spelling.last_line
    shown_BR = jnp.where(marked_B[:, None], held_BR, line_BR) & rollout.response_mask_BR
    # A token at either end that only adds a new line is left out; one inside ends the matter.
    broken_BR = shown_BR & verdict.newline_V[rollout.response_BR]
    broken_B = jnp.any(broken_BR, -1)
    shown_BR &= ~verdict.control_V[rollout.response_BR]
    bad_B = gone_B | broken_B | _unreadable(text, shown_BR)
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
    token_BN = jnp.take_along_axis(rollout.response_BR, owner_BN, 1)
    offset_BN = place_BN - jnp.take_along_axis(start_BR, owner_BN, 1)
    offset_BN = jnp.clip(offset_BN, 0, spelling.bytes_VW.shape[1] - 1)
    byte_BN = spelling.bytes_VW[token_BN, offset_BN].astype(jnp.int32)
    byte_BN = jnp.where(place_BN < total_B[:, None], byte_BN, 0)
    fold_BN = jnp.where((byte_BN >= 65) & (byte_BN <= 90), byte_BN + 32, byte_BN)
    shift_B1 = skipped_B[:, None]
    sums = (_sums(byte_BN), _sums(fold_BN))
    places = (start_BR - shift_B1, end_BR - shift_B1, total_B - skipped_B)
    return Text(byte_BN, fold_BN, *sums, *places)


# ---- markers ---------------------------------------------------------------------------------


def _box(text: Text, begin_B: Array) -> Span:
    r"""The last \boxed or \fbox: {balanced braces}, or what follows it up to a dollar sign."""
    byte_BN, total_B = text.byte_BN, text.total_B
    at_BN = _index(byte_BN)
    long_BN, short_BN = _match(text.byte_sums, b"\\boxed"), _match(text.byte_sums, b"\\fbox")
    word_BN = jnp.minimum(at_BN + jnp.where(long_BN, 6, 5), byte_BN.shape[1] - 1)
    full_BN = ~_among(byte_BN, SPACES)
    next_BN = _next(full_BN)
    brace_BN = jnp.minimum(jnp.take_along_axis(next_BN, word_BN, 1), byte_BN.shape[1] - 1)
    opens_BN = jnp.take_along_axis(byte_BN, brace_BN, 1) == ord("{")
    bare_BN = ~jnp.take_along_axis(full_BN, word_BN, 1)
    start_B = _last((long_BN | short_BN) & (opens_BN | bare_BN), begin_B)
    safe_B = jnp.maximum(start_B, 0)
    opens_B = _pick(opens_BN, safe_B)
    first_B = jnp.where(opens_B, _pick(brace_BN, safe_B), _pick(word_BN, safe_B)) + 1
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
    return Span(start_B, *_trimmed(text, first_B, last_B), jnp.maximum(last_B, first_B))


def _tag(text: Text, begin_B: Array) -> Span:
    """The last <answer>...</answer>."""
    at_B = _last(_match(text.fold_sums, b"<answer>"), begin_B)
    first_B = at_B + len(b"<answer>")
    behind_BN = _index(text.byte_BN) >= first_B[:, None]
    end_B = _first(_match(text.fold_sums, b"</answer>") & behind_BN)
    last_B = jnp.where(end_B < text.total_B, end_B, 0)
    return Span(at_B, *_trimmed(text, first_B, last_B), jnp.maximum(last_B, first_B))


def _after(text: Text, begin_B: Array, mark: bytes) -> Span:
    """The rest of the line behind the last `mark`, or the next line that is not empty."""
    index_BN = _index(text.byte_BN)
    at_B = _last(_match(text.fold_sums, mark), begin_B)
    first_B = at_B + len(mark)
    end_B = _line_end(text, first_B)
    on_line_BN = (index_BN >= first_B[:, None]) & (index_BN < end_B[:, None])
    written_B = jnp.any(on_line_BN & ~_among(text.byte_BN, STARS), -1)
    real_BN = index_BN < text.total_B[:, None]
    later_BN = (index_BN >= end_B[:, None]) & ~_among(text.byte_BN, SPACES) & real_BN
    next_B = _first(later_BN)
    if mark == b"####":  # one with text under it is a heading
        at_B = jnp.where(jnp.any(later_BN, -1), -1, at_B)
    own = _trimmed(text, first_B, end_B, (*SPACES, *STARS))
    below = _trimmed(text, next_B, _line_end(text, next_B))
    first_B, last_B = (jnp.where(written_B, x, y) for x, y in zip(own, below, strict=True))
    return Span(at_B, first_B, last_B, end_B)


def _latest(spans: list[Span]) -> Span:
    best = spans[0]
    for span in spans[1:]:
        later_B = span.at_B > best.at_B
        best = Span(*(jnp.where(later_B, x, y) for x, y in zip(span, best, strict=True)))
    return best


# ---- what makes a marked answer none ----------------------------------------------------------


def _denied(text: Text, at_B: Array) -> Array:
    """Whether "not", an inequality or the like stands right before."""
    fold_BN = text.fold_BN
    skip_BN = _among(fold_BN, (*SPACES, *b"$(:*[\\"))
    kept_BN = _latest_index(~skip_BN)  # last byte up to here that says something
    ends_BN = _any_end(text, DENIED_WORDS, True) | _any_end(text, DENIED, False)
    # `>` at the end of a tag is no inequality.
    within_BN = _word(fold_BN) | (fold_BN == ord("/"))
    opened_BN = _shift(_latest_index(~within_BN), 1)
    is_tag_BN = jnp.take_along_axis(fold_BN, jnp.maximum(opened_BN, 0), 1) == ord("<")
    ends_BN &= ~((fold_BN == ord(">")) & is_tag_BN & (opened_BN >= 0))
    before_B = jnp.where(at_B > 0, _pick(kept_BN, jnp.maximum(at_B - 1, 0)), -1)
    denied_B = _holds(ends_BN, before_B)
    for verb in VERBS:
        is_verb_B = _holds(_ends(text, verb, False), before_B)
        behind_B = before_B - len(verb)
        behind_B = jnp.where(behind_B >= 0, _pick(kept_BN, jnp.maximum(behind_B, 0)), -1)
        denied_B |= is_verb_B & _holds(ends_BN, behind_B) & (behind_B >= at_B - NEAR)
    return denied_B & (before_B >= at_B - NEAR)


def _taken_back(text: Text, end_B: Array) -> Array:
    behind_BN = _index(text.byte_BN) >= end_B[:, None]
    hit_BN = jnp.zeros_like(behind_BN)
    for phrase in TAKEN_BACK:
        hit_BN |= _match(text.fold_sums, phrase)
    return jnp.any(hit_BN & behind_BN & ~_shift(_word(text.fold_BN), 1), -1)


def _unreadable(text: Text, shown_BR: Array) -> Array:
    """Longer than an answer may be, or with control, zero-width or direction marks inside."""
    byte_BN, index_BN = text.byte_BN, _index(text.byte_BN)
    far = 2**30
    first_B = jnp.min(jnp.where(shown_BR, text.start_BR, far), -1)
    last_B = jnp.max(jnp.where(shown_BR, text.end_BR, -far), -1)
    one_BN, two_BN = _shift(byte_BN, -1), _shift(byte_BN, -2)

    def between(x, low, high):
        return (x >= low) & (x <= high)

    bad_BN = (byte_BN < 32) & ~_among(byte_BN, SPACES) | (byte_BN == 127)
    bad_BN |= (byte_BN == 0xC2) & (between(one_BN, 0x80, 0x9F) | (one_BN == 0xAD))
    wide_BN = between(two_BN, 0x8B, 0x8F) | between(two_BN, 0xAA, 0xAE)
    bad_BN |= (byte_BN == 0xE2) & (one_BN == 0x80) & wide_BN
    bad_BN |= (byte_BN == 0xE2) & (one_BN == 0x81) & between(two_BN, 0xA0, 0xAF)
    bad_BN |= (byte_BN == 0xE2) & (one_BN == 0x83) & between(two_BN, 0x90, 0xB0)
    bad_BN |= (byte_BN == 0xEF) & (one_BN == 0xBB) & (two_BN == 0xBF)
    bad_BN |= (byte_BN == 0xEE) | (byte_BN == 0xEF) & between(one_BN, 0x80, 0xA3)
    bad_BN |= (byte_BN == 0xF3) & (one_BN == 0xA0)
    marks_BN = (byte_BN == 0xCC) & between(one_BN, 0x80, 0xBF)
    marks_BN |= (byte_BN == 0xCD) & between(one_BN, 0x80, 0xAF)
    letter_BN = _word(text.fold_BN) & ~between(byte_BN, 48, 57) | (byte_BN >= 128)
    bad_BN |= marks_BN & ~_shift(letter_BN, 1)
    inside_BN = (index_BN >= first_B[:, None]) & (index_BN < last_B[:, None])
    return jnp.any(bad_BN & inside_BN, -1) | (last_B - first_B > LONGEST) | (first_B < 0)


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


def _word(fold_BN: Array) -> Array:
    letter_BN = (fold_BN >= 97) & (fold_BN <= 122)
    return letter_BN | (fold_BN >= 48) & (fold_BN <= 57) | (fold_BN == 95)


def _sums(x_BN: Array) -> Sums:
    width = x_BN.shape[1]
    power_N = jnp.cumprod(jnp.full(width, BASE, jnp.uint32), dtype=jnp.uint32)
    total_BN = jnp.cumsum((x_BN.astype(jnp.uint32) + 1) * power_N, 1, dtype=jnp.uint32)
    return Sums(jnp.pad(total_BN, ((0, 0), (1, 0))), power_N)


def _match(sums: Sums, word: bytes) -> Array:
    """Where a word begins."""
    width, size = sums.power_N.shape[0], len(word)
    wanted = sum((byte + 1) * BASE**k for k, byte in enumerate(word)) % 2**32
    behind_BN = jnp.pad(sums.before_BN, ((0, 0), (0, size)), mode="edge")[:, size:]
    found_BN = behind_BN[:, :width] - sums.before_BN[:, :width]
    return found_BN == sums.power_N * jnp.uint32(wanted)


def _ends(text: Text, word: bytes, whole: bool) -> Array:
    """Where a word ends, at its last byte; a whole one does not go on to the left."""
    begins_BN = _match(text.fold_sums, word)
    begins_BN = begins_BN & ~_shift(_word(text.fold_BN), 1) if whole else begins_BN
    return _shift(begins_BN, len(word) - 1) if len(word) > 1 else begins_BN


def _any_end(text: Text, words: tuple[bytes, ...], whole: bool) -> Array:
    found_BN = _ends(text, words[0], whole)
    for word in words[1:]:
        found_BN |= _ends(text, word, whole)
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


def _pick(x_BN: Array, at_B: Array) -> Array:
    at_B = jnp.clip(at_B, 0, x_BN.shape[1] - 1)
    return jnp.take_along_axis(x_BN, at_B[:, None], 1)[:, 0]


def _holds(found_BN: Array, at_B: Array) -> Array:
    return _pick(found_BN, at_B) & (at_B >= 0)


def _line_end(text: Text, from_B: Array) -> Array:
    ends_BN = (text.byte_BN == NEWLINE) & (_index(text.byte_BN) >= from_B[:, None])
    return jnp.minimum(_first(ends_BN), text.total_B)


def _trimmed(
    text: Text, first_B: Array, last_B: Array, blank: tuple[int, ...] = SPACES
) -> tuple[Array, Array]:
    """A span without blanks at its ends; (0, 0) if nothing is left."""
    index_BN = _index(text.byte_BN)
    inside_BN = (index_BN >= first_B[:, None]) & (index_BN < last_B[:, None])
    full_BN = inside_BN & ~_among(text.byte_BN, blank)
    some_B = jnp.any(full_BN, -1)
    return jnp.where(some_B, _first(full_BN), 0), jnp.where(some_B, _last(full_BN) + 1, 0)
