"""What a model's config.json may say, by `model_type`, as data; a field not listed is refused.

A field is read into ModelConfig, or has a value without which the model would be another one, or
is of no account to us.  Configs of the hub (`rope_theta`, `rope_scaling`, `torch_dtype`) and of
transformers 5 (`rope_parameters`, `layer_types`, `dtype`) are read alike; hub style is written.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rlvr_jax.config import ModelConfig

Json = dict[str, Any]


class WeightsError(ValueError):
    """One sentence on what is wrong with a pretrained model and what to do about it."""


WINDOW = {"sliding_window": "window"}
GEMMA = WINDOW | {
    "query_pre_attn_scalar": "query_scale",
    "attn_logit_softcapping": "attention_softcap",
    "final_logit_softcapping": "logit_softcap",
}
SIZES = {
    "vocab_size": "vocab",
    "hidden_size": "width",
    "intermediate_size": "feedforward",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "head_dim": "head_size",
    "rms_norm_eps": "norm_eps",
    "tie_word_embeddings": "tied",
    "max_position_embeddings": "context",
}
# Field of config.json -> our field.
READ: dict[str, dict[str, str]] = {
    "llama": SIZES,
    "mistral": SIZES | WINDOW,
    "qwen2": SIZES,
    "qwen3": SIZES,
    "qwen3_moe": {field: ours for field, ours in SIZES.items() if ours != "feedforward"}
    | {
        "moe_intermediate_size": "feedforward",
        "num_experts": "experts",
        "num_local_experts": "experts",
        "num_experts_per_tok": "experts_used",
        "norm_topk_prob": "experts_sum_to_one",
    },
    "gemma2": SIZES | GEMMA,
    "gemma3_text": SIZES
    | GEMMA
    | {
        "_sliding_window_pattern": "global_every",
        "sliding_window_pattern": "global_every",
        "rope_local_base_freq": "rope_theta_window",
    },
}
# What transformers takes for an absent field; sizes have to be there.
QWEN = dict(kv_heads=32, tied=False)
DEFAULTS: dict[str, Json] = {
    "llama": dict(tied=False),
    "mistral": dict(tied=False, kv_heads=8, window=4096),
    "qwen2": QWEN,
    "qwen3": QWEN | dict(head_size=128),
    "qwen3_moe": QWEN | dict(kv_heads=4, experts=128, experts_used=8, experts_sum_to_one=False),
    "gemma2": dict(tied=True, kv_heads=4, head_size=256, query_scale=256.0, window=4096)
    | dict(global_every=2, attention_softcap=50.0, logit_softcap=30.0),
    "gemma3_text": dict(tied=True, kv_heads=4, head_size=256, query_scale=256.0, window=4096)
    | dict(global_every=6, rope_theta=1e6, rope_theta_window=1e4),
}
NEEDED = ("vocab", "width", "feedforward", "layers", "heads")
# What a null stands for; elsewhere it is as good as an absent field.
NULL: Json = dict(window=0, attention_softcap=0.0, logit_softcap=0.0, kv_heads="heads")
# Fields with the only values that leave the model what it is here.
PLAIN: dict[str, tuple] = {
    "quantization_config": (None,),
    "compression_config": (None,),
    "auto_map": (None,),
    "partial_rotary_factor": (None, 1.0),
    "is_encoder_decoder": (None, False),
    "add_cross_attention": (None, False),
    "rope_interleaved": (None, False),
    "use_mrope": (None, False),
    "attention_bias": (None, False),
    "use_sliding_window": (None, False),
}
SILU: dict[str, tuple] = {"hidden_act": ("silu", "swish")}
BOTH_WAYS: dict[str, tuple] = {"use_bidirectional_attention": (None, False)}
GELU: dict[str, tuple] = {"hidden_activation": (None, "gelu_pytorch_tanh")} | BOTH_WAYS
SPARSE: dict[str, tuple] = {"decoder_sparse_step": (None, 1), "mlp_only_layers": (None, [])}
REQUIRED: dict[str, dict[str, tuple]] = {
    "llama": PLAIN | SILU | {"mlp_bias": (None, False)},
    "mistral": PLAIN | SILU,
    "qwen2": PLAIN | SILU,
    "qwen3": PLAIN | SILU,
    "qwen3_moe": PLAIN | SILU | SPARSE,
    "gemma2": PLAIN | GELU,
    # Its attention takes no soft cap, whatever the config says.
    "gemma3_text": PLAIN | GELU | {"attn_logit_softcapping": (None,)},
}
LOCAL = "sliding_attention"
ROPE = {"rope_theta", "rope_scaling", "rope_parameters", "layer_types"}
# Training, generation and bookkeeping: nothing that changes a logit.
OTHER = set(
    """
    architectures model_type torch_dtype dtype transformers_version _name_or_path
    bos_token_id eos_token_id pad_token_id unk_token_id use_cache cache_implementation
    initializer_range attention_dropout hidden_dropout dropout
    pretraining_tp is_llama_config transformers.js_config _attn_implementation_autoset
    _attn_implementation _from_model_config output_attentions output_hidden_states return_dict
    return_dict_in_generate unsloth_fixed max_length
    chunk_size_feed_forward problem_type id2label label2id torchscript gradient_checkpointing
    """.split()
)
OTHER_BY_TYPE = {
    "qwen2": {"sliding_window", "max_window_layers"},  # of account with use_sliding_window only
    "qwen3": {"sliding_window", "max_window_layers"},
    "qwen3_moe": {"sliding_window", "max_window_layers"}
    | {"intermediate_size", "output_router_logits", "router_aux_loss_coef"},
    "gemma2": {"hidden_act", "sliding_window_size"},
    "gemma3_text": {"hidden_act"},
}
# Kind of rotary scaling -> the fields it has, as ours.
SCALING: dict[str, dict[str, str]] = {
    "default": {},
    "linear": {"factor": "rope_factor"},
    "llama3": {
        "factor": "rope_factor",
        "low_freq_factor": "rope_low",
        "high_freq_factor": "rope_high",
        "original_max_position_embeddings": "rope_original",
    },
}
# Older and newer names of what is written once.
NOT_WRITTEN = {"num_local_experts", "_sliding_window_pattern"}
NULL_OF: Json = dict.fromkeys(("window", "attention_softcap", "logit_softcap"))
WRITTEN = {False: {"hidden_act": "silu"}, True: {"hidden_activation": "gelu_pytorch_tanh"}}
CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
}


def read(config: Json, where: str) -> Json:
    """A config.json as fields of ModelConfig; WeightsError names what it cannot be told by."""
    kind = _kind(config, where)
    _refuse(config, kind, where)
    table = READ[kind]
    found: Json = {"family": kind, "norm_eps": 1e-6} | DEFAULTS[kind]
    for field, ours in table.items():
        if ours in NEEDED and config.get(field) is None:
            raise WeightsError(f"{where}: field {field} is missing")
        if config.get(field) is not None:
            found[ours] = typed(config[field], ours, f"{where}: field {field}")
        elif field in config and ours in NULL:
            found[ours] = found.get(NULL[ours], NULL[ours])
    found.setdefault("kv_heads", found["heads"])
    found.setdefault("head_size", found["width"] // max(1, found["heads"]))
    found |= _rope(config, found, where)
    found |= _layers(config, found, where)
    return found


def _kind(config: Json, where: str) -> str:
    kind = config.get("model_type")
    if kind == "gemma3" or "vision_config" in config:
        raise WeightsError(
            f"{where} describes a model with a vision tower ({kind}); save its language model "
            "alone (Gemma3ForCausalLM) or take one without, such as gemma-3-1b"
        )
    if kind not in READ:
        raise WeightsError(f"{where}: model_type {kind!r} is none of {', '.join(READ)}")
    return kind


def _refuse(config: Json, kind: str, where: str) -> None:
    """Fields that would make another model, and fields that nobody has looked at."""
    required = REQUIRED[kind]
    known = set(READ[kind]) | ROPE | OTHER | OTHER_BY_TYPE.get(kind, set())
    for field, value in config.items():
        if field in required and value not in required[field]:
            allowed = " or ".join(repr(x) for x in required[field] if x is not None) or "absent"
            raise WeightsError(
                f"{where}: {kind} with {field} = {value!r} is not supported, only {allowed}"
            )
        if field not in known and field not in required:
            raise WeightsError(
                f"{where}: field {field} = {value!r} is not known for {kind}; remove it if it "
                "does not change what the model computes"
            )


def _rope(config: Json, found: Json, where: str) -> Json:
    """Rotary fields of either style: of all layers, or of those with and without a window."""
    new, old = (_object(config, x, dict, where) for x in ("rope_parameters", "rope_scaling"))
    if new and old:
        raise WeightsError(f"{where}: remove one of rope_scaling and rope_parameters")
    if new is None:
        return _scaling({"rope_theta": config.get("rope_theta")} | (old or {}), found, where)
    if "full_attention" not in new:
        return _scaling({"rope_theta": config.get("rope_theta")} | new, found, where)
    full, near = (_object(new, x, dict, where) or {} for x in ("full_attention", LOCAL))
    if set(new) - {"full_attention", LOCAL}:
        raise WeightsError(f"{where}: rope_parameters has layers of a kind that is not known")
    wide = _scaling(full, found, where)
    narrow = _scaling({"rope_theta": found.get("rope_theta_window")} | near, found, where)
    if narrow["rope_scaling"] != "none":
        raise WeightsError(f"{where}: rotary scaling of layers with a window is not supported")
    return wide | {"rope_theta_window": narrow["rope_theta"]}


def _scaling(given: Json, found: Json, where: str) -> Json:
    """One set of rotary parameters."""
    given = dict(given)
    kind = given.pop("rope_type", None) or given.pop("type", None) or "default"
    given.pop("type", None)
    theta = given.pop("rope_theta", None) or found.get("rope_theta", 10000.0)
    if kind not in SCALING:
        raise WeightsError(
            f"{where}: rotary scaling {kind!r} is not supported, only {', '.join(SCALING)}"
        )
    if given.pop("partial_rotary_factor", 1.0) != 1.0:
        raise WeightsError(f"{where}: partial_rotary_factor is not supported, only 1.0")
    for field in set(given) ^ set(SCALING[kind]):
        state = "not known" if field in given else "missing"
        raise WeightsError(f"{where}: field {field} of rotary scaling {kind} is {state}")
    fields = {ours: given[field] for field, ours in SCALING[kind].items()}
    scaling = "none" if kind == "default" else kind
    told = fields | {"rope_theta": theta, "rope_scaling": scaling}
    return {ours: typed(value, ours, f"{where}: {ours}") for ours, value in told.items()}


def _layers(config: Json, found: Json, where: str) -> Json:
    """Which layers have a window: every one, or all but every n-th."""
    kinds = _object(config, "layer_types", list, where)
    if kinds is None:
        return {} if found.get("window") else {"window": 0, "global_every": 0}
    local = [kind == LOCAL for kind in kinds]
    every = local.index(False) + 1 if False in local else 0
    wanted = [bool(not every or i % every) for i in range(1, found["layers"] + 1)]
    if not all(kind in (LOCAL, "full_attention") for kind in kinds) or local != wanted:
        raise WeightsError(
            f"{where}: layer_types is not supported: each of the {found['layers']} layers must be "
            "sliding_attention, but for every n-th that is full_attention"
        )
    if any(local) and not found.get("window"):
        raise WeightsError(f"{where}: layer_types has sliding_attention without a window")
    return {"global_every": every} if any(local) else {"window": 0, "global_every": 0}


def typed(value: Any, ours: str, what: str) -> Any:
    """`value` in the type of our field; JSON writes 100000 for 100000.0."""
    kind: Any = type(ModelConfig.__dataclass_fields__[ours].default)
    fits = {bool: bool, int: int, str: str}.get(kind, (int, float))
    if not isinstance(value, fits) or (kind is not bool and isinstance(value, bool)):
        raise WeightsError(f"{what} is {value!r} and not of type {kind.__name__}")
    return kind(value)


def _object(config: Json, field: str, kind: type, where: str) -> Any:
    """A field that holds an object or a list, or nothing."""
    if not isinstance(config.get(field), kind | None):
        raise WeightsError(f"{where}: field {field} is not a {kind.__name__}: correct it")
    return config.get(field)


def write(cfg: ModelConfig, dtype: str, extra: Mapping[str, Any]) -> Json:
    """A config.json, in the style of the hub, that `read` and transformers read back.

    `extra` adds what ModelConfig does not know, such as token ids.
    """
    said = dataclasses.asdict(explicit(cfg))
    config: Json = {"architectures": [CLASSES[cfg.family]], "model_type": cfg.family}
    for field, ours in READ[cfg.family].items():
        if field not in NOT_WRITTEN and (ours != "context" or cfg.context):
            config[field] = said[ours] or NULL_OF.get(ours, said[ours])
    config |= WRITTEN[bool(cfg.has.gelu)]
    config |= {"rope_theta": cfg.rope_theta, "rope_scaling": None}
    if cfg.rope_scaling != "none":
        fields = SCALING[cfg.rope_scaling]
        config["rope_scaling"] = {"rope_type": cfg.rope_scaling} | {
            field: said[ours] for field, ours in fields.items()
        }
    if config.get("query_pre_attn_scalar", 0.5) % 1 == 0:  # transformers wants an integer
        config["query_pre_attn_scalar"] = int(config["query_pre_attn_scalar"])
    if config.get("sliding_window_pattern") == 0:
        config["sliding_window_pattern"] = cfg.layers + 1
    check_said(cfg, config)
    return config | {"torch_dtype": dtype} | dict(extra)


def explicit(cfg: ModelConfig) -> ModelConfig:
    """The same model with what 0 stands for spelled out, and what has no effect left out."""
    defaults: Json = {x.name: x.default for x in dataclasses.fields(ModelConfig)}
    idle = {"weights", "compute", "unroll", "remat", "part_tokens", "slots", "kernels"}
    idle |= set(SCALING["llama3"].values()) - set(SCALING.get(cfg.rope_scaling, {}).values())
    near = cfg.rope_theta_window
    if not near and cfg.rope_scaling == "none":
        near = cfg.rope_theta
    return dataclasses.replace(
        cfg,
        query_scale=cfg.query_scale or float(cfg.head_size),
        rope_theta_window=near if cfg.window else 0.0,
        global_every=cfg.global_every if cfg.global_every <= cfg.layers else 0,
        **{name: defaults[name] for name in idle},
    )


def check_said(cfg: ModelConfig, config: Json) -> None:
    """Refuse a config.json that a reader would take for another model than `cfg`."""
    back, said = explicit(ModelConfig(**read(config, "config.json"))), explicit(cfg)
    for field in dataclasses.fields(ModelConfig):
        if getattr(back, field.name) != getattr(said, field.name):
            raise WeightsError(
                f"a config.json of {cfg.family} cannot say {field.name} = "
                f"{getattr(said, field.name)!r}; change model.family or model.{field.name}"
            )
