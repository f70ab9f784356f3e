"""Verdicts of a template file in the verifier's own chat frame, against transformers."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from rlvr_jax import parameters, sharding, verifier
from rlvr_jax.config import DataConfig, MeshConfig, ModelConfig, RewardConfig
from rlvr_jax.host import weights
from rlvr_jax.host.text import template
from rlvr_jax.host.text.tokenizer import open_tokenizer
from rlvr_jax.host.text.verifier_prompt import VerifierPrompt, build_verdict
from rlvr_jax.structs import Rollout

GOLDEN = Path(__file__).parent / "golden"
# Family -> its chat template in golden/chat_texts.json
FRAMES = {
    "llama": "llama",
    "mistral": "mistral",
    "mixtral": "mistral",
    "gemma2": "gemma",
    "gemma3_text": "gemma",
    **dict.fromkeys(("qwen2", "qwen3", "qwen3_moe", "smollm3", "phi3", "olmo2"), "chatml"),
}
MARKERS = {
    "chatml": ["<|im_start|>", "<|im_end|>"],
    "llama": ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "gemma": ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"],
    "mistral": ["<s>", "</s>", "[INST]", "[/INST]"],
}
# The reference stands behind the answer, as in the prompt of arXiv 2503.23829.
QUESTION = (
    "Say {accept} or {reject}.\nQ: {question}\nFinal step: {answer}\nReference: {reference}\n=>"
)
RECORDS = [
    {"question": "1 + 1?", "reference": "2", "messages": ""},
    {"question": "Which one is <|im_end|>?", "reference": "the longer one </s>", "messages": ""},
]
ANSWERS = ["2", "It is 3.", "the longer one", "\\boxed{7}"]


def save_tokenizer(folder, frame, chat_template=None):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tok = tokenizers.Tokenizer(models.BPE({x: i for i, x in enumerate(alphabet)}, []))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens(MARKERS[frame])
    transformers = pytest.importorskip("transformers")
    names = {"eos_token": MARKERS[frame][1]}
    peer = transformers.PreTrainedTokenizerFast(tokenizer_object=tok, **names)
    if chat_template:
        peer.chat_template = chat_template
    peer.save_pretrained(folder)
    return peer


@pytest.mark.peers
@pytest.mark.parametrize("family", FRAMES)
def test_a_verdict_in_its_own_frame_is_that_of_transformers(family, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    frame = FRAMES[family]
    texts = json.loads((GOLDEN / "chat_texts.json").read_text())
    chat_template, named = texts["templates"][frame]
    peer = save_tokenizer(tmp_path, frame, chat_template)
    for key, value in named.items():
        setattr(peer, key, value)
    peer.save_pretrained(tmp_path)
    save_tokenizer(tmp_path / "policy", frame)
    config = transformers.AutoConfig.from_pretrained(
        GOLDEN / "models" / family, vocab_size=264, attn_implementation="eager"
    )
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in theirs.parameters():
            weight += 0.3 * torch.randn_like(weight)
    theirs.save_pretrained(tmp_path)
    (tmp_path / "question.txt").write_text(QUESTION)

    cfg = ModelConfig(**weights.load_architecture(tmp_path), part_tokens=64)
    layout = MeshConfig()
    mesh = sharding.make_mesh(layout, jax.devices()[:1])
    params = weights.load(
        tmp_path, cfg, sharding.shard_tree(parameters.abstract(cfg), mesh, layout)
    )
    data = DataConfig(
        check_templates=(str(tmp_path / "question.txt"),),
        verdict_words=("Y", "N"),
        check_columns=220,
        tail_columns=90,
        prompt_columns=40,
        chat=True,
    )
    policy = open_tokenizer(tmp_path / "policy")
    asked = VerifierPrompt(open_tokenizer(tmp_path), data)
    plain = DataConfig(prompt_columns=40)
    prompts = asked.asking(template.build_prompts(RECORDS, policy, plain), RECORDS)
    verdict = build_verdict(asked, data, cfg.vocab, policy)
    score = jax.jit(verifier.score, static_argnums=(4, 5))
    got = score(params, prompts, rollout(policy), verdict, RewardConfig(min_mass=0.0), cfg)
    ours = np.log(got.p1_B) - np.log(got.mass_B - got.p1_B)

    for i, answer in enumerate(ANSWERS):
        record = RECORDS[i // 2]
        said = QUESTION.format(accept="Y", reject="N", answer=answer, **record)
        ids = encode(peer, frame, said)
        with torch.no_grad():
            logits = theirs(torch.tensor([ids])).logits[0, -1].double().numpy()
        yes, no = (peer.convert_tokens_to_ids(word) for word in ("Y", "N"))
        mass = np.exp(logits[[yes, no]] - logits.max()).sum() / np.exp(logits - logits.max()).sum()
        np.testing.assert_allclose(ours[i], logits[yes] - logits[no], atol=1e-4)
        np.testing.assert_allclose(got.mass_B[i], mass, rtol=1e-4)


def rollout(tok):
    rows = [[*tok.encode(answer), tok.eos[0]] for answer in ANSWERS]
    ids = np.zeros((len(rows), 20), np.int32)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    none, length = np.zeros((len(rows), 1), np.int32), np.array([len(row) for row in rows])
    cut = np.zeros(len(rows), bool)
    return Rollout(none, none == 0, ids, length, cut, jnp.zeros(ids.shape))


def encode(peer, frame, said):
    """Encode a conversation with transformers; markers in its content stay text, as bytes."""
    hidden = {marker: f"\u2402{i}\u2403" for i, marker in enumerate(MARKERS[frame])}
    content = said
    for marker, key in hidden.items():
        content = content.replace(marker, key)
    text = peer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    ids = []
    for part, marker in split(text, hidden):
        read = peer.encode(part, add_special_tokens=False)
        ids += read if marker is None else byte_ids(peer, marker)
    return ids


def split(text, hidden):
    """Yield (text, None), and ("", marker) where a marker was hidden."""
    marker_of = {key: marker for marker, key in hidden.items()}
    pattern = "|".join(map(re.escape, marker_of))
    for part in re.split(f"({pattern})", text):
        yield ("", marker_of[part]) if part in marker_of else (part, None)


def byte_ids(peer, text):
    return [i for x in text for i in peer.encode(x, add_special_tokens=False)]
