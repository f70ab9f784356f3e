"""Hostile tokenizer files: each is refused within seconds, in one sentence that names the file."""

import json
import os
import random
import re
import struct
import time

import numpy as np
import pytest

from rlvr_jax.host.text import tokenizer
from rlvr_jax.host.text.tokenizer import TokenizerError, fast, open_tokenizer
from rlvr_jax.host.text.tokenizer.codec import alternatives

SECONDS = 10


@pytest.fixture(scope="module")
def spm(tmp_path_factory):
    path = tmp_path_factory.mktemp("spm") / "tokenizer.model"
    tokenizer.train([f"What is {a} + {b}?" for a in range(30) for b in range(30)], 300, path)
    return path


def tokenizer_json(path, vocab=None, regex=None, place="pre_tokenizer", added=()):
    """Write a byte-level tokenizer.json with other parts."""
    open_tokenizer("byte").save(path.parent)
    state = json.loads((path.parent / "tokenizer.json").read_text())
    state["model"]["vocab"] |= vocab or {}
    state["added_tokens"] += added
    if regex is not None:
        split = {"pattern": {"Regex": regex}}
        more = {"type": "Replace", "content": "x"}
        if place == "pre_tokenizer":
            more = {"type": "Split", "behavior": "Isolated", "invert": False}
            state[place] = {"type": "Sequence", "pretokenizers": [split | more, state[place]]}
        elif place == "decoder":
            state[place] = {"type": "Sequence", "decoders": [state[place], split | more]}
        else:
            state[place] = split | more
    path.write_text(json.dumps(state))
    return path


def refused(path, *words, named=None):
    start = time.monotonic()
    with pytest.raises(TokenizerError) as error:
        open_tokenizer(path)
    assert time.monotonic() - start < SECONDS
    said = str(error.value)
    assert str(named or path) in said and "\n" not in said and all(w in said for w in words), said


@pytest.mark.parametrize("i", [50_000_000, 2**32 - 1, 1 << 20])
def test_an_id_that_no_vocabulary_has(tmp_path, i):
    path = tokenizer_json(tmp_path / "tokenizer.json", vocab={"far": i})
    refused(path, f"a token with id {i:,}", "1,048,576")


def test_the_largest_id_that_is_allowed(tmp_path):
    path = tokenizer_json(tmp_path / "tokenizer.json", vocab={"far": (1 << 20) - 1})
    start = time.monotonic()
    tok = open_tokenizer(path)
    assert tok.vocab == 1 << 20 and tok.tables()[2].sum() == (1 << 20) - 257
    assert time.monotonic() - start < SECONDS


@pytest.mark.parametrize("i, words", [(50_000_000, "id 50,000,000"), (-1, "an id below 0")])
def test_an_added_id_that_no_vocabulary_has(tmp_path, spm, i, words):
    (tmp_path / "tokenizer.model").write_bytes(spm.read_bytes())
    config = tmp_path / "tokenizer_config.json"
    added = {str(i): {"content": "<far>", "special": True}}
    config.write_text(json.dumps({"added_tokens_decoder": added}))
    refused(tmp_path, words, named=config)


@pytest.mark.parametrize("place", ["pre_tokenizer", "normalizer", "decoder"])
@pytest.mark.parametrize("regex", ["(a+)+$", r"(?:\w+\s?)*!", ".?" * 40 + "x", "a{100000}"])
def test_a_pattern_that_explodes(tmp_path, place, regex):
    path = tokenizer_json(tmp_path / "tokenizer.json", regex=regex, place=place)
    refused(path, "a pattern that may take forever")


def test_a_pattern_that_is_accepted_takes_seconds_at_worst(tmp_path):
    path = tokenizer_json(tmp_path / "tokenizer.json", regex=r"\s*[\r\n]+|a*[bc]")
    tok = open_tokenizer(path)
    text = "a" * 5000 + "d" + " " * 5000 + "c"
    start = time.monotonic()
    assert tok.decode(tok.encode(text)) == text
    assert time.monotonic() - start < SECONDS


def test_a_panic_of_the_library_is_a_refusal(tmp_path):
    """The package stops some matches after 10^7 steps, by an error that is no Exception."""

    class PanicException(BaseException):
        pass

    with pytest.raises(TokenizerError, match="^t.json cannot encode 'a': retry limit$"):
        with fast.refusing("t.json cannot encode 'a'"):
            raise PanicException("retry\nlimit")
    with pytest.raises(KeyboardInterrupt), fast.refusing("t.json cannot encode 'a'"):
        raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model", "tokenizer_config.json"])
def test_a_file_of_gigabytes_is_not_read(tmp_path, spm, name):
    (tmp_path / "tokenizer.model").write_bytes(spm.read_bytes())
    (tmp_path / name).touch()
    os.truncate(tmp_path / name, 1 << 36)
    refused(tmp_path, "larger than 64 MiB", named=tmp_path / name)


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer.model", "tokenizer_config.json", "config.json"]
)
def test_a_pipe_is_not_waited_for(tmp_path, spm, name):
    if name != "tokenizer.model":
        (tmp_path / "tokenizer.model").write_bytes(spm.read_bytes())
    os.mkfifo(tmp_path / name)
    refused(tmp_path, "is not a readable file", named=tmp_path / name)


def test_deep_json(tmp_path):
    (tmp_path / "tokenizer.json").write_text("[" * 10**6)
    refused(tmp_path / "tokenizer.json", "is not a readable tokenizer.json")


@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_more_tokens_than_any_vocabulary(tmp_path, model):
    """1.1 million empty tokens that are all there."""

    def text(value):
        return struct.pack("<Q", len(value)) + value

    path, count = tmp_path / "t.gguf", (1 << 20) + 7
    keys = text(b"tokenizer.ggml.model") + struct.pack("<I", 8) + text(model.encode())
    keys += text(b"tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, count) + bytes(8 * count)
    for name in (b"merges", b"scores", b"token_type"):
        keys += text(b"tokenizer.ggml." + name) + struct.pack("<IIQ", 9, 8, 0)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 5) + keys)
    refused(path, "id 1,048,582")


def test_a_piece_of_a_sentencepiece_model_may_be_anything(spm, tmp_path):
    """Mutated models are read or refused; a model that is read encodes and decodes."""
    rng, whole = np.random.default_rng(0), spm.read_bytes()
    path, read = tmp_path / "t.model", 0
    for _ in range(200):
        data = bytearray(whole)
        data[rng.integers(len(data))] = rng.integers(256)
        path.write_bytes(data)
        try:
            tok = open_tokenizer(path)
        except TokenizerError as error:
            assert "\n" not in str(error)
            continue
        tok.decode(tok.encode("What is 3 + 4?"))
        read += 1
    assert 10 < read < 200


@pytest.mark.parametrize("count", [16_000, 17_000])
def test_thousands_of_control_tokens(tmp_path, count):
    added = [
        dict(id=400 + i, content=f"<|reserved_{i}|>", special=True, single_word=False)
        | dict(lstrip=False, rstrip=False, normalized=False)
        for i in range(count)
    ]
    path = tokenizer_json(tmp_path / "tokenizer.json", added=added)
    if count > 16_384:
        return refused(path, "17,003 control tokens and may have 16,384")
    start = time.monotonic()
    tok = open_tokenizer(path)
    for text in ("<|reserved_7|>", "a<|reserved_15999|>b", "<|reserved_16001|>"):
        assert tok.decode(tok.encode(text)) == text
    ids = tok.chat([{"role": "user", "content": "<|reserved_15|> and <|reserved_1599|>"}])
    assert max(tok.encode("<|reserved_15|>")) < 256 and sum(i > 258 for i in ids) == 0
    assert time.monotonic() - start < SECONDS


def test_alternatives_prefer_the_longest_name():
    rng = random.Random(0)
    for _ in range(300):
        names = {"".join(rng.choice("ab<.|") for _ in range(rng.randint(1, 5))) for _ in range(9)}
        flat = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
        text = "".join(rng.choice("ab<.|") for _ in range(40))
        assert re.findall(alternatives(names), text) == re.findall(flat, text)
    deep = ["a" * n for n in range(1, 300)]
    assert re.fullmatch(alternatives(deep), "a" * 299) and not re.search(alternatives([]), "a")
