"""Conversations: each turn is learned behind the ids with which a policy would be asked for it."""

import json

import pytest

from rlvr_jax.config import DataConfig
from rlvr_jax.host.problems.sources import files
from rlvr_jax.host.text import conversation
from rlvr_jax.host.text.tokenizer import TokenizerError, open_tokenizer

CHAT = DataConfig(chat=True)
TURN = "{{ '<|im_start|>' + m.role + '\n' + (CONTENT) + '<|im_end|>\n' }}"
START = "{% if add_generation_prompt %}<|im_start|>assistant\nTHEN{% endif %}"


def said(*texts, system=""):
    roles = ["user", "assistant"] * len(texts)
    talk = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return [{"role": "system", "content": system}, *talk] if system else talk


def record(messages, **row):
    (only,) = files.parse_records({"messages": messages} | row, "file:x")
    return only


def encode(messages, tok, cfg=CHAT, **row):
    return conversation.encode_conversation(record(messages, **row), tok, cfg)


@pytest.fixture
def tok():
    return open_tokenizer("byte")


@pytest.fixture
def made(tmp_path, tok):
    """A byte tokenizer with another chat template."""

    def make(content, start=""):
        turn = TURN.replace("CONTENT", content)
        source = "{% for m in messages %}" + turn + "{% endfor %}" + START.replace("THEN", start)
        tok.save(tmp_path)
        path = tmp_path / "tokenizer_config.json"
        told = json.loads(path.read_text()) | {"chat_template": source}
        path.write_text(json.dumps(told))
        return open_tokenizer(tmp_path)

    return make


def learned_turns(lesson):
    """Return the ids before each learned turn, and those of the turn, as one prompt for each."""
    ids = [*lesson.prompt, *lesson.response]
    flags = [False] * len(lesson.prompt) + lesson.learned
    assert len(ids) == len(flags)
    starts = [i for i, flag in enumerate(flags) if flag and not flags[i - 1]]
    ends = [next((j for j in range(i, len(ids)) if not flags[j]), len(ids)) for i in starts]
    return [(ids[:i], ids[i:j]) for i, j in zip(starts, ends, strict=True)]


TALKS = {
    "one turn": said("hi", "ho"),
    "three turns": said("hi", "ho", "a\n\nb?", "It is\n\nso.", "why?", "Because."),
    "with a system": said("hi", "ho", "and?", "no", system="Be short."),
    "look-alikes": said("a <|im_end|> b", "<|im_start|>user\n<|im_end|>", "more", "<|endoftext|>"),
    "two in a row": [*said("hi", "ho"), {"role": "assistant", "content": "and"}, *said("?", "ha")],
    "blanks": said("hi", " ho \n", "x", "  y"),
}


@pytest.mark.parametrize("name", TALKS)
@pytest.mark.parametrize("system", ["", "Think first."])
def test_each_turn_is_learned_behind_the_prompt_of_that_turn(tok, name, system):
    messages = TALKS[name]
    lesson = encode(messages, tok, DataConfig(chat=True, system=system))
    if system and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    spoken = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    wanted = [
        (tok.chat(messages[:i]), [*tok.encode(messages[i]["content"]), tok.eos[0]]) for i in spoken
    ]
    assert learned_turns(lesson) == wanted
    assert lesson.learned[0] and lesson.learned[-1]


def test_only_the_completion_is_learned(tok):
    prompt = said("hi", "ho", "and?")
    completion = [
        {"role": "assistant", "content": "no"},
        {"role": "user", "content": "why?"},
        {"role": "assistant", "content": "so"},
    ]
    (only,) = files.parse_records({"prompt": prompt, "completion": completion}, "file:x")
    turns = learned_turns(conversation.encode_conversation(only, tok, CHAT))
    assert [tok.decode(ids[:-1]) for _, ids in turns] == ["no", "so"]
    assert turns[0][0] == tok.chat(prompt)


def test_without_a_chat_template_one_question_and_one_answer(tok):
    plain = DataConfig()
    (only,) = files.parse_records({"prompt": "2 + 2", "completion": "= 4"}, "file:x")
    lesson = conversation.encode_conversation(only, tok, plain)
    assert tok.decode(lesson.prompt) == "2 + 2\n"
    assert lesson.response == [*tok.encode("= 4"), tok.eos[0]] and all(lesson.learned)
    for talk in (said("a", "b", "c", "d"), said("a", "b", system="s")):
        with pytest.raises(ValueError, match="needs a chat template: set data.chat: true"):
            encode(talk, tok, plain)


def test_a_template_that_trims_is_learned_trimmed(made):
    tok = made("m.content | trim")
    turns = learned_turns(encode(said("hi", " ho ", "x", "y"), tok))
    assert tok.decode(turns[0][1][:-1]) == "ho"


THINK = "m.content.split('</think>')[-1]"


@pytest.mark.parametrize(
    "content, start, message",
    [
        (THINK, "", "does not write the assistant's messages as they are"),
        ("m.content", "<think>", "writes another text before an earlier turn than before a resp"),
        ("m.content + '.'", "", "writes no token that ends a turn after an assistant's message"),
    ],
)
def test_templates_with_which_it_is_impossible(made, content, start, message):
    tok = made(content, start=start)
    with pytest.raises(TokenizerError, match=message) as caught:
        encode(said("hi", "<think>x</think>ho", "x", "y"), tok)
    assert "\n" not in str(caught.value)
    lesson = encode(said("hi", "<think>x</think>ho"), tok)  # one turn is always possible
    assert lesson.prompt == tok.chat(said("hi"))


def test_a_template_that_writes_a_message_twice_is_refused(made):
    with pytest.raises(TokenizerError, match="does not write each message once"):
        encode(said("hi", "ho", "x", "y"), made("m.content + m.content"))
