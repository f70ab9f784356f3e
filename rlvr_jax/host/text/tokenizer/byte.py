"""The tokenizer `byte`, which needs no file: one token per byte and three special tokens."""

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from rlvr_jax.host.text.tokenizer import fast
from rlvr_jax.host.text.tokenizer.codec import Codec, Facts

END, START, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def build() -> tuple[Codec, Facts]:
    """Build the byte tokenizer: ids 0 to 255 are the bytes, the others the special tokens."""
    names = {letter: byte for byte, letter in enumerate(fast.letters())}
    model = tokenizers.Tokenizer(models.BPE(vocab=names, merges=[]))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    model.decoder = decoders.ByteLevel()
    model.add_special_tokens([END, START, STOP])
    tokens = {"eos_token": END, "pad_token": END}
    facts = Facts("byte", tokens, template=_TEMPLATE, template_file="the tokenizer byte")
    return fast.codec(model, "byte"), facts
