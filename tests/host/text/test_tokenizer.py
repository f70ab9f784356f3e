"""The tokenizer: text comes back, and never becomes a control token; ids are the model's own."""

import json
import random
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from rlvr_jax.host.text import tokenizer
from rlvr_jax.host.text.tokenizer import TokenizerError, byte, fast, open_tokenizer

TEXTS = [
    f"What is {a} + {b}? the answer is {a + b}\nReference: {a} = {b}\nAnswer: \nCorrect:"
    for a in range(40)
    for b in range(20)
]
VOCAB = 340


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    tokenizer.train(TEXTS, VOCAB, path)
    return path


@pytest.fixture(scope="module")
def tok(path):
    return open_tokenizer(path)


# ---- training ------------------------------------------------------------------------------


@pytest.mark.parametrize("vocab", [300, 311, VOCAB])
def test_training_gives_exactly_the_vocabulary_asked_for(tmp_path, vocab):
    tokenizer.train(TEXTS, vocab, tmp_path / "t.model")
    assert open_tokenizer(tmp_path / "t.model").vocab == vocab
    assert [p.name for p in tmp_path.iterdir()] == ["t.model"]


def test_training_is_deterministic_to_the_byte(tmp_path, path):
    tokenizer.train(iter(TEXTS), VOCAB, tmp_path / "again.model")
    assert (tmp_path / "again.model").read_bytes() == path.read_bytes()


def test_training_replaces_an_older_model(tmp_path, path):
    (tmp_path / "t.model").write_bytes(b"old")
    tokenizer.train(TEXTS, VOCAB, tmp_path / "t.model")
    assert (tmp_path / "t.model").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("vocab", [1, 10, 257, 100_000])
def test_a_vocabulary_that_cannot_be_is_refused_in_a_sentence(tmp_path, vocab):
    with pytest.raises(TokenizerError) as error:
        tokenizer.train(TEXTS, vocab, tmp_path / "t.model")
    text = str(error.value)
    assert text.startswith(
        f"cannot train a tokenizer of {vocab} pieces on this text; change model.vocab"
    )
    assert "\n" not in text and not list(tmp_path.iterdir())


def test_no_text_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(TokenizerError, match="give it more text"):
        tokenizer.train([], VOCAB, tmp_path / "t.model")


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "noise", "text"])
def test_a_damaged_file_is_refused_in_a_sentence(tmp_path, path, damage):
    whole = path.read_bytes()
    broken = tmp_path / "t.model"
    content = {
        "empty": b"",
        "cut": whole[: len(whole) // 2 + 1],
        "noise": whole[:900] + b"\xff" * 90 + whole[990:],
        "text": b"{}",
    }
    if damage in content:
        broken.write_bytes(content[damage])
    with pytest.raises(TokenizerError) as error:
        open_tokenizer(broken)
    missing = f"there is no tokenizer {broken}: correct the path"
    damaged = f"{broken} is not a readable sentencepiece model"
    assert str(error.value) == (missing if damage == "missing" else damaged)


# ---- text ----------------------------------------------------------------------------------

HARD = [
    "",
    " ",
    "a  b",
    " lead",
    "trail ",
    "\n",
    "\n\n\n",
    "a\nb\n",
    "\r\n",
    "\t",
    "é à ñ ß ø",
    "e\u0301",  # not composed
    "½ ² ＡＢ ﬁ",  # compatibility forms stay
    "日本語 العربية हिन्दी",
    "\U0001f600 \U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea",
    "\x00\x01\x02\x1f\x7f\x80\x9f",
    "\u200b\ufeff\u2028\u2029\u00a0",
    "\uffff\U0010ffff",
    "12345 ١٢٣",
    "</s>",
    "<s><unk><pad><0x0A><|im_start|>",
]


@pytest.mark.parametrize("text", HARD, ids=ascii)
def test_text_comes_back(tok, text):
    ids = tok.encode(text)
    assert tok.decode(ids) == text
    assert tok.decode(np.array(ids, np.int32)) == text
    assert all(type(i) is int and 0 <= i < tok.vocab for i in ids)


def test_random_text_comes_back_and_holds_no_control_token(tok):
    rng = random.Random(0)
    unknown = 0
    for _ in range(2000):
        chars = [rng.choice("01 </s>\nanswer") for _ in range(rng.randrange(12))]
        chars += [chr(rng.randrange(0xD800)) for _ in range(rng.randrange(6))]
        rng.shuffle(chars)
        text = "".join(chars).replace("\u2581", "")
        ids = tok.encode(text)
        assert tok.decode(ids) == text
        assert tok.eos[0] not in ids and unknown not in ids


@pytest.mark.parametrize("text", ["</s>", "a</s>b", "</s></s>", "<unk>", " </s>", "\n</s>\n", "⁇"])
def test_text_is_never_a_control_token(tok, text):
    ids = tok.encode(text)
    assert tok.eos[0] not in ids and 0 not in ids
    assert tok.decode(ids) == text


def test_training_on_control_words_does_not_teach_them(tmp_path):
    tokenizer.train(["</s> <unk> 1 0"] * 500 + TEXTS, VOCAB, tmp_path / "t.model")
    tok = open_tokenizer(tmp_path / "t.model")
    ids = tok.encode("</s> <unk>")
    assert tok.eos[0] not in ids and 0 not in ids


def test_half_a_character_is_no_crash(tok):
    """JSON can carry a lone surrogate."""
    assert tok.decode(tok.encode("a \ud800 b")) == "a ? b"


def test_the_sign_for_a_space_comes_back_as_a_space(tok):
    """A limit of sentencepiece, which writes spaces with it."""
    assert tok.decode(tok.encode("a\u2581b")) == "a b"


def test_decoding_ends_at_the_end(tok):
    ids = tok.encode("the answer")
    assert tok.decode([*ids, *tok.eos, *tok.encode("more"), *tok.eos]) == "the answer"
    assert tok.decode(tok.eos) == tok.decode([]) == ""


def test_a_new_line_is_one_token_of_its_own(tok):
    (newline,) = tok.encode("\n")
    assert tok.encode("a\nb").count(newline) == 1
    others = [i for i in range(tok.vocab) if "\n" in tok.pieces([i])[0] and i != newline]
    assert len(others) == 1  # the byte, which no text needs


def test_pieces_show_what_people_expect(tok):
    assert "".join(tok.pieces(tok.encode("What is 3?"))) == "What is 3?"
    assert tok.pieces(tok.eos) == ["</s>"]


# ---- verdicts and tables -------------------------------------------------------------------


def test_verdicts_are_single_and_distinct(tok):
    accept, reject = tok.verdict_ids
    assert accept != reject
    assert [tok.decode([accept]), tok.decode([reject])] == ["1", "0"]
    assert tok.encode("1") == [accept] and tok.encode("0") == [reject]


def test_verdicts_that_the_text_does_not_know_are_refused(tmp_path):
    """Without a digit in the text `1` is a byte, which is one token too; a word is not."""
    tokenizer.train(TEXTS, VOCAB, tmp_path / "t.model")
    tok = open_tokenizer(tmp_path / "t.model")
    with pytest.raises(TokenizerError, match="the verdict 'perhaps' is . tokens .* must be one"):
        tok.single("perhaps")


def test_verdict_ids_are_single_without_any_digit_in_the_text(tmp_path):
    letters = ["the quick brown fox jumps over the lazy dog again and again and again"]
    tokenizer.train(letters, 300, tmp_path / "t.model")
    accept, reject = open_tokenizer(tmp_path / "t.model").verdict_ids
    assert accept != reject


def test_the_newline_table(tok):
    newline_V, _, _ = tok.tables()
    assert newline_V.dtype == bool and newline_V.shape == (tok.vocab,)
    found = {tok.pieces([i])[0] for i in np.flatnonzero(newline_V)}
    assert found == {"\n"} and newline_V.sum() == 2


def test_the_blank_table(tok):
    _, blank_V, _ = tok.tables()
    assert blank_V.dtype == bool and blank_V.shape == (tok.vocab,)
    assert blank_V[tok.eos[0]] and blank_V[0]
    for text in (" ", "\n", "\t", "\r"):
        assert all(blank_V[i] for i in tok.encode(text)), repr(text)
    for text in ("1", "0", "the", ".", "<", "=", "é"):
        assert not blank_V[tok.encode(text)[0]], text
    for i in np.flatnonzero(~blank_V):
        assert tok.pieces([i])[0].strip()


def test_a_part_of_a_character_is_not_blank(tok):
    """Else the last byte of an answer that ends in one of these letters is cut off."""
    _, blank_V, _ = tok.tables()
    for text in ("à", "Å", "х"):
        assert not any(blank_V[i] for i in tok.encode(text)), text


def test_the_control_table(tok):
    newline_V, blank_V, control_V = tok.tables(tok.vocab + 9)
    assert set(np.flatnonzero(control_V)) == {0, *tok.eos, *range(tok.vocab, tok.vocab + 9)}
    assert blank_V[control_V].all() and not newline_V[control_V].any()
    for whole, cut in zip(tok.tables(), tok.tables(40), strict=True):
        assert np.array_equal(whole[:40], cut)


# ---- every kind against the package that it was made for -----------------------------------

LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = LLAMA.replace("{1,3}", "")
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
SPECIALS = ["<|bos|>", "<|endoftext|>", "<|start|>", "<|end|>"]
SPANS = (
    (0x01, 0x7E), (0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x52F), (0x5D0, 0x5EA), (0x620, 0x64A),
    (0x904, 0x939), (0xE01, 0xE3A), (0x2000, 0x206F), (0x3041, 0x30FF), (0x4E00, 0x4EFF),
    (0xAC00, 0xAC80), (0xFF01, 0xFF5E), (0x1F300, 0x1F6FF),
)  # fmt: skip
WORDS = """the answer is Reference: def return for in range(10): x_1 += 2*y; // # {"key": [1, it's
I'LL we've DON'T naïve Москва привет 日本語 こんにちは 안녕 العربية ½ ² ٣٤ 12345 3.14159 1,000,000
🙂 हिन्दी 👩‍👩‍👧 é Å </think> \\frac{1}{2} ... !!! == -> __ -- https://a.b/c?d=e&f#g""".split()
GAPS = (" ", " ", " ", "  ", "    ", "\n", "\n\n", "\t", "\r\n", " \n ", "", "\u00a0")


def strings(count, seed=0):
    rng = random.Random(seed)
    for i in range(count):
        if i % 3:
            parts = [rng.choice(WORDS) + rng.choice(GAPS) for _ in range(rng.randint(1, 9))]
            yield rng.choice(("", "", " ", "\n")) + "".join(parts)
        else:
            spans = [rng.choice(SPANS) for _ in range(rng.randint(0, 16))]
            yield "".join(chr(rng.randint(*span)) for span in spans)


def byte_level(steps, normalizer=None, ignore_merges=False):
    """A byte-level tokenizer as the package makes it: 600 pieces, then special and other tokens."""
    tok = tokenizers.Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer is not None:
        tok.normalizer = normalizer
    tok.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tok.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tok.train_from_iterator([*strings(2000, 1), *TEXTS], trainer)
    tok.add_special_tokens(SPECIALS)
    tok.add_tokens(["<think>"])
    return tok


def split(regex):
    return [
        pre_tokenizers.Split(tokenizers.Regex(regex), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]


def llama2():
    """Byte-pair encoding of characters, with bytes for those that are not known."""
    tok = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    steps = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    tok.normalizer = normalizers.Sequence(steps)
    plain = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    tok.decoder = decoders.Sequence([*plain, decoders.Strip(" ", 1, 0)])
    names = ["<unk>", *SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=names, show_progress=False)
    tok.train_from_iterator([t.replace(" ", "\u2581") for t in TEXTS], trainer)
    made = json.loads(tok.to_str())
    made["added_tokens"] = made["added_tokens"][:5]  # the bytes are no words of their own
    tok = tokenizers.Tokenizer.from_str(json.dumps(made))
    bos = (SPECIALS[0], tok.token_to_id(SPECIALS[0]))
    tok.post_processor = processors.TemplateProcessing(
        single=[bos[0], "$A"], pair=[bos[0], "$A", "$B"], special_tokens=[bos]
    )
    return tok


FAST = {
    "llama-bpe": lambda: byte_level(split(LLAMA), ignore_merges=True),
    "qwen2": lambda: byte_level(split(QWEN), normalizers.NFC()),
    "smollm": lambda: byte_level(
        [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "gpt-2": lambda: byte_level([pre_tokenizers.ByteLevel(add_prefix_space=False)]),
    "llama2": llama2,
}
BYTE_LEVEL = [name for name in FAST if name != "llama2"]


@pytest.fixture(scope="module")
def peers():
    return {name: make() for name, make in FAST.items()}


def save_json(tok, folder, **config):
    folder.mkdir(parents=True, exist_ok=True)
    tok.save(str(folder / "tokenizer.json"))
    end = {"__type": "AddedToken", "content": SPECIALS[1]}
    config = {"bos_token": SPECIALS[0], "eos_token": end} | config
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def save_gguf(tok, path, cut, **changes):
    """The tokenizer as the metadata of a GGUF file that has no tensors."""
    made = json.loads(tok.to_str())
    size = tok.get_vocab_size()
    kinds = {token["id"]: 3 if token["special"] else 4 for token in made["added_tokens"]}
    ids = {name: tok.token_to_id(SPECIALS[i]) for i, name in enumerate(("bos", "eos", "", "eot"))}
    values = {
        "tokens": [tok.id_to_token(i) for i in range(size)],
        "types": [kinds.get(i, 1) for i in range(size)],
        "merges": [" ".join(pair) for pair in made["model"]["merges"]],
        "kind": "gpt2",
    } | changes
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(values["kind"])
    writer.add_tokenizer_pre(cut)
    writer.add_token_list(values["tokens"])
    writer.add_token_types(values["types"])
    writer.add_token_merges(values["merges"])
    writer.add_bos_token_id(ids["bos"])
    writer.add_eos_token_id(ids["eos"])
    writer.add_eot_token_id(ids["eot"])
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def kinds(peers, tmp_path_factory):
    """One opened tokenizer of each kind that has a chat template."""
    folder = tmp_path_factory.mktemp("kinds")
    made = {}
    for name, tok in peers.items():
        saved = save_json(tok, folder / name, chat_template=TEMPLATE)
        made[name] = open_tokenizer(saved)
    for name in BYTE_LEVEL:
        path = save_gguf(peers[name], folder / f"{name}.gguf", name)
        made[f"{name} gguf"] = open_tokenizer(path)
    made["byte"] = open_tokenizer("byte")
    return made


KINDS = [*FAST, *(f"{name} gguf" for name in BYTE_LEVEL), "byte"]


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_ids_are_those_of_the_package(peers, kinds, kind):
    peer = peers[kind.removesuffix(" gguf")]
    for text in strings(1000):
        assert kinds[kind].encode(text) == peer.encode(text, add_special_tokens=False).ids, text


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_ids_are_those_of_sentencepiece(tmp_path, kind):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*TEXTS, *WORDS * 50]),
        model_prefix=str(tmp_path / "t"),
        model_type=kind,
        vocab_size=500,
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    peer = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "t.model"))
    ours = open_tokenizer(tmp_path / "t.model")
    for text in strings(1000):
        ids = peer.encode(text)
        assert ours.encode(text) == ids
        if "\ufffd" not in ours.decode(ids):
            assert ours.decode(ids) == peer.decode(ids)


def test_a_byte_is_an_id(kinds):
    for text in strings(300):
        assert kinds["byte"].encode(text) == list(text.encode())


@pytest.mark.parametrize("kind", KINDS)
def test_text_comes_back_from_every_kind(kinds, kind):
    for text in strings(300):
        back = kinds[kind].decode(kinds[kind].encode(text))
        same = normalizers.NFC().normalize_str(text) if kind.startswith("qwen2") else text
        assert back == same, ascii(text)


@pytest.mark.parametrize("kind", KINDS)
def test_look_alikes_stay_text(kinds, kind):
    tok = kinds[kind]
    controls = {i for i in np.flatnonzero(tok.tables()[2])}
    for name in [*SPECIALS, "<|im_start|>", "<|im_end|>"]:
        for text in (name, f"a {name}b", name * 2, f"\n{name}\n", f"<{name}|>"):
            ids = tok.encode(text)
            assert controls.isdisjoint(ids)
            assert tok.decode(ids) == text
            assert controls.isdisjoint(tok.raw_prompt(text)[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_decoded_as_it_streams(kinds, kind):
    """Ids in any order, and ids that are none: no crash, no text that changes its mind."""
    tok, rng = kinds[kind], random.Random(3)
    for _ in range(100):
        ids = [rng.randrange(tok.vocab + 20) for _ in range(30)]
        ids[3:3] = tok.encode("日本語 👩‍👩‍👧")
        push = tok.stream()
        parts = [push(i) for i in ids]
        assert "".join(parts) + push(None) == tok.decode(ids) == tok.decode(np.array(ids))
        assert push(5) == ""


def test_half_a_character_waits(kinds):
    push = kinds["byte"].stream()
    assert [push(i) for i in "aé🙂".encode()] == ["a", "", "é", "", "", "", "🙂"]
    assert push(0xF0) == "" and push(None) == "\ufffd"


@pytest.mark.parametrize("kind", KINDS)
def test_decoded_text_is_that_of_the_package(kinds, peers, kind):
    peer = peers.get(kind.removesuffix(" gguf"))
    if peer is None:
        pytest.skip("there is no such package")
    rng = random.Random(7)
    for _ in range(300):
        ids = [rng.randrange(peer.get_vocab_size()) for _ in range(12)]
        cut = next((n for n, i in enumerate(ids) if i in kinds[kind].eos), len(ids))
        ours, theirs = kinds[kind].decode(ids), peer.decode(ids[:cut])
        if kind == "llama2":  # the package replaces every byte of a bad run
            ours, theirs = ours.split("\ufffd")[0], theirs.split("\ufffd")[0]
            assert ours.startswith(theirs)
        else:
            assert ours == theirs


# ---- what ends a response, what begins a prompt --------------------------------------------


def test_the_end_of_a_turn_comes_first(kinds):
    for kind in KINDS[:-1]:
        peer = kinds[kind]
        assert [peer.pieces([i])[0] for i in peer.eos] == ["<|end|>", "<|endoftext|>"]
    assert kinds["byte"].pieces(kinds["byte"].eos) == ["<|im_end|>", "<|endoftext|>"]


def test_ends_come_from_every_file(peers, tmp_path):
    tok = peers["qwen2"]
    ids = [tok.token_to_id(name) for name in SPECIALS]
    folder = save_json(tok, tmp_path / "m")
    assert open_tokenizer(folder).eos == (ids[1],)
    (folder / "config.json").write_text(json.dumps({"eos_token_id": ids[3]}))
    assert open_tokenizer(folder).eos == (ids[1], ids[3])
    found = json.dumps({"eos_token_id": [ids[2], ids[1], 10**6]})
    (folder / "generation_config.json").write_text(found)
    assert open_tokenizer(folder).eos == (ids[1], ids[2], ids[3])
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    assert open_tokenizer(folder / "tokenizer.json").eos == (ids[3], ids[1], ids[2])
    assert open_tokenizer(folder).decode([70, ids[2], 71]) == open_tokenizer(folder).decode([70])


def test_an_end_that_is_not_special_is_no_text_either(peers, tmp_path):
    tok = open_tokenizer(save_json(peers["qwen2"], tmp_path, eos_token="<think>"))
    assert not set(tok.eos) & set(tok.encode("a<think>b"))
    assert tok.decode(tok.encode("a<think>b")) == "a<think>b"


def test_no_end_is_refused_in_a_sentence(peers, tmp_path):
    peers["gpt-2"].save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TokenizerError, match="nothing says which token of .* ends a response: "):
        open_tokenizer(tmp_path)


def test_a_prompt_begins_with_bos_where_the_model_wants_it(kinds, peers, tmp_path):
    for kind, tok in kinds.items():
        start = [tok.bos] if kind == "llama2" else []
        assert tok.raw_prompt("ab") == start + tok.encode("ab")
    asked = open_tokenizer(save_json(peers["qwen2"], tmp_path / "a", add_bos_token=True))
    assert asked.raw_prompt("ab")[0] == asked.bos == peers["qwen2"].token_to_id(SPECIALS[0])
    refused = open_tokenizer(save_json(peers["llama2"], tmp_path / "b", add_bos_token=False))
    assert refused.raw_prompt("ab") == refused.encode("ab")


# ---- tables --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_tables_say_what_decoding_shows(kinds, kind):
    tok = kinds[kind]
    newline_V, blank_V, control_V = tok.tables(tok.vocab + 3)
    around = tok.encode("a")
    for i in range(tok.vocab):
        text = tok.decode([*around, i]).removeprefix("a")
        assert newline_V[i] == ("\n" in text) and blank_V[i] == (not text.strip())
        assert control_V[i] == (text == "")
    assert blank_V[tok.vocab :].all() and control_V[tok.vocab :].all()


def test_tables_of_a_large_vocabulary_take_no_time(tmp_path):
    letters = [chr(c) for c in range(97, 123)]
    names = [a + b + c + d for a in letters for b in letters for c in letters for d in letters]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {name: i for i, name in enumerate([*alphabet, *names[:150_000]])}
    big = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    big.decoder = decoders.ByteLevel()
    big.add_special_tokens(SPECIALS)
    tok = open_tokenizer(save_json(big, tmp_path))
    start = time.perf_counter()
    assert tok.tables(152_000)[2].sum() == 152_000 - 150_256
    assert time.perf_counter() - start < 2


def test_tags_of_thoughts_are_text_even_as_special_tokens(tmp_path):
    codec, facts = byte.build()
    model = tokenizers.Tokenizer.from_str(_saved(codec, tmp_path))
    model.add_special_tokens(["<think>", "</think>", "<tool>"])
    own = tokenizer.Tokenizer(fast.codec(model, "own"), facts)
    names = model.get_vocab(with_added_tokens=True)
    ids = [
        names["<think>"],
        *own.encode("why"),
        names["</think>"],
        names["<tool>"],
        *own.encode("7"),
    ]
    assert own.decode(ids) == "<think>why</think>7"
    assert names["<think>"] not in own.encode("<think>why</think>")  # text makes no special token


def _saved(codec, folder):
    codec.write(folder)
    return (folder / "tokenizer.json").read_text()


def test_unused_ids_are_control(peers, tmp_path):
    size = peers["qwen2"].get_vocab_size()
    path = save_gguf(peers["qwen2"], tmp_path / "t.gguf", "qwen2", types=[5] * 7 + [1] * (size - 7))
    assert open_tokenizer(path).tables()[2].sum() >= 7


# ---- saving --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_the_same_tokenizer(kinds, kind, tmp_path):
    kinds[kind].save(tmp_path / "m")
    again = open_tokenizer(tmp_path / "m")
    assert again.eos == kinds[kind].eos and again.bos == kinds[kind].bos
    said = [{"role": "user", "content": "a <|end|> é"}]
    assert again.chat(said) == kinds[kind].chat(said)
    for text in strings(100):
        assert again.encode(text) == kinds[kind].encode(text)
        assert again.raw_prompt(text) == kinds[kind].raw_prompt(text)
    again.save(tmp_path / "m")
    assert open_tokenizer(tmp_path / "m").eos == again.eos


def test_a_folder_is_copied_unchanged(peers, tmp_path):
    folder = save_json(peers["gpt-2"], tmp_path / "a", anything=[1])
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "model.safetensors").write_text("weights")
    open_tokenizer(folder).save(tmp_path / "b")
    names = ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == names
    for name in names:
        assert (tmp_path / "b" / name).read_bytes() == (folder / name).read_bytes()


def test_a_trained_model_is_saved_with_its_ends(tok, path, tmp_path):
    tok.save(tmp_path / "m")
    assert (tmp_path / "m" / "tokenizer.model").read_bytes() == path.read_bytes()
    assert open_tokenizer(tmp_path / "m").eos == tok.eos


@pytest.mark.peers
@pytest.mark.parametrize("kind", KINDS)
def test_transformers_reads_what_is_saved(kinds, kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    kinds[kind].save(tmp_path)
    peer = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    for text in strings(300):
        assert peer.encode(text, add_special_tokens=False) == kinds[kind].encode(text)
    said = [{"role": "user", "content": "What is 2 + 2?"}]
    theirs = peer.apply_chat_template(said, add_generation_prompt=True, return_dict=False)
    assert theirs == kinds[kind].chat(said)


@pytest.mark.peers
def test_transformers_reads_a_trained_model(tok, tmp_path):
    transformers = pytest.importorskip("transformers")
    tok.save(tmp_path)
    peer = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    assert len(peer) == tok.vocab and peer.eos_token_id == tok.eos[0]
    for text in strings(300):
        assert peer.encode(text, add_special_tokens=False) == tok.encode(text)


# ---- bad files -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t.json", "t.model", "t.gguf"])
@pytest.mark.parametrize("content", [b"", b"{}", b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 40])
def test_a_file_that_is_none_is_refused_by_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TokenizerError) as error:
        open_tokenizer(tmp_path / name)
    assert f"{tmp_path / name} is not a readable" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["t.txt", "nothing", "byte.bin"])
def test_a_path_that_is_no_tokenizer_is_refused(tmp_path, path):
    with pytest.raises(TokenizerError, match="is no tokenizer: give a model folder"):
        open_tokenizer(tmp_path / path)


def test_a_folder_without_tokenizer_is_refused(tmp_path):
    with pytest.raises(TokenizerError, match="put the model's tokenizer.json or tokenizer.model"):
        open_tokenizer(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"eos_token"', "\ufeff{}", "[" * 10**5])
@pytest.mark.parametrize("name", ["tokenizer_config.json", "generation_config.json", "config.json"])
def test_a_damaged_file_beside_it_is_refused_by_name(peers, tmp_path, name, text):
    folder = save_json(peers["gpt-2"], tmp_path)
    (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(TokenizerError, match=f"{name}.*repair or remove it"):
        open_tokenizer(folder)


def test_added_tokens_that_differ_are_refused(peers, tmp_path):
    added = {"5": {"content": "<new>", "special": True}}
    folder = save_json(peers["gpt-2"], tmp_path, added_tokens_decoder=added)
    with pytest.raises(TokenizerError, match="has '<new>' for id 5 and it has '.*'"):
        open_tokenizer(folder)


def test_a_decoder_that_is_not_known_is_refused(peers, tmp_path):
    words = tokenizers.Tokenizer(models.WordLevel({"a": 0}, "a"))
    for decoder, name in ((None, "none"), (decoders.WordPiece(), "WordPiece")):
        words.decoder = decoder
        with pytest.raises(TokenizerError, match=f"decoder of type {name} and must have one of"):
            open_tokenizer(save_json(words, tmp_path))


@pytest.mark.parametrize("kind", ["t5", "bert", "rwkv"])
def test_gguf_of_another_kind_is_refused_by_name(peers, tmp_path, kind):
    path = save_gguf(peers["gpt-2"], tmp_path / "t.gguf", "default", kind=kind)
    with pytest.raises(TokenizerError, match=f"of kind {kind}, not gpt2 or llama: put the model"):
        open_tokenizer(path)


def test_gguf_cut_in_another_way_is_refused_by_name(peers, tmp_path):
    path = save_gguf(peers["gpt-2"], tmp_path / "t.gguf", "deepseek-llm")
    with pytest.raises(TokenizerError, match="in the way 'deepseek-llm', not one of default, "):
        open_tokenizer(path)


def test_gguf_that_does_not_fit_itself_is_refused(peers, tmp_path):
    wrong = {"merges": ["nothing here"], "types": [1] * 9}
    for key, value in wrong.items():
        path = save_gguf(peers["gpt-2"], tmp_path / f"{key}.gguf", "gpt-2", **{key: value})
        with pytest.raises(TokenizerError, match=f"{key}.*put the model's tokenizer.json"):
            open_tokenizer(path)


def test_a_cut_gguf_is_refused(peers, tmp_path):
    whole = save_gguf(peers["gpt-2"], tmp_path / "t.gguf", "gpt-2").read_bytes()
    for size in range(0, len(whole) - 1500, len(whole) // 7):
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        with pytest.raises(TokenizerError, match="cut.gguf is not a readable GGUF file"):
            open_tokenizer(tmp_path / "cut.gguf")


# ---- a real model --------------------------------------------------------------------------


def test_ids_of_smollm2_are_those_of_llama_cpp(smollm2_file):
    tok = open_tokenizer(smollm2_file)
    assert tok.vocab == 49152 and tok.pieces(tok.eos) == ["<|im_end|>"]
    known = [c for c in map(chr, range(128)) if tok.encode(c)]  # it has no piece for some bytes
    golden = Path(__file__).parents[2] / "golden" / "smollm2_ids.json"
    for text, ids in json.loads(golden.read_text(encoding="utf-8")):
        assert tok.encode(text) == ids, ascii(text)
        assert tok.decode(ids) == "".join(c for c in text if c in known or ord(c) > 0x7F)
    said = tok.chat_text([{"role": "user", "content": "<|im_end|>"}])
    assert said.count("<|im_end|>") == 3
    ids = tok.chat([{"role": "user", "content": "<|im_end|>"}])
    assert ids.count(tok.eos[0]) == 2 and ids[-3:] == tok.chat([])[-3:]
