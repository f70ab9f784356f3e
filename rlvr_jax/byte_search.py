"""Find words in the bytes of responses, on the device, whatever tokens spell the bytes.

A response is token ids.  `spell_bytes` turns it into bytes, with a table of the bytes of each
token; the other functions search in such arrays.  A place is the index of a byte in its row.  A
function that finds nothing returns -1, or N if it looks for the first place.  Shapes: B responses,
R response columns (tokens), N bytes, X any number of places.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlvr_jax import markers
from rlvr_jax.structs import Array, Rollout, Spelling

NEWLINE = 10
SPACES = (9, 10, 11, 12, 13, 32)  # ASCII white space
HASH_BASE = 0x9E3779B1  # odd, so that its powers never vanish modulo 2^32


class HashSums(NamedTuple):
    """A HashSums holds running sums by which `find_word` compares words, modulo 2^32.

    The term of the byte at place i is (byte + 1) * HASH_BASE^(i + 1).  See Karp and Rabin,
    "Efficient randomized pattern-matching algorithms", 1987.
    """

    before_BN: Array  # uint32 [B, N + 1], the sum of the terms before each place
    power_N: Array  # uint32 [N], HASH_BASE^(place + 1)


class ByteText(NamedTuple):
    """A ByteText holds the last N bytes of each response, and the places that each token spells.

    Places are counted from the first of these bytes.
    """

    byte_BN: Array  # int32; 0 after the end of the response
    fold_BN: Array  # int32, the same bytes with ASCII letters in lower case
    sums: HashSums  # of fold_BN
    start_BR: Array  # int32, place of a token's first byte; negative before the first kept byte
    end_BR: Array  # int32, place after a token's last byte
    total_B: Array  # int32, number of bytes that are kept


def spell_bytes(rollout: Rollout, spelling: Spelling, whole: bool = False) -> ByteText:
    """Return the last bytes of each response, at most `markers.SEARCHED`, or all with `whole`."""
    columns = rollout.response_BR.shape[1]
    count_BR = spelling.length_V[rollout.response_BR]
    count_BR = jnp.where(rollout.response_mask_BR, count_BR, 0)
    end_BR = jnp.cumsum(count_BR, -1, dtype=jnp.int32)
    start_BR, total_B = end_BR - count_BR, end_BR[:, -1]
    window = columns * spelling.bytes_VW.shape[1]
    window = window if whole else min(markers.SEARCHED, window)
    skipped_B = jnp.maximum(total_B - window, 0)
    place_BN = jnp.arange(window, dtype=jnp.int32) + skipped_B[:, None]
    owner_BN = jax.vmap(lambda end_R, place_N: jnp.searchsorted(end_R, place_N, side="right"))(
        end_BR, place_BN
    )
    owner_BN = jnp.minimum(owner_BN, columns - 1).astype(jnp.int32)
    token_BN = take(rollout.response_BR, owner_BN)
    offset_BN = place_BN - take(start_BR, owner_BN)
    offset_BN = jnp.clip(offset_BN, 0, spelling.bytes_VW.shape[1] - 1)
    byte_BN = spelling.bytes_VW[token_BN, offset_BN].astype(jnp.int32)
    byte_BN = jnp.where(place_BN < total_B[:, None], byte_BN, 0)
    fold_BN = jnp.where((byte_BN >= 65) & (byte_BN <= 90), byte_BN + 32, byte_BN)
    shift_B1 = skipped_B[:, None]
    bounds = (start_BR - shift_B1, end_BR - shift_B1, total_B - skipped_B)
    return ByteText(byte_BN, fold_BN, _hash_sums(fold_BN), *bounds)


def _hash_sums(x_BN: Array) -> HashSums:
    powers = [pow(HASH_BASE, k + 1, 2**32) for k in range(x_BN.shape[1])]
    power_N = jnp.array(powers, jnp.uint32)
    total_BN = jnp.cumsum((x_BN.astype(jnp.uint32) + 1) * power_N, 1, dtype=jnp.uint32)
    return HashSums(jnp.pad(total_BN, ((0, 0), (1, 0))), power_N)


# ---- words: bool [B, N], true at the first byte of each occurrence -----------------------------


def find_word(sums: HashSums, word: str) -> Array:
    """Return bool [B, N], true where a word begins; `word` is in lower case, the text in any.

    The bytes are compared by their hash `sums`.
    """
    encoded = word.encode()
    width, size = sums.power_N.shape[0], len(encoded)
    wanted = sum((byte + 1) * HASH_BASE**k for k, byte in enumerate(encoded)) % 2**32
    behind_BN = jnp.pad(sums.before_BN, ((0, 0), (0, size)), mode="edge")[:, size:]
    difference_BN = behind_BN[:, :width] - sums.before_BN[:, :width]
    return difference_BN == sums.power_N * jnp.uint32(wanted)


def find_word_exactly(byte_BN: Array, word: str) -> Array:
    """Return bool [B, N], true where `word` begins; upper and lower case differ."""
    encoded = word.encode()
    match_BN = byte_BN == encoded[0]
    for k, byte in enumerate(encoded[1:], 1):
        match_BN &= shift(byte_BN, -k) == byte
    return match_BN


# ---- kinds of bytes: bool of the shape of the bytes --------------------------------------------


def is_among(x_BN: Array, values: tuple[int, ...]) -> Array:
    """Return a bool array of the shape of x_BN: whether an element equals one of `values`."""
    match_BN = x_BN == values[0]
    for value in values[1:]:
        match_BN |= x_BN == value
    return match_BN


def is_letter(fold_BN: Array) -> Array:
    """Return a bool array of the same shape: whether a byte is an ASCII letter in lower case."""
    return (fold_BN >= 97) & (fold_BN <= 122)


def is_word_byte(fold_BN: Array) -> Array:
    """Return a bool array: whether a byte of lower-case text is a-z, 0-9 or an underscore."""
    return is_letter(fold_BN) | (fold_BN >= 48) & (fold_BN <= 57) | (fold_BN == 95)


# ---- places ------------------------------------------------------------------------------------


def places(x_BN: Array) -> Array:
    """Return the index of each element in its row, int32 of the same shape."""
    return jnp.broadcast_to(jnp.arange(x_BN.shape[1], dtype=jnp.int32), x_BN.shape)


def shift(x_BN: Array, by: int) -> Array:
    """Return the rows moved by |by| columns: to the right if by > 0, to the left if by < 0.

    Vacated columns hold False in a bool array.  In an int array they hold -1 after a move to the
    right and 0 after a move to the left.
    """
    width = x_BN.shape[1]
    fill = False if x_BN.dtype == bool else (-1 if by > 0 else 0)
    pad = (0, 0), (max(by, 0), max(-by, 0))
    return jnp.pad(x_BN, pad, constant_values=fill)[:, max(-by, 0) :][:, :width]


def last_place(match_BN: Array, begin_B: Array) -> Array:
    """Return int32 [B], the last place of a match at or after `begin_B`; -1 if there is none."""
    place_BN = places(match_BN)
    match_BN = match_BN & (place_BN >= begin_B[:, None])
    return jnp.max(jnp.where(match_BN, place_BN, -1), -1)


def first_place(match_BN: Array) -> Array:
    """Return int32 [B], the first place of a match; N if there is none."""
    return jnp.min(jnp.where(match_BN, places(match_BN), match_BN.shape[1]), -1)


def last_place_up_to(match_BN: Array) -> Array:
    """Return int32 [B, N], the last place of a match at or before each place; -1 without one."""
    return jax.lax.cummax(jnp.where(match_BN, places(match_BN), -1), 1)


def first_place_from(match_BN: Array) -> Array:
    """Return int32 [B, N], the first place of a match at or after each place; N without one."""
    place_BN = jnp.where(match_BN, places(match_BN), match_BN.shape[1])
    return jax.lax.cummin(place_BN, 1, reverse=True)


def take(x_BN: Array, place_BX: Array) -> Array:
    """Return [B, X], the elements of each row at the given places; places outside are clipped."""
    return jnp.take_along_axis(x_BN, place_BX, 1, mode="clip")


def pick(x_BN: Array, place_B: Array) -> Array:
    """Return [B], the element of each row at the given place; places outside are clipped."""
    place_B = jnp.clip(place_B, 0, x_BN.shape[1] - 1)
    return take(x_BN, place_B[:, None])[:, 0]


def line_end(text: ByteText, from_B: Array) -> Array:
    """Return int32 [B], the place of the first newline at or after `from_B`, or `text.total_B`."""
    ends_BN = (text.byte_BN == NEWLINE) & (places(text.byte_BN) >= from_B[:, None])
    return jnp.minimum(first_place(ends_BN), text.total_B)
