"""Patterns: those that models use are read, and those that explode are refused before use."""

import time

import pytest
import tokenizers
from tokenizers import pre_tokenizers

from rlvr_jax.host.text.tokenizer.patterns import explain, list_patterns

ENGLISH = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
HAN = r"&&[^\p{Han}]]"
# Of GPT-2, Llama 3, Qwen, o200k, Kimi, DeepSeek, BLOOM, CLIP, Falcon, cl100k and others.
USED = [
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    rf"{ENGLISH}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{TAIL}",
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{ENGLISH}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*"
    rf"{ENGLISH}?|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))*((?=[\p{L}])([^A-Z]))+(?:'[sS]|'[tT]|'[rR][eE])?",
    rf"[\p{{Han}}]+|[^\r\n\p{{L}}\p{{N}}]?{UPPER[:-1]}{HAN}*{LOWER[:-1]}{HAN}+{ENGLISH}?|{TAIL}",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r" ?[^(\s|.,!?…。，、।۔،)]+",
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    r"\p{N}{1,3}(?=(?:\p{N}{3})*(?:\P{N}|$))",
    r"(?=(\d{3})+(?!\d))",
    rf"{ENGLISH}|[^\r\n\p{{L}}\p{{N}}]?+\p{{L}}+|"
    rf"\p{{N}}{{1,3}}+| ?[^\s\p{{L}}\p{{N}}]++[\r\n]*+|\s++$",
    r"(?:\p{L}|\p{M})+",
    r"\s?\p{P}+",
    r"a*[bc]",
    r"\d+(?:\.\d*)?(?:e\d*)?",
    r" {2,}",
    r"[[:alpha:]_]+|[]x]",
    r"(?i)x+|(?<!a)b|(?<=c)d|(?>e+)f",
]
EXPLODE = [
    r"(a+)+$",
    r"(a|a)*b",
    r"(a*)*b",
    r"(?=(a+)+)b",
    r"(?<!(a+)+)b",
    r"(?:a{1,3})+b",
    r"a{1,3}+b",
    r"((a+)b?)+c",
    r"(\w+\s?)+!",
    r"((((a+)))+)b",
    r"(?:a|b|ab)*c",
    r"(?:.?){40}x",
    r".?" * 40 + "x",
    r"(a|ab)" * 12 + "x",
    r"a*a*a*a*a*a*b",
    r"a*a*[bc]",
    r"a{0,20}a*b",
    r"a*(?=a*b)",
    r"a*(?:a*b)",
    r"a{1,3}" * 5 + "x",
    r"a+{5}b",
    r"a{2}{3}{4}+b",
    r"(?i)(a+)+$",
    r"[\]](a+)+b",
    r"x|(a+)+b|y",
]
UNKNOWN = [
    *(r"(a)\1*", r"(?<x>a\g<x>?)", r"a{100000}", "(", "a)", "[a", r"(?x)a # b", "(?#c)a"),
    *(r"(?(1)a|b)", r"(?~ab)", r"[\c]](a+)+b]", r"\c(a+)+\c)", "a**b", "*", r"a(?i)b"),
]


@pytest.mark.parametrize("pattern", USED)
def test_patterns_of_models_are_read(pattern) -> None:
    assert explain(pattern) is None
    text = "The answer, naïve 12345 日本語   \n\n can't a.b/c?d=e हिन्दी " + "a" * 300 + " " * 300
    split = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    start = time.monotonic()
    assert split.pre_tokenize_str(text * 20)
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("pattern", EXPLODE + UNKNOWN, ids=ascii)
def test_patterns_that_explode_or_are_not_known_are_refused(pattern) -> None:
    reason = explain(pattern)
    assert reason and "\n" not in reason


def test_long_patterns_are_read_in_no_time() -> None:
    start = time.monotonic()
    for pattern in ("(" * 50_000 + ")" * 50_000, "[" * 100_000, "a?" * 50_000, "|" * 100_000):
        explain(pattern)
    assert time.monotonic() - start < 2


def test_all_patterns_of_a_state_are_listed() -> None:
    inner = [{"pattern": {"Regex": "a"}}, {"pattern": {"String": "b"}}, {"x": [{"Regex": "c"}]}]
    assert list(list_patterns({"type": "Sequence", "parts": inner})) == ["a", "c"]
    assert list(list_patterns(None)) == []
