"""The fields of a config.json by model family (`model_type`), as tables, and conversion by them.

A field of config.json is one of three kinds: it sets a field of ModelConfig (READ), it must have
one of a few values because other values mean another model (REQUIRED), or it has no effect on the
model (OTHER).  A field in no table is refused.  Both styles are read: that of the hub
(`rope_theta`, `rope_scaling`, `torch_dtype`) and that of transformers 5 (`rope_parameters`,
`layer_types`, `dtype`).  The hub's style is written.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rlvr_jax.config import Execution, ModelConfig, Pretrained, Training

Json = dict[str, Any]


class WeightsError(ValueError):
    """A pretrained model cannot be used; the message says why and what to do."""


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
    | dict(global_every=6, rope_theta=1e6, rope_theta_window=1e4),
}
# Fields without a default.
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
}
LOCAL = "sliding_attention"
LARGEST = 2**53  # a number up to here is exact in JSON
ROPE = {"rope_theta", "rope_scaling", "rope_parameters", "layer_types"}
# Fields that change no logit, by what they may change instead.
BOOKKEEPING = """
    architectures model_type torch_dtype dtype transformers_version _name_or_path _commit_hash
    tokenizer_class is_llama_config transformers.js_config max_sequence_length model_max_length
    finetuning_task keys_to_ignore_at_inference id2label label2id num_labels problem_type
    bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id decoder_start_token_id
"""
COMPUTATION = """
    use_cache cache_implementation attn_implementation _attn_implementation
    _attn_implementation_internal _attn_implementation_autoset _from_model_config
    _experts_implementation experts_implementation use_flash_attn use_flash_attention_2
    output_attentions output_hidden_states output_scores return_dict return_dict_in_generate
    torchscript use_bfloat16 chunk_size_feed_forward pretraining_tp is_decoder output_past
"""
TRAINING = """
    initializer_range attention_dropout hidden_dropout dropout classifier_dropout
    embd_pdrop resid_pdrop attn_pdrop hidden_dropout_prob attention_probs_dropout_prob
    gradient_checkpointing tf_legacy_loss neftune_noise_alpha
"""
SAMPLING = """
    temperature top_k top_p min_p typical_p do_sample max_length min_length max_new_tokens
    min_new_tokens num_beams num_beam_groups early_stopping diversity_penalty length_penalty
    repetition_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids
    num_return_sequences exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
    forced_bos_token_id forced_eos_token_id remove_invalid_values renormalize_logits
    task_specific_params prefix
"""
OTHER = {*f"{BOOKKEEPING} {COMPUTATION} {TRAINING} {SAMPLING}".split()}
OTHER_PREFIX = "unsloth_"  # notes of the library that saved the model
# They are about training: `router_aux_loss_coef` of ModelConfig is the user's to set.
ROUTER = {"output_router_logits", "router_aux_loss_coef"}
OTHER_BY_TYPE = {
    "qwen2": {"sliding_window", "max_window_layers"},  # have an effect with use_sliding_window only
    "qwen3": {"sliding_window", "max_window_layers"},
    "qwen3_moe": {"sliding_window", "max_window_layers", "intermediate_size"} | ROUTER,
    "mixtral": ROUTER | {"router_jitter_noise"},
    "gemma2": {"hidden_act", "sliding_window_size"},
    "gemma3_text": {"hidden_act"},
}
# Kind of rotary scaling -> its fields -> fields of ModelConfig.
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
# Alternative names of fields that are written under another name.
NOT_WRITTEN = {"qwen3_moe": {"num_local_experts"}, "gemma3_text": {"_sliding_window_pattern"}}
NULL_OF: Json = dict.fromkeys(("window", "attention_softcap", "logit_softcap"))
WRITTEN = {False: {"hidden_act": "silu"}, True: {"hidden_activation": "gelu_pytorch_tanh"}}
CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
}


def parse_config(config: Json, where: str) -> Json:
    """Return the fields of ModelConfig that a config.json gives; `where` names it in errors.

    Raises:
      WeightsError: the family, a field or a value is missing or not supported.
    """
    kind = _kind(config, where)
    _refuse(config, kind, where)
    table = READ[kind]
    fields: Json = {"family": kind, "norm_eps": 1e-6} | DEFAULTS[kind]
    for field, ours in table.items():
        if ours in NEEDED and config.get(field) is None:
            raise WeightsError(f"{where}: field {field} is missing")
        if config.get(field) is not None:
            fields[ours] = typed(config[field], ours, f"{where}: field {field}")
        elif field in config and ours in NULL:
            fields[ours] = fields.get(NULL[ours], NULL[ours])
    fields.setdefault("kv_heads", fields["heads"])
    fields.setdefault("head_size", fields["width"] // max(1, fields["heads"]))
    fields |= _rope(config, fields, where)
    fields |= _layers(config, fields, where)
    return fields


def _kind(config: Json, where: str) -> str:
    kind = config.get("model_type")
    if kind == "gemma3" or "vision_config" in config:
        raise WeightsError(
            f"{where} describes a model with a vision tower ({kind}); save its language model "
            "alone (Gemma3ForCausalLM) or take one without, such as gemma-3-1b"
        )
    if not isinstance(kind, str) or kind not in READ:
        raise WeightsError(f"{where}: model_type {kind!r} is none of {', '.join(READ)}")
    return kind


def _refuse(config: Json, kind: str, where: str) -> None:
    """Refuse fields with values that mean another model, and fields that are in no table."""
    required = REQUIRED[kind]
    known = set(READ[kind]) | ROPE | OTHER | OTHER_BY_TYPE.get(kind, set())
    for field, value in config.items():
        if field in required and value not in required[field]:
            allowed = " or ".join(repr(x) for x in required[field] if x is not None) or "absent"
            raise WeightsError(
                f"{where}: {kind} with {field} = {value!r} is not supported, only {allowed}"
            )
        if field.startswith(OTHER_PREFIX):
            continue
        if field not in known and field not in required:
            raise WeightsError(
                f"{where}: field {field} = {value!r} is not known for {kind}; remove it if it "
                "does not change what the model computes"
            )


def _rope(config: Json, fields: Json, where: str) -> Json:
    """Return the rotary fields; layers with a window may have parameters of their own."""
    new, old = (_object(config, x, dict, where) for x in ("rope_parameters", "rope_scaling"))
    if new and old and _plain_rope(new, config) != _plain_rope(old, config):
        raise WeightsError(f"{where}: remove one of rope_scaling and rope_parameters")
    if new is None:
        return _scaling({"rope_theta": config.get("rope_theta")} | (old or {}), fields, where)
    if "full_attention" not in new:
        return _scaling({"rope_theta": config.get("rope_theta")} | new, fields, where)
    full, near = (_object(new, x, dict, where) or {} for x in ("full_attention", LOCAL))
    if set(new) - {"full_attention", LOCAL}:
        raise WeightsError(f"{where}: rope_parameters has layers of a kind that is not known")
    wide = _scaling(full, fields, where)
    narrow = _scaling({"rope_theta": fields.get("rope_theta_window")} | near, fields, where)
    if narrow["rope_scaling"] != "none":
        raise WeightsError(f"{where}: rotary scaling of layers with a window is not supported")
    return wide | {"rope_theta_window": narrow["rope_theta"]}


def _plain_rope(given: Json, config: Json) -> Json:
    """Return rotary parameters in one style, for a comparison."""
    kind = given.get("rope_type") or given.get("type") or "default"
    given = {field: value for field, value in given.items() if field != "type"}
    return {"rope_theta": config.get("rope_theta")} | given | {"rope_type": kind}


def _scaling(given: Json, fields: Json, where: str) -> Json:
    """Return the rotary fields of ModelConfig for one set of rotary parameters."""
    given = dict(given)
    kind = given.pop("rope_type", None) or given.pop("type", None) or "default"
    given.pop("type", None)
    theta = given.pop("rope_theta", None) or fields.get("rope_theta", 10000.0)
    if not isinstance(kind, str) or kind not in SCALING:
        raise WeightsError(
            f"{where}: rotary scaling {kind!r} is not supported, only {', '.join(SCALING)}"
        )
    if given.pop("partial_rotary_factor", 1.0) != 1.0:
        raise WeightsError(f"{where}: partial_rotary_factor is not supported, only 1.0")
    for field in set(given) ^ set(SCALING[kind]):
        state = "not known" if field in given else "missing"
        raise WeightsError(f"{where}: field {field} of rotary scaling {kind} is {state}")
    rope = {ours: given[field] for field, ours in SCALING[kind].items()}
    scaling = "none" if kind == "default" else kind
    rope |= {"rope_theta": theta, "rope_scaling": scaling}
    return {ours: typed(value, ours, f"{where}: {ours}") for ours, value in rope.items()}


def _layers(config: Json, fields: Json, where: str) -> Json:
    """Return the fields that say which layers have a window: all, or all but every n-th."""
    kinds = _object(config, "layer_types", list, where)
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


def typed(value: Any, ours: str, what: str) -> Any:
    """Return `value` in the type of the field `ours` of ModelConfig.

    An integer is a valid float, because JSON may write 100000 for 100000.0.

    Raises:
      WeightsError: the value has another type, or is not finite, or enormous; `what` names it in
        the message.
    """
    kind: Any = type(ModelConfig.__dataclass_fields__[ours].default)
    fits = {bool: bool, int: int, str: str}.get(kind, (int, float))
    if not isinstance(value, fits) or (kind is not bool and isinstance(value, bool)):
        raise WeightsError(f"{what} is {value!r} and not of type {kind.__name__}")
    if isinstance(value, int | float) and not abs(value) <= LARGEST:
        raise WeightsError(f"{what} is beyond {LARGEST}, which no model has")
    return kind(value)


def _object(config: Json, field: str, kind: type, where: str) -> Any:
    """Return a field that must be of type `kind` or absent."""
    if not isinstance(config.get(field), kind | None):
        raise WeightsError(f"{where}: field {field} is not a {kind.__name__}: correct it")
    return config.get(field)


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
    config |= WRITTEN[bool(cfg.has.gelu)]
    config |= {"rope_theta": cfg.rope_theta, "rope_scaling": None}
    if cfg.rope_scaling != "none":
        fields = SCALING[cfg.rope_scaling]
        config["rope_scaling"] = {"rope_type": cfg.rope_scaling} | {
            field: values[ours] for field, ours in fields.items()
        }
    if config.get("query_pre_attn_scalar", 0.5) % 1 == 0:  # transformers wants an integer
        config["query_pre_attn_scalar"] = int(config["query_pre_attn_scalar"])
    if config.get("sliding_window_pattern") == 0:
        config["sliding_window_pattern"] = cfg.layers + 1
    check_describes(cfg, config)
    return config | {"torch_dtype": dtype} | dict(extra)


def explicit(cfg: ModelConfig) -> ModelConfig:
    """Return an equal model config in a canonical form, so that two configs can be compared.

    Zeros that stand for a default become that default, and fields without an effect on the logits
    get their default values.
    """
    defaults: Json = {x.name: x.default for x in dataclasses.fields(ModelConfig)}
    idle = {x.name for part in (Pretrained, Execution, Training) for x in dataclasses.fields(part)}
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
