"""The fields of a config.json by model family (`model_type`), as tables, and conversion by them.

A field of config.json is one of three kinds: it sets a field of ModelConfig (READ), it must have
one of a few values because other values mean another model (REQUIRED), or it has no effect on the
model (OTHER_BY_TYPE, and OTHER of idle_fields.py).  A field in no table is refused.  Both styles
are read: that of the hub (`rope_theta`, `rope_scaling`, `torch_dtype`) and that of transformers 5
(`rope_parameters`, `layer_types`, `dtype`).  The hub's style is written.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rlvr_jax.config import Execution, ModelConfig, Pretrained, Training
from rlvr_jax.host.weights import multimodal, rotary
from rlvr_jax.host.weights.idle_fields import OTHER, OTHER_PREFIX
from rlvr_jax.host.weights.rotary import LOCAL
from rlvr_jax.host.weights.values import Json, WeightsError, optional, typed

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
USED = {"num_experts_per_tok": "experts_used"}
# Field of config.json -> field of ModelConfig.
READ: dict[str, dict[str, str]] = {
    "llama": SIZES,
    "mistral": SIZES | WINDOW,
    "qwen2": SIZES,
    "qwen3": SIZES,
    "qwen3_moe": {field: ours for field, ours in SIZES.items() if ours != "feedforward"}
    | USED
    | {
        "moe_intermediate_size": "feedforward",
        "num_experts": "experts",
        "num_local_experts": "experts",
        "norm_topk_prob": "experts_sum_to_one",
    },
    "mixtral": SIZES | WINDOW | {"num_local_experts": "experts"} | USED,
    "gemma2": SIZES | GEMMA,
    "gemma3_text": SIZES
    | GEMMA
    | {
        "_sliding_window_pattern": "global_every",
        "sliding_window_pattern": "global_every",
        "rope_local_base_freq": "rope_theta_window",
    },
    "smollm3": SIZES | {"no_rope_layer_interval": "unrotated_every"},
    "phi3": SIZES | WINDOW,
    "olmo2": SIZES,
}
# The values that transformers uses for absent fields.
QWEN = dict(kv_heads=32, tied=False)
DEFAULTS: dict[str, Json] = {
    "llama": dict(tied=False),
    "mistral": dict(tied=False, kv_heads=8, window=4096),
    "qwen2": QWEN,
    "qwen3": QWEN | dict(head_size=128),
    "qwen3_moe": QWEN | dict(kv_heads=4, experts=128, experts_used=8, experts_sum_to_one=False),
    "mixtral": dict(tied=False, kv_heads=8, experts=8, experts_used=2, norm_eps=1e-5)
    | dict(rope_theta=1e6),
    "gemma2": dict(tied=True, kv_heads=4, head_size=256, query_scale=256.0, window=4096)
    | dict(global_every=2, attention_softcap=50.0, logit_softcap=30.0),
    "gemma3_text": dict(tied=True, kv_heads=4, head_size=256, query_scale=256.0, window=4096)
    | dict(global_every=6, rope_theta=1e6, rope_theta_window=1e4)
    | dict(heads=8, vocab=262208, context=131072),
    "smollm3": dict(tied=True, kv_heads=4, rope_theta=2e6, unrotated_every=4),
    "phi3": dict(tied=False, norm_eps=1e-5),
    "olmo2": dict(tied=False, norm_eps=1e-5),
}
# Fields without a default, but in a family's own.
NEEDED = ("vocab", "width", "feedforward", "layers", "heads")
# The meaning of null in these fields; in other fields null means that the field is absent.
NULL: Json = dict(window=0, attention_softcap=0.0, logit_softcap=0.0, kv_heads="heads")
# Field -> its allowed values; with another value, the code here would compute another model.
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
    "pruned_heads": (None, {}),
    "tie_encoder_decoder": (None, False),
    "cross_attention_hidden_size": (None,),
}
# Families whose attention has no norm of queries and keys, or has one; or no bias, or has one.
NO_NORM: dict[str, tuple] = {"use_qk_norm": (None, False)}
NORM: dict[str, tuple] = {"use_qk_norm": (None, True)}
NO_BIAS: dict[str, tuple] = {"qkv_bias": (None, False), "mlp_bias": (None, False)}
BIAS: dict[str, tuple] = {"qkv_bias": (None, True), "mlp_bias": (None, False)}
SILU: dict[str, tuple] = {"hidden_act": ("silu", "swish")}
BOTH_WAYS: dict[str, tuple] = {"use_bidirectional_attention": (None, False)}
GELU: dict[str, tuple] = {"hidden_activation": (None, "gelu_pytorch_tanh")} | BOTH_WAYS
# Fields of every family that phi3 reads, or whose values are checked below.
PHI3 = {"partial_rotary_factor", "auto_map"}
PHI3_CODE = {
    "AutoConfig": "configuration_phi3.Phi3Config",
    "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
    "AutoTokenizer": "Xenova/gpt-4o",
}
SPARSE: dict[str, tuple] = {
    "decoder_sparse_step": (None, 1),
    "mlp_only_layers": (None, []),
    "shared_expert_intermediate_size": (None, 0),
    "num_shared_experts": (None, 0),
    "n_shared_experts": (None, 0),
}
REQUIRED: dict[str, dict[str, tuple]] = {
    "llama": PLAIN | SILU | NO_NORM | NO_BIAS | {"sliding_window": (None,)},
    "mistral": PLAIN | SILU | NO_NORM | NO_BIAS,
    "qwen2": PLAIN | SILU | NO_NORM | BIAS,
    "qwen3": PLAIN | SILU | NORM | NO_BIAS,
    "qwen3_moe": PLAIN | SILU | NORM | NO_BIAS | SPARSE,
    "mixtral": PLAIN | SILU | NO_NORM | NO_BIAS | SPARSE,
    "gemma2": PLAIN | GELU | NO_NORM | NO_BIAS,
    # transformers ignores this field of the family.
    "gemma3_text": PLAIN | GELU | NORM | NO_BIAS | {"attn_logit_softcapping": (None,)},
    "smollm3": PLAIN | SILU | NO_NORM | NO_BIAS | {"sliding_window": (None,)},
    "phi3": {field: values for field, values in PLAIN.items() if field not in PHI3}
    | SILU
    | NO_NORM
    | NO_BIAS
    | {"lm_head_bias": (None, False), "full_attn_mod": (None, 1), "interpolate_factor": (None, 1)},
    "olmo2": PLAIN | SILU | NORM | NO_BIAS | {"sliding_window": (None,), "clip_qkv": (None,)},
}
# They are about training: `router_aux_loss_coef` of ModelConfig is the user's to set.
ROUTER = {"output_router_logits", "router_aux_loss_coef"}
OTHER_BY_TYPE = {
    "qwen2": {"sliding_window", "max_window_layers"},  # have an effect with use_sliding_window only
    "qwen3": {"sliding_window", "max_window_layers"},
    "qwen3_moe": {"sliding_window", "max_window_layers", "intermediate_size"} | ROUTER,
    "mixtral": ROUTER | {"router_jitter_noise"},
    "gemma2": {"hidden_act", "sliding_window_size"},
    "gemma3_text": {"hidden_act"},
    "smollm3": {"max_window_layers", "no_rope_layers"},
    "phi3": rotary.PHI3_FIELDS | {"auto_map"},
}
# Alternative names of fields that are written under another name.
NOT_WRITTEN = {"qwen3_moe": {"num_local_experts"}, "gemma3_text": {"_sliding_window_pattern"}}
NULL_OF: Json = dict.fromkeys(("window", "attention_softcap", "logit_softcap"))
WRITTEN = {False: {"hidden_act": "silu"}, True: {"hidden_activation": "gelu_pytorch_tanh"}}
# The padding ids that transformers gives to these families by itself need a large vocabulary.
WRITTEN_OF: dict[str, Json] = dict.fromkeys(("smollm3", "phi3"), {"pad_token_id": None})
CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
}


def parse_config(config: Json, where: str) -> Json:
    """Return the fields of ModelConfig that a config.json gives; `where` names it in errors.

    Raises:
      WeightsError: the family, a field or a value is missing or not supported.
    """
    if multimodal.is_multimodal(config):
        config = multimodal.text_config(config, where)
    kind = _kind(config, where)
    _refuse(config, kind, where)
    table = READ[kind]
    fields: Json = {"family": kind, "norm_eps": 1e-6} | DEFAULTS[kind]
    for field, ours in table.items():
        if ours in NEEDED and ours not in fields and config.get(field) is None:
            raise WeightsError(f"{where}: field {field} is missing")
        if config.get(field) is not None:
            fields[ours] = typed(config[field], ours, f"{where}: field {field}")
        elif field in config and ours in NULL:
            fields[ours] = fields.get(NULL[ours], NULL[ours])
    fields.setdefault("kv_heads", fields["heads"])
    fields.setdefault("head_size", fields["width"] // max(1, fields["heads"]))
    fields |= rotary.parse_rope(config, fields, where)
    fields |= _layers(config, fields, where) | _rotation(config, fields, where)
    return fields


def _kind(config: Json, where: str) -> str:
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in READ:
        raise WeightsError(f"{where}: model_type {kind!r} is none of {', '.join(READ)}")
    if kind == "phi3" and not _is_own_code(config.get("auto_map")):
        raise WeightsError(
            f"{where}: {kind} with auto_map = {config['auto_map']!r} is not supported: code in the "
            "folder is never run"
        )
    return kind


def _is_own_code(auto_map: Any) -> bool:
    """Return whether `auto_map` names nothing but the code that transformers has as phi3.

    Microsoft's folders hold this code too.  It is never run; the model here is the same.
    """
    if auto_map is None:
        return True
    names = auto_map.items() if isinstance(auto_map, dict) else [("", auto_map)]
    return all(PHI3_CODE.get(part) == str(name).rpartition("--")[2] for part, name in names)


def _refuse(config: Json, kind: str, where: str) -> None:
    """Refuse fields with values that mean another model, and fields that are in no table."""
    required = REQUIRED[kind]
    known = set(READ[kind]) | rotary.FIELDS | OTHER | OTHER_BY_TYPE.get(kind, set())
    for field, value in config.items():
        if field in required and value not in required[field]:
            allowed = " or ".join(repr(x) for x in required[field] if x is not None) or "absent"
            raise WeightsError(
                f"{where}: {kind} with {field} = {value!r} is not supported, only {allowed}"
            )
        if field.startswith(OTHER_PREFIX):
            continue
        if field not in known and field not in required and field != "layer_types":
            raise WeightsError(
                f"{where}: field {field} = {value!r} is not known for {kind}; remove it if it "
                "does not change what the model computes"
            )


def _layers(config: Json, fields: Json, where: str) -> Json:
    """Return the fields that say which layers have a window: all, or all but every n-th."""
    kinds = optional(config, "layer_types", list, where)
    if kinds is None:
        return {} if fields.get("window") else {"window": 0, "global_every": 0}
    if len(kinds) != fields["layers"]:
        raise WeightsError(
            f"{where}: layer_types has {len(kinds)} entries for {fields['layers']} layers"
        )
    local = [kind == LOCAL for kind in kinds]
    every = local.index(False) + 1 if False in local else 0
    wanted = [bool(not every or i % every) for i in range(1, fields["layers"] + 1)]
    if not all(kind in (LOCAL, "full_attention") for kind in kinds) or local != wanted:
        raise WeightsError(
            f"{where}: layer_types is not supported: each of the {fields['layers']} layers must be "
            "sliding_attention, but for every n-th that is full_attention"
        )
    if any(local) and not fields.get("window"):
        raise WeightsError(f"{where}: layer_types has sliding_attention without a window")
    return {"global_every": every} if any(local) else {"window": 0, "global_every": 0}


def _rotation(config: Json, fields: Json, where: str) -> Json:
    """Return the fields that say which layers do not rotate: none, or every n-th."""
    rotates = optional(config, "no_rope_layers", list, where)  # 1 for a layer that rotates
    if rotates is None:
        return {}
    rotates = rotates[: fields["layers"]]
    every = rotates.index(0) + 1 if 0 in rotates else 0
    if rotates != [int(not every or i % every > 0) for i in range(1, fields["layers"] + 1)]:
        raise WeightsError(
            f"{where}: no_rope_layers is not supported: it must be 1 for each of the "
            f"{fields['layers']} layers, but for every n-th that is 0"
        )
    return {"unrotated_every": every}


def build_config(cfg: ModelConfig, dtype: str, extra: Mapping[str, Any]) -> Json:
    """Return a config.json for a model, in the style of the hub.

    `extra` adds fields that ModelConfig does not have, such as token ids.

    Raises:
      WeightsError: the family's config.json cannot describe the model.
    """
    values = dataclasses.asdict(explicit(cfg))
    config: Json = {"architectures": [CLASSES[cfg.family]], "model_type": cfg.family}
    for field, ours in READ[cfg.family].items():
        if field not in NOT_WRITTEN.get(cfg.family, ()) and (ours != "context" or cfg.context):
            config[field] = values[ours] or NULL_OF.get(ours, values[ours])
    config |= WRITTEN[bool(cfg.has.gelu)] | WRITTEN_OF.get(cfg.family, {})
    config |= rotary.write_rope(cfg)
    if config.get("query_pre_attn_scalar", 0.5) % 1 == 0:  # transformers wants an integer
        config["query_pre_attn_scalar"] = int(config["query_pre_attn_scalar"])
    for field in ("sliding_window_pattern", "no_rope_layer_interval"):
        if config.get(field) == 0:
            config[field] = cfg.layers + 1
    check_describes(cfg, config)
    return config | {"torch_dtype": dtype} | dict(extra)


def explicit(cfg: ModelConfig) -> ModelConfig:
    """Return an equal model config in a canonical form, so that two configs can be compared.

    Zeros that stand for a default become that default, and fields without an effect on the logits
    get their default values.
    """
    defaults: Json = {x.name: x.default for x in dataclasses.fields(ModelConfig)}
    idle = {x.name for part in (Pretrained, Execution, Training) for x in dataclasses.fields(part)}
    scaled = {ours for fields in rotary.SCALING.values() for ours in fields.values()}
    idle |= scaled - set(rotary.SCALING.get(cfg.rope_scaling, {}).values())
    near = cfg.rope_theta_window
    if not near and cfg.rope_scaling == "none":
        near = cfg.rope_theta
    return dataclasses.replace(
        cfg,
        query_scale=cfg.query_scale or float(cfg.head_size),
        rope_theta_window=near if cfg.window else 0.0,
        global_every=cfg.global_every if cfg.global_every <= cfg.layers else 0,
        unrotated_every=cfg.unrotated_every if cfg.unrotated_every <= cfg.layers else 0,
        rope_size=cfg.rope_size or cfg.head_size,
        **{name: defaults[name] for name in idle},
    )


def check_describes(cfg: ModelConfig, config: Json) -> None:
    """Refuse a config.json that describes another model than `cfg`.

    Raises:
      WeightsError: the message names the first field of ModelConfig that differs.
    """
    described = explicit(ModelConfig(**parse_config(config, "config.json")))
    wanted = explicit(cfg)
    for field in dataclasses.fields(ModelConfig):
        if getattr(described, field.name) != getattr(wanted, field.name):
            raise WeightsError(
                f"a config.json of {cfg.family} cannot say {field.name} = "
                f"{getattr(wanted, field.name)!r}; change model.family or model.{field.name}"
            )
