"""The tokenizer: text comes back, and never becomes a control token."""

import random

import numpy as np
import pytest

from rlvr_jax.host import tokenizer
from rlvr_jax.host.tokenizer import Tokenizer, TokenizerError

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
    return Tokenizer(path)


# ---- training ------------------------------------------------------------------------------


@pytest.mark.parametrize("vocab", [300, 311, VOCAB])
def test_training_gives_exactly_the_vocabulary_asked_for(tmp_path, vocab):
    tokenizer.train(TEXTS, vocab, tmp_path / "t.model")
    assert Tokenizer(tmp_path / "t.model").vocab == vocab
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
        Tokenizer(broken)
    assert str(error.value) == f"{broken} is not a readable sentencepiece model"


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
        assert tok.eos not in ids and unknown not in ids


@pytest.mark.parametrize("text", ["</s>", "a</s>b", "</s></s>", "<unk>", " </s>", "\n</s>\n", "⁇"])
def test_text_is_never_a_control_token(tok, text):
    ids = tok.encode(text)
    assert tok.eos not in ids and 0 not in ids
    assert tok.decode(ids) == text


def test_training_on_control_words_does_not_teach_them(tmp_path):
    tokenizer.train(["</s> <unk> 1 0"] * 500 + TEXTS, VOCAB, tmp_path / "t.model")
    tok = Tokenizer(tmp_path / "t.model")
    ids = tok.encode("</s> <unk>")
    assert tok.eos not in ids and 0 not in ids


def test_half_a_character_is_no_crash(tok):
    """JSON can carry a lone surrogate."""
    assert tok.decode(tok.encode("a \ud800 b")) == "a ? b"


def test_the_sign_for_a_space_comes_back_as_a_space(tok):
    """A limit of sentencepiece, which writes spaces with it."""
    assert tok.decode(tok.encode("a\u2581b")) == "a b"


def test_decoding_ends_at_the_end(tok):
    ids = tok.encode("the answer")
    assert tok.decode([*ids, tok.eos, *tok.encode("more"), tok.eos]) == "the answer"
    assert tok.decode([tok.eos]) == tok.decode([]) == ""


def test_a_new_line_is_one_token_of_its_own(tok):
    (newline,) = tok.encode("\n")
    assert tok.encode("a\nb").count(newline) == 1
    for i in range(tok.vocab):
        assert i == newline or "\n" not in tok.pieces([i])[0]


def test_pieces_show_what_people_expect(tok):
    assert "".join(tok.pieces(tok.encode("What is 3?"))) == "What is 3?"
    assert tok.pieces([tok.eos]) == [tokenizer.EOS]


# ---- verdicts and tables -------------------------------------------------------------------


def test_verdicts_are_single_and_distinct(tok):
    accept, reject = tok.verdict_ids
    assert accept != reject
    assert [tok.decode([accept]), tok.decode([reject])] == ["1", "0"]
    assert tok.encode("1") == [accept] and tok.encode("0") == [reject]


def test_verdicts_that_the_text_does_not_know_are_refused(tmp_path):
    """Without a digit in the text `1` is a byte, which is one token too; a word is not."""
    tokenizer.train(TEXTS, VOCAB, tmp_path / "t.model")
    tok = Tokenizer(tmp_path / "t.model")
    with pytest.raises(TokenizerError, match="the verdict 'perhaps' is . tokens .* must be one"):
        tok._single("perhaps")


def test_verdict_ids_are_single_without_any_digit_in_the_text(tmp_path):
    letters = ["the quick brown fox jumps over the lazy dog again and again and again"]
    tokenizer.train(letters, 300, tmp_path / "t.model")
    accept, reject = Tokenizer(tmp_path / "t.model").verdict_ids
    assert accept != reject


def test_the_newline_table(tok):
    newline_V, _ = tok.tables()
    assert newline_V.dtype == bool and newline_V.shape == (tok.vocab,)
    found = {tok.pieces([i])[0] for i in np.flatnonzero(newline_V)}
    assert found == {"\n", "<0x0A>"}


def test_the_blank_table(tok):
    _, blank_V = tok.tables()
    assert blank_V.dtype == bool and blank_V.shape == (tok.vocab,)
    assert blank_V[tok.eos] and blank_V[0]
    for text in (" ", "\n", "\t", "\r"):
        assert all(blank_V[i] for i in tok.encode(text)), repr(text)
    for text in ("1", "0", "the", ".", "<", "=", "é"):
        assert not blank_V[tok.encode(text)[0]], text
    for i in np.flatnonzero(~blank_V):
        assert tok.pieces([i])[0].strip()


def test_a_part_of_a_character_is_not_blank(tok):
    """Else the last byte of an answer that ends in one of these letters is cut off."""
    _, blank_V = tok.tables()
    for text in ("à", "Å", "х"):
        assert not any(blank_V[i] for i in tok.encode(text)), text
