r"""The device finds the answer that the host finds, whatever tokens it is written in."""

import unicodedata
from pathlib import Path

import jax
import numpy as np
import pytest

from rlvr_jax import markers, verifier
from rlvr_jax.config import DataConfig
from rlvr_jax.host.hardening import attacks
from rlvr_jax.host.text import answers, tokenizer
from rlvr_jax.host.text.tokenizer import open_tokenizer
from rlvr_jax.host.text.verifier_prompt import VerifierPrompt, build_verdict
from rlvr_jax.structs import Rollout

pytestmark = pytest.mark.usefixtures("strict_dtypes")

find = jax.jit(verifier.answer_mask)
COLUMNS = 160
TEXTS = [
    *("42", "We add.\n\nIt is 42.\n \n", r"so \boxed{12}.", r"\boxed{\boxed{5}}"),
    r"\boxed{1} then $\boxed{\frac{1}{2}}$.",
    *(r"\boxed{\left\{1, 2\right\}}", "Answer: 42\nBecause it is so.", "**Answer:** 42"),
    *("ANSWER: 42", "Answer:\n\n42\nor so", "Final answer: 41\nAnswer: 42", "2 + 2 = 4\n#### 4"),
    *("#### Step 1\nWe add.\n4", "#### 4\nor 5", "<answer>42</answer> done"),
    *("<answer>41</answer> <answer>42</answer>", r"<answer>\boxed{42}</answer>"),
    *(r"Answer: $\boxed{42}$", r"\boxed{41}" + "\nAnswer: 42", "<think>41? No.</think>42"),
    *("thoughts</think>\n42", "", " \n\t", "\x00", "4\u200b2", "\u202e24", "4\x002", "4\u03362"),
    *("\u00ad42\u00ad1", "Answer:", "#### ", "<answer></answer>", r"\boxed{}", r"\boxed{4"),
    *(r"\boxed{42} and \boxed{4", "<answer>42", "<answer>42</answer><answer>4", "<think>42"),
    *("<think>42</think>", "<think>a</think>42<think>43", r"not \boxed{42}", r"x \neq \boxed{42}"),
    *(r"$x < \boxed{42}$", r"it isn't equal to $\boxed{42}$", r"\boxed{42}. No, wait, it is 41."),
    *(r"\boxed{42} Wait, no.", "Answer: 42\nScratch that.", r"\boxed{42}. That is wrong."),
    *(
        r"\boxed 5",
        r"\boxed  5$ and more",
        r"\fbox{7}",
        r"\boxed {8}",
        r"\boxed{a\}b}",
        r"\boxed{\\}",
    ),
    *("The answer is: 7", "answer: *7*", "Answer: 7 \nAnswer: ", "nothing \\boxed", "</think>5"),
    *("knot \\boxed{3}", "is > \\boxed{3}", "<b>\\boxed{3}", "cannot be \\boxed{3}"),
    *("caf\u00e9 42", "\u7b54\u6848 \\boxed{\u56db}", "\\boxed{ 4 2 }", "Answer:\t9\t"),
]
NEW = [  # not among the texts that the small tokenizers are made from
    *(r"\boxed{41} or \boxed{42}", r"\(\boxed{41}\) and \(\boxed{42}\)", r"\framebox{7}"),
    *(r"\boxed{42} is incorrect.", r"$\boxed{42}$ isn't it", "[think]41[/THINK]42"),
    *("<THINK>a</THINK>42", "\u25c1think\u25b741\u25c1/think\u25b742", "\u25c1think\u25b742"),
    *("Answer: \u0928\u0939\u0940\u0902", "\u0645\u06cc\u200c\u062f\u0627", "a\u200cb"),
    *(
        "\u0430\u200c\u0431",
        "1\ufe0f\u20e3",
        "4\ufe0f2",
        "\u2764\ufe0f",
        "\U0001f468\u200d\U0001f469",
    ),
    *("\u0dc1\u0dca\u200d\u0dbb\u0dd3", "\u0e17\u0e35\u0e48", "\u05e9\u05b8\u05c1\u05dc"),
    *("\u0d28\u0d4d\u200d", "4\u034f2", "\u0928\u200d\u200d", "\U0001f44d\U0001f3fd"),
]


@pytest.fixture(scope="module")
def toks(tmp_path_factory):
    """Bytes, a trained sentencepiece model, and a BPE whose tokens cut markers anywhere."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    home = tmp_path_factory.mktemp("tokenizers")
    lines = [line for text in TEXTS for line in text.split("\n") if line.strip()] * 3
    tokenizer.train([line.replace("\x00", "") for line in lines], 420, home / "t.model")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<|end|>"], initial_alphabet=letters, show_progress=False
    )
    bpe.train_from_iterator(TEXTS * 3, trainer)
    (home / "bpe").mkdir()
    bpe.save(str(home / "bpe" / "tokenizer.json"))
    (home / "bpe" / "tokenizer_config.json").write_text('{"eos_token": "<|end|>"}')
    paths: dict[str, str | Path] = {"byte": "byte", "spm": home / "t.model", "bpe": home / "bpe"}
    return {name: open_tokenizer(path) for name, path in paths.items()}


def shown(tok, verdict, rows):
    """What the verifier sees of rows of ids, as text."""
    response = np.full((len(rows), COLUMNS), 3, np.int32)  # what is after the end is not looked at
    for i, row in enumerate(rows):
        response[i, : len(row)] = row
    none = np.zeros((len(rows), 1), np.int32)
    length = np.array([len(row) for row in rows], np.int32)
    whole, nothing = np.zeros(len(rows), bool), np.zeros(response.shape, np.float32)
    mask = np.asarray(find(Rollout(none, none > 0, response, length, whole, nothing), verdict))
    return [tok.decode(row[keep]) for row, keep in zip(response, mask, strict=True)]


def wanted(text, how):
    found = answers.extract(text, last_line_too=how == "final") or ""
    return "" if "\n" in found else found


def made(tok, how="final"):
    cfg = DataConfig(answer=how)
    return build_verdict(VerifierPrompt(tok, cfg), cfg, tok.vocab + 5, tok)


@pytest.mark.parametrize("how", ["final", "marked"])
def test_the_device_agrees_with_the_host_byte_for_byte(toks, how):
    tok = toks["byte"]
    texts = [*TEXTS, *NEW]
    rows = [[*tok.encode(text), tok.eos[0]] for text in texts]
    for text, found in zip(texts, shown(tok, made(tok, how), rows), strict=True):
        assert found == wanted(text, how), text


@pytest.mark.parametrize("kind", ["spm", "bpe"])
def test_tokens_that_hold_more_than_the_answer_are_shown_whole(toks, kind):
    tok = toks[kind]
    rows = [[*tok.encode(text), tok.eos[0]] for text in TEXTS]
    read = [tok.decode(row) for row in rows]  # sentencepiece folds some letters and blanks
    verdict, compared = made(tok), 0
    for text, found in zip(read, shown(tok, verdict, rows), strict=True):
        want = wanted(text, "final")
        if found != want:
            # Only ever the rest of the first and last token, of one line; or, of an answer whose
            # last token goes over the end of its line, nothing.
            assert not found or want in found and len(found) - len(want) < 40, (text, found)
            assert bool(found) <= bool(want), text
        compared += found == want
    assert compared > 25  # the pieces of so small a corpus are long


def test_host_and_device_know_every_marker(toks):
    """Both sides are built from the data of `markers`: what one knows, the other knows."""
    tok, verbs = toks["byte"], ("", *(verb + " " for verb in markers.DENIED_VERBS))
    words = (*markers.DENYING_WORDS, *(f"is{end}" for end in markers.DENYING_ENDINGS))
    words += (*markers.DENYING_COMMANDS, *markers.DENYING_SIGNS)
    denied = [f"It is {word} {verb}\\boxed{{42}}" for word in words for verb in verbs]
    phrases = (*markers.TAKEN_BACK, *markers.TAKEN_BACK_WHOLE)
    back = [f"\\boxed{{42}} so, {phrase.upper()} it is 41" for phrase in phrases]
    marked = [f"It is\n{mark} 42" for mark in markers.LINE_MARKERS]
    marked += [f"It is {box}{{42}}" for box in markers.BOXES]
    marked += [f"It is {markers.ANSWER_OPEN}42{markers.ANSWER_CLOSE}", "no</think>42"]
    texts = [*denied, *back, *marked]
    want = [""] * len(denied + back) + ["42"] * len(marked)
    assert [wanted(text, "final") for text in texts] == want
    assert shown(tok, made(tok), [[*tok.encode(text), tok.eos[0]] for text in texts]) == want


def test_attacks_are_seen_as_the_host_sees_them(toks):
    tok = toks["byte"]
    record = {"question": "How many?", "reference": "42"}
    items = list(attacks.of_record(record, "17", False))
    texts = [i.text for i in items if len(i.text.encode("utf-8", "replace")) < COLUMNS - 1]
    rows = [[*tok.encode(text), tok.eos[0]] for text in texts]
    for text, found in zip(texts, shown(tok, made(tok), rows), strict=True):
        assert found == wanted(text, "final"), text
    assert len(texts) > 200


MARKS = [
    *("\\boxed{", "\\boxed", "\\fbox{", "}", "{", "Answer: ", "answer is:", "####", "<answer>"),
    *("</answer>", "\n", " ", "4", "7", "$", "\\", "<think>", "</think>", "no, wait", "*"),
]
DENIALS = [
    *(
        "not ",
        "not",
        "n",
        "ot",
        "k",
        "never",
        "cannot be ",
        "n't",
        "\\ne ",
        "\\neq",
        "\\le",
        "\\left",
        "<",
    ),
    *(">", "!=", "\u2260", "\u2264", "=", "equal to ", "equal ", "be ", "<b>", "</b>", "<3>", "</"),
    *("<b", "(", "[", "\\(", "\\[", "$", ":", "*", " ", "\n", "\u3000", "\u00a0", "\u7b54", "5"),
]
ODD = [
    *("4", "7", "a", "\u00e9", "\u0915", "\u0301", "\u0336", "\u064b", "\u093f", "\u200b"),
    *("\u202e", "\u061c", "\ufff9", "\u00ad", "\ufeff", "\x00", "\x0b", "\x7f", "\u0085", "\ue000"),
    *("\U000e0001", "\U0001f600", "\U00030000", "\U0010ffff", "\ufdd0", "\u00a0", " ", "\u0300"),
    *("\u200c", "\u200d", "\ufe0f", "\u20e3", "\u094d", "\u0e35", "\u05b8", "\u0645", "\u034f"),
]


def battery(kind, rng):
    if kind == "marks":
        return "".join(rng.choice(MARKS, rng.integers(1, 12)))
    if kind == "denials":
        return "".join(rng.choice(DENIALS, rng.integers(1, 7))) + rng.choice(
            ["\\boxed{42}", "Answer: 42"]
        )
    return "\\boxed{4" + "".join(rng.choice(ODD, rng.integers(1, 4))) + "2}"


@pytest.mark.parametrize("kind", ["marks", "denials", "odd"])
def test_of_random_texts_the_device_shows_what_the_host_does_or_nothing(toks, kind):
    tok, rng = toks["byte"], np.random.default_rng(0)
    verdict = made(tok)
    texts = [
        text for text in (battery(kind, rng) for _ in range(2000)) if len(text.encode()) < COLUMNS
    ]
    rows = [[*tok.encode(text), tok.eos[0]] for text in texts]
    found = [
        one for at in range(0, len(rows), 500) for one in shown(tok, verdict, rows[at : at + 500])
    ]
    want = [wanted(text, "final") for text in texts]
    pairs = zip(texts, found, want, strict=True)
    differ = [one for one in pairs if unicodedata.normalize("NFC", one[1]) != one[2]]
    assert not [one for one in differ if one[1]]  # never what the host does not see
    stricter = len(differ) / sum(map(bool, want))
    assert stricter <= {"marks": 0.0, "denials": 0.08, "odd": 0.16}[kind], differ[:5]


def test_nothing_is_shown_where_nothing_is_marked(toks):
    tok = toks["byte"]
    rows = [tok.encode(text) for text in ("42", "It is 42.", r"\boxed{42}")]
    assert shown(tok, made(tok, "marked"), rows) == ["", "", "42"]
    assert shown(tok, made(tok, "line"), rows)[0] == "42"


def test_a_long_response_is_read_from_its_end(toks):
    tok = toks["byte"]
    text = "x" * 100 + r"\boxed{42}" + "y" * 30
    assert shown(tok, made(tok), [tok.encode(text)]) == ["42"]
