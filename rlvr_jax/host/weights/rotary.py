"""The rotary positions of a config.json: `rope_scaling` of the hub, `rope_parameters`, and back.

`SCALING` is the table of the kinds of scaling and their fields.  YaRN and LongRoPE multiply rotated
entries by a number that config.json gives in several ways; ModelConfig has the number itself.
"""

import math
from typing import Any

from rlvr_jax.config import ModelConfig
from rlvr_jax.host.weights.values import Json, WeightsError, optional, typed

LOCAL = "sliding_attention"
# Fields of config.json that this module reads.
FIELDS = {"rope_theta", "rope_scaling", "rope_parameters"}
# Fields that only phi3 has outside of its rotary parameters.
PHI3_FIELDS = {"partial_rotary_factor", "original_max_position_embeddings"}
PHI3_ORIGINAL = 4096  # of an absent original_max_position_embeddings
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
    "yarn": {
        "factor": "rope_factor",
        "beta_slow": "rope_low",
        "beta_fast": "rope_high",
        "original_max_position_embeddings": "rope_original",
        "truncate": "rope_truncate",
        "attention_factor": "rope_amplitude",
    },
    "longrope": {
        "short_factor": "rope_short",
        "long_factor": "rope_long",
        "original_max_position_embeddings": "rope_original",
        "attention_factor": "rope_amplitude",
    },
}
KINDS = {"phi3": ("default", "longrope")}  # of other families: all but longrope
# Names that transformers takes for LongRoPE in a phi3.
PHI3_NAMES = {"su": "longrope", "yarn": "longrope"}
YARN = {"beta_slow": 1.0, "beta_fast": 32.0, "truncate": True}  # values of absent fields


def parse_rope(config: Json, fields: Json, where: str) -> Json:
    """Return the rotary fields of ModelConfig; layers with a window may have some of their own.

    `fields` has what is known of the model already; `where` names config.json in errors.

    Raises:
      WeightsError: a field is missing, not known or of the wrong type, or the kind of scaling is
        not supported for the family.
    """
    new, old = (optional(config, x, dict, where) for x in ("rope_parameters", "rope_scaling"))
    base = {"rope_theta": config.get("rope_theta")}
    if fields["family"] == "phi3":
        base |= {"partial_rotary_factor": config.get("partial_rotary_factor")}
        given = config.get("original_max_position_embeddings")
        base["original_max_position_embeddings"] = PHI3_ORIGINAL if given is None else given
    if new and old and _one_style(new, base) != _one_style(old, base):
        raise WeightsError(f"{where}: remove one of rope_scaling and rope_parameters")
    if new is None:
        return _scaling(_merged(base, old or {}, where), fields, where)
    if "full_attention" not in new:
        return _scaling(_merged(base, new, where), fields, where)
    full, near = (optional(new, x, dict, where) or {} for x in ("full_attention", LOCAL))
    if set(new) - {"full_attention", LOCAL}:
        raise WeightsError(f"{where}: rope_parameters has layers of a kind that is not known")
    wide = _scaling(full, fields, where)
    narrow = _scaling({"rope_theta": fields.get("rope_theta_window")} | near, fields, where)
    if narrow["rope_scaling"] != "none":
        raise WeightsError(f"{where}: rotary scaling of layers with a window is not supported")
    return wide | {"rope_theta_window": narrow["rope_theta"]}


def _one_style(given: Json, base: Json) -> Json:
    """Return rotary parameters in one style, for a comparison."""
    kind = given.get("rope_type") or given.get("type") or "default"
    given = {field: value for field, value in given.items() if field != "type"}
    return base | given | {"rope_type": kind}


def _merged(base: Json, given: Json, where: str) -> Json:
    """Return rotary parameters with those that stand outside of them, which a phi3 has."""
    for field in sorted(PHI3_FIELDS & set(base)):
        if None not in (base[field], given.get(field)) and base[field] != given[field]:
            raise WeightsError(
                f"{where}: {field} is {base[field]}, and {given[field]} in the rotary parameters"
            )
    return base | {field: value for field, value in given.items() if value is not None}


def _scaling(given: Json, fields: Json, where: str) -> Json:
    """Return the rotary fields of ModelConfig for one set of rotary parameters."""
    given = {field: value for field, value in given.items() if value is not None}
    kind = str(given.pop("rope_type", None) or given.pop("type", None) or "default")
    given.pop("type", None)
    family = fields["family"]
    kind = PHI3_NAMES.get(kind, kind) if family == "phi3" else kind
    kinds = KINDS.get(family, tuple(x for x in SCALING if x != "longrope"))
    if kind not in kinds:
        raise WeightsError(
            f"{where}: rotary scaling {kind!r} of a {family} is not supported, only "
            f"{', '.join(kinds)}"
        )
    rope: Json = {"rope_scaling": "none" if kind == "default" else kind}
    rope["rope_theta"] = given.pop("rope_theta", None) or fields.get("rope_theta", 10000.0)
    rope |= _share(given.pop("partial_rotary_factor", 1.0), fields, where)
    if kind == "default" and family == "phi3":
        given.pop("original_max_position_embeddings", None)
    if kind == "yarn":
        given = _yarn(given, fields, where)
    if kind == "longrope":
        given = _longrope(given, fields, rope["rope_size"] or fields["head_size"], where)
    for field in sorted(set(given) ^ set(SCALING[kind])):
        state = "not known" if field in given else "missing"
        raise WeightsError(f"{where}: field {field} of rotary scaling {kind} is {state}")
    rope |= {ours: given[field] for field, ours in SCALING[kind].items()}
    rope = {ours: typed(value, ours, f"{where}: {ours}") for ours, value in rope.items()}
    if kind == "yarn":
        longer = int(rope["rope_factor"] * rope["rope_original"])
        rope["context"] = max(fields.get("context", 0), longer)
    return rope


def _share(factor: Any, fields: Json, where: str) -> Json:
    """Return how many entries of a head are rotated; 0 stands for all."""
    factor = typed(factor, "rope_factor", f"{where}: partial_rotary_factor")
    if factor != 1 and (fields["family"] != "phi3" or not 0 < factor < 1):
        raise WeightsError(
            f"{where}: partial_rotary_factor = {factor} is not supported for {fields['family']}"
        )
    return {"rope_size": 0 if factor == 1 else int(fields["head_size"] * factor)}


def compute_yarn_amplitude(factor: float, scale: float = 1.0) -> float:
    """Return 0.1 scale ln(factor) + 1, and 1 for factors up to 1 (arXiv 2309.00071, eq. 22)."""
    return 0.1 * scale * math.log(factor) + 1 if factor > 1 else 1.0


def _yarn(given: Json, fields: Json, where: str) -> Json:
    """Return YaRN's parameters with absent ones filled in, and one number as attention_factor.

    An absent attention_factor is a quotient of amplitudes if both `mscale` and `mscale_all_dim`
    are given, as in transformers.  `attn_factor` multiplies it, as in vLLM and llama.cpp.
    transformers passes over `attn_factor`; the files that have it mean it.
    """
    given = YARN | given
    if fields.get("context"):
        given.setdefault("original_max_position_embeddings", fields["context"])
    named = [x for x in ("factor", "mscale", "mscale_all_dim", "attn_factor") if x in given]
    number = {x: typed(given[x], "rope_factor", f"{where}: {x} of yarn") for x in named}
    if "attn_factor" in given and "attention_factor" in given:
        raise WeightsError(f"{where}: remove one of attn_factor and attention_factor of yarn")
    factor, scale = number.get("factor", 1.0), number.get("mscale")
    amplitude, every = compute_yarn_amplitude(factor), number.get("mscale_all_dim")
    if scale and every:
        amplitude = compute_yarn_amplitude(factor, scale) / compute_yarn_amplitude(factor, every)
    given.setdefault("attention_factor", amplitude * number.get("attn_factor", 1.0))
    return {x: v for x, v in given.items() if x not in ("mscale", "mscale_all_dim", "attn_factor")}


def _longrope(given: Json, fields: Json, rotated: int, where: str) -> Json:
    """Return LongRoPE's parameters with absent ones filled in.

    The amplitude is sqrt(1 + ln(factor) / ln(original)) (arXiv 2402.13753, as transformers has it).
    """
    original = given["original_max_position_embeddings"]
    original = typed(original, "rope_original", f"{where}: original_max_position_embeddings")
    if not fields.get("context") or original < 2:
        raise WeightsError(f"{where}: longrope needs max_position_embeddings, and an original > 1")
    given = {"factor": fields["context"] / original} | given
    factor = typed(given.pop("factor"), "rope_factor", f"{where}: factor of longrope")
    amplitude = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    given.setdefault("attention_factor", amplitude)
    for field in ("short_factor", "long_factor"):
        divisors = given.get(field)
        divisors = divisors if isinstance(divisors, list) else []
        fine = len(divisors) == rotated // 2
        if not fine or not all(isinstance(x, int | float) and x > 0 for x in divisors):
            raise WeightsError(
                f"{where}: {field} of longrope is not {rotated // 2} numbers above 0"
            )
    return given


def write_rope(cfg: ModelConfig) -> Json:
    """Return the rotary fields of a config.json, in the style of the hub."""
    config: Json = {"rope_theta": cfg.rope_theta, "rope_scaling": None}
    if cfg.family == "phi3":
        config["partial_rotary_factor"] = (cfg.rope_size or cfg.head_size) / cfg.head_size
        config["original_max_position_embeddings"] = cfg.rope_original
    if cfg.rope_scaling != "none":
        config["rope_scaling"] = {"rope_type": cfg.rope_scaling} | {
            field: list(value) if isinstance(value := getattr(cfg, ours), tuple) else value
            for field, ours in SCALING[cfg.rope_scaling].items()
        }
    return config
