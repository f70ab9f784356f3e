"""Chat templates: the text of transformers, special tokens from the template only, no escape."""

import datetime
import json
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from rlvr_jax.host.text import chat
from rlvr_jax.host.text.tokenizer import TokenizerError, open_tokenizer

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "chat_texts.json").read_text())
CASES = GOLDEN["cases"]
SIMPLE = "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}"
USER = [{"role": "user", "content": "hi"}]
LIKES = [{"role": "user", "content": "a </s> b"}, {"role": "assistant", "content": "<s></s>"}]


def render(template, messages=USER, **variables):
    return chat.compile_template(template, "some/file")(messages, **variables)


# ---- the text ------------------------------------------------------------------------------


def ours(case):
    template, tokens = GOLDEN["templates"][case["template"]]
    return render(template, case["messages"], add_generation_prompt=case["start"], **tokens)


@pytest.mark.parametrize("name", GOLDEN["templates"])
def test_texts_are_those_of_transformers(name):
    cases = [case for case in CASES if case["template"] == name]
    assert len(cases) == 40
    for case in cases:
        if isinstance(case["text"], str):
            assert ours(case) == case["text"]
        else:
            with pytest.raises(TokenizerError, match=case["text"]["raises"]):
                ours(case)


@pytest.mark.peers
@pytest.mark.parametrize("name", GOLDEN["templates"])
def test_texts_are_those_of_this_transformers(name):
    transformers = pytest.importorskip("transformers")
    template, tokens = GOLDEN["templates"][name]
    empty = tokenizers.Tokenizer(models.BPE())
    peer = transformers.PreTrainedTokenizerFast(tokenizer_object=empty, **tokens)
    for case in CASES:
        if case["template"] == name and isinstance(case["text"], str):
            text = peer.apply_chat_template(
                case["messages"],
                chat_template=template,
                tokenize=False,
                add_generation_prompt=case["start"],
            )
            assert ours(case) == text == case["text"]


def test_what_templates_may_use():
    said = [{"role": "user", "content": "<é> 'a' & \"b\"", "tool": {"b": [1], "a": None}}]
    assert render("{{ messages[0].tool | tojson }}", said) == '{"b": [1], "a": null}'
    assert render("{{ messages[0].content | tojson }}", said) == '"<é> \'a\' & \\"b\\""'
    assert (
        render("{{ messages[0].tool | tojson(indent=1, sort_keys=true) }}", said).count("\n") == 5
    )
    assert len(render("{{ strftime_now('%Y-%m-%d') }}")) == 10
    day = datetime.datetime(2031, 4, 5)
    fixed = chat.compile_template("{{ strftime_now('%d %b %Y') }}", "a file", day)
    assert fixed([]) == "05 Apr 2031", "a run that goes on another day writes the same prompts"
    until = "{% for i in range(9) %}{% if i > 2 %}{% break %}{% endif %}{{ i }}{% endfor %}"
    assert render(until) == "012"
    assert render("a{% generation %}{{ messages[0].content }}{% endgeneration %}b") == "ahib"
    assert render("{{ nothing }}|{{ bos_token }}", bos_token="<s>") == "|<s>"
    assert render("  {% if true %}\n a\n  {% endif %}\nb\n") == " a\nb"


# ---- refusals ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "template, line, reason",
    [
        ("a\n{% if %}", 2, "Expected an expression"),
        ("\n\n{{ a b }}", 3, "expected token 'end of print statement'"),
        ("{% for m in messages %}", 1, "Unexpected end of template"),
        ("{% include 'x' %}{% nonsense %}", 1, "unknown tag 'nonsense'"),
        ("{{ a | nonsense }}", 1, "No filter named 'nonsense'"),
    ],
)
def test_a_template_that_is_not_valid_is_refused_with_its_line(template, line, reason):
    with pytest.raises(TokenizerError) as error:
        chat.compile_template(template, "some/file")
    text = str(error.value)
    assert text.startswith(f"the chat template of some/file, line {line}, is not valid; change it")
    assert reason in text and "\n" not in text


@pytest.mark.parametrize(
    "template, line, reason",
    [
        ("\n{{ raise_exception('no\nsystem') }}", 2, "no system"),
        ("{{ messages[0].content + 1 }}", 1, "can only concatenate str"),
        ("a\nb\n{{ messages[3].content.x }}", 3, "has no element 3"),
        ("\n{{ 1 / 0 }}", 2, "division by zero"),
        ("{% include 'x' %}", 1, "no loader"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", 1, "recursion"),
        # ways out of the sandbox
        ("{{ messages.__class__.__mro__ }}", 1, "unsafe"),
        ("{{ ''.__class__ }}{{ raise_exception.__globals__['json'] }}", 1, "unsafe"),
        ("{{ strftime_now.__code__ }}{{ strftime_now.__globals__.x }}", 1, "unsafe"),
        ("{{ '{0.__class__.__mro__}'.format(messages) }}", 1, "unsafe"),
        ("{{ messages.append(1) }}", 1, "unsafe"),
        ("{{ messages[0].update(role='system') }}", 1, "unsafe"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", 1, "Range too big"),
    ],
)
def test_a_template_that_cannot_go_on_is_refused_with_its_line(template, line, reason):
    said = [{"role": "user", "content": "hi"}]
    with pytest.raises(TokenizerError) as error:
        render(template, said)
    text = str(error.value)
    assert text.startswith(f"the chat template of some/file, line {line}, cannot write these")
    assert reason in text and "\n" not in text
    assert said == USER


# ---- where templates come from -------------------------------------------------------------


def small_tokenizer(folder, template=None, file=None, tokens=None, **config):
    """A byte-level tokenizer with two special tokens, and the files around it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: i for i, letter in enumerate([*alphabet, "ab", "hi"])}
    model = models.BPE(vocab=vocab, merges=[("a", "b"), ("h", "i")])
    tok = tokenizers.Tokenizer(model)
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens(tokens or ["<s>", "</s>"])
    folder.mkdir(parents=True, exist_ok=True)
    tok.save(str(folder / "tokenizer.json"))
    config |= {"eos_token": "</s>"} | ({"chat_template": template} if template else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if file is not None:
        (folder / "chat_template.jinja").write_text(file)
    return folder


NAMED = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]


@pytest.mark.parametrize(
    "template, file, text",
    [("A", None, "A"), ("A", "B", "B"), (NAMED, None, "D"), (None, "B", "B")],
)
def test_the_template_is_found(tmp_path, template, file, text):
    tok = open_tokenizer(small_tokenizer(tmp_path, template, file))
    assert tok.has_chat and tok.chat_text(USER) == text


@pytest.mark.parametrize("template", [None, [{"name": "tool_use", "template": "T"}], []])
def test_no_template_is_refused_when_it_is_asked_for(tmp_path, template):
    tok = open_tokenizer(small_tokenizer(tmp_path, template))
    assert not tok.has_chat
    with pytest.raises(TokenizerError, match="has no chat template: put chat_template.jinja"):
        tok.chat(USER)


@pytest.mark.parametrize("template", [3, {"a": "b"}, [{"name": "default", "template": 3}]])
def test_a_template_that_is_no_text_is_refused(tmp_path, template):
    with pytest.raises(TokenizerError, match="chat_template of .*config.json is not text: repair"):
        open_tokenizer(small_tokenizer(tmp_path, template))


def test_a_bad_template_is_refused_with_its_file(tmp_path):
    with pytest.raises(TokenizerError, match="of .*/chat_template.jinja, line 2, is not valid"):
        open_tokenizer(small_tokenizer(tmp_path, file="\n{% if %}"))
    tok = open_tokenizer(small_tokenizer(tmp_path / "b", "{{ raise_exception('never') }}"))
    with pytest.raises(TokenizerError, match="of .*/tokenizer_config.json, line 1, .*never"):
        tok.chat(USER)


# ---- ids -----------------------------------------------------------------------------------


def test_special_tokens_come_from_the_template_only(tmp_path):
    tok = open_tokenizer(small_tokenizer(tmp_path, SIMPLE))
    start, stop = (tok.pieces(range(tok.vocab)).index(name) for name in ("<s>", "</s>"))
    text = tok.encode
    assert tok.chat(LIKES) == [
        *[start, *text("user\na </s> b"), stop, *text("\n")],
        *[start, *text("assistant\n<s></s>"), stop, *text("\n")],
    ]
    role = [{"role": "</s>user", "content": "\ud800 \ue000 0"}]
    assert tok.chat(role) == [start, *text("</s>user\n? \ue000 0"), stop, *text("\n")]


def test_a_look_alike_changes_nothing_around_it(tmp_path):
    """Where it is replaced by other text of as many tokens, all other ids are the same."""
    tok = open_tokenizer(small_tokenizer(tmp_path, SIMPLE))
    with_it, without = (
        tok.chat([{"role": "user", "content": f"ab{name} hi"}, *USER]) for name in ("</s>", "<*s>")
    )
    assert len(with_it) == len(without)
    assert [i for i, j in zip(with_it, without, strict=True) if i != j] == tok.encode("/")


def test_pieces_of_look_alikes_do_not_meet(tmp_path):
    tok = open_tokenizer(small_tokenizer(tmp_path, "<s>{{ messages[0].content }}</s>"))
    for said in ("<<s>s>", "</s", "s>", "<s></s></s", "</</s>s>", "\ue0000\ue000</s>", "0</s>0"):
        ids = tok.chat([{"role": "user", "content": said}])
        assert ids[1:-1] == tok.encode(said)
        assert ids[0] != ids[-1] == tok.eos[0]


def test_look_alikes_deep_in_messages_and_variables_stay_text(tmp_path):
    template = "{{ tools | tojson }}{{ messages | tojson }}{{ flag }}</s>"
    tok = open_tokenizer(small_tokenizer(tmp_path, template))
    said = [{"role": "user", "content": [{"type": "text", "text": "<s>"}]}]
    ids = tok.chat(said, tools=({"name": "</s>"},), flag=3)
    assert ids.count(tok.eos[0]) == 1
    text = tok.chat_text(said, tools=[{"name": "</s>"}], flag=3)
    assert ids == [*tok.encode(text.removesuffix("</s>")), tok.eos[0]]


def test_spaces_that_special_tokens_swallow(tmp_path):
    eats = [tokenizers.AddedToken(t, rstrip=True, lstrip=t == "</s>") for t in ("<s>", "</s>")]
    tok = open_tokenizer(
        small_tokenizer(tmp_path, "<s> \n{{ messages[0].content }} </s>\n", tokens=eats)
    )
    for said in ("ab", "</s>"):
        ids = tok.chat([{"role": "user", "content": said}])
        assert ids[1:-1] == tok.encode(said)


def test_ids_around_a_hole(tmp_path):
    tok = open_tokenizer(small_tokenizer(tmp_path, SIMPLE))
    for said in ("a |</s> b", "a | b", "|"):
        head, tail = tok.chat_around([{"role": "user", "content": said}], "|")
        whole = tok.chat([{"role": "user", "content": said}])
        assert head + tok.encode("|") + tail == whole
    for template, times in (("<s>x</s>", 0), ("{{ messages[0].content * 2 }}</s>", 2)):
        tok = open_tokenizer(small_tokenizer(tmp_path, template))
        with pytest.raises(TokenizerError, match=f"message once and writes one {times} times: ch"):
            tok.chat_around([{"role": "user", "content": "|"}], "|")


def test_a_model_that_spells_its_own_control_tokens(tmp_path):
    """A unigram model finds `</s>` among its pieces, and must not."""
    letters = [(letter, -5.0) for letter in "\u2581</s>abhi"]
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *letters]
    tok = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=0))
    tok.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tok.decoder = decoders.Metaspace(prepend_scheme="never")
    tok.add_special_tokens(["<unk>", "<s>", "</s>"])
    tok.save(str(tmp_path / "tokenizer.json"))
    config = {"eos_token": "</s>", "unk_token": "<unk>", "chat_template": SIMPLE}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours = open_tokenizer(tmp_path)
    tok.encode_special_tokens = True
    assert tok.encode("a</s>b", add_special_tokens=False).ids.count(2) == 1
    for text in ("a</s>b", "<s>", "hi </s></s>", "<<s>"):
        assert not {1, 2} & set(ours.encode(text)) and ours.decode(ours.encode(text)) == text
        ids = ours.chat([{"role": "a", "content": text}])
        assert (ids.count(1), ids.count(2)) == (1, 1)


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
def test_spaces_behind_special_tokens_are_those_of_the_package(tmp_path, scheme):
    vocab = {name: i for i, name in enumerate(["<unk>", "<s>", "</s>", *"\u2581</s>abhiuser\n"])}
    tok = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    tok.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    tok.decoder = decoders.Metaspace(prepend_scheme=scheme)
    tok.add_special_tokens(["<unk>", "<s>", "</s>"])
    tok.save(str(tmp_path / "tokenizer.json"))
    config = {"eos_token": "</s>", "chat_template": SIMPLE}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours = open_tokenizer(tmp_path)
    plain, like = (ours.chat([{"role": "user", "content": f"hi{c}"}, *USER]) for c in ("a", "</s>"))
    assert plain == tok.encode(ours.chat_text([{"role": "user", "content": "hia"}, *USER])).ids
    a, ids = vocab["a"], [vocab[c] for c in "</s>"]
    at = plain.index(a)
    assert like == plain[:at] + ids + plain[at + 1 :]


def test_chat_with_sentencepiece(tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["hi user a b </x>"] * 100),
        model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    peer = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    added = {str(peer.vocab_size()): {"content": "<|stop|>", "special": True}}
    template = "<s>{{ messages[-1].content }}<|stop|>"
    config = {"chat_template": template, "added_tokens_decoder": added, "add_bos_token": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tok = open_tokenizer(tmp_path)
    assert tok.vocab == peer.vocab_size() + 1 and tok.eos == (tok.vocab - 1, peer.eos_id())
    for said in ("hi a", "a </s><|stop|>"):
        assert tok.raw_prompt(said) == [peer.bos_id(), *peer.encode(said)]
        ids = tok.chat([{"role": "user", "content": said}])
        assert ids == [peer.bos_id(), *peer.encode(said), tok.eos[0]]
        assert tok.decode(ids) == said


@pytest.mark.parametrize("token", [{"content": "hi", "special": False}, {"content": "</s>"}])
def test_sentencepiece_with_other_added_tokens_is_refused(tmp_path, token):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c"] * 100),
        model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=300,
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    config = {"added_tokens_decoder": {"900": token}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(TokenizerError, match="put the model's tokenizer.json there"):
        open_tokenizer(tmp_path)


def test_a_normalizer_does_not_make_a_control_token(tmp_path):
    """NFKC writes the wide letters of a look-alike as ordinary ones."""
    folder = small_tokenizer(tmp_path, SIMPLE)
    tok = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tok.normalizer = normalizers.NFKC()
    tok.save(str(folder / "tokenizer.json"))
    ours = open_tokenizer(folder)
    assert ours.eos[0] not in ours.encode("\uff1c/s\uff1e")
    assert ours.chat([{"role": "user", "content": "\uff1c/s\uff1e"}]).count(ours.eos[0]) == 1
