"""The language model inside a folder with a vision tower, which is how Gemma 3 is saved from 4b on.

The config of the language model is `text_config` of config.json.  Its tensors have a prefix, which
depends on the version of transformers that saved them.  The vision tower and the projector from
images to embeddings are not read.
"""

from collections.abc import Iterable

from rlvr_jax.host.weights.idle_fields import OTHER
from rlvr_jax.host.weights.layout import Place
from rlvr_jax.host.weights.values import Json, WeightsError, optional

WHOLE, TEXT = "gemma3", "gemma3_text"  # model_type of the whole and of its language model
# Fields of the whole that say how images stand in a prompt.
IMAGES = {"mm_tokens_per_image", "boi_token_index", "eoi_token_index", "image_token_index"}
IMAGES |= {"boi_token_id", "eoi_token_id", "image_token_id", "vision_config", "text_config"}
IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "torch_dtype", "dtype")
# Fields with the values that they must have, in the whole and in the language model: with another
# value, versions of transformers compute different models.
REQUIRED: dict[str, tuple] = {"tie_word_embeddings": (None, True), "quantization_config": (None,)}
REQUIRED |= {"final_logit_softcapping": (None,), "auto_map": (None,)}
# Prefix in the file -> the prefix that it stands for.
LAYOUTS = {"language_model.": "", "model.language_model.": "model."}
TOWER = ("vision_tower.", "multi_modal_projector.")


def is_multimodal(config: Json) -> bool:
    """Return whether a config.json describes a model with a vision tower."""
    return config.get("model_type") == WHOLE or "vision_config" in config


def text_config(config: Json, where: str) -> Json:
    """Return the config.json of the language model alone; `where` names the file in errors.

    Raises:
      WeightsError: the model is not a Gemma 3, a field is missing, not known, or has a value that
        is not supported.
    """
    kind = config.get("model_type")
    if kind != WHOLE:
        raise WeightsError(
            f"{where} describes a model with a vision tower ({kind}), of which only {WHOLE} is "
            "supported"
        )
    text = optional(config, "text_config", dict, where)
    if text is None:
        raise WeightsError(f"{where}: text_config is missing, for a model with a vision tower")
    if text.get("model_type", TEXT) != TEXT:
        raise WeightsError(f"{where}: text_config is of a {text['model_type']!r} and not of {TEXT}")
    for part in (config, text):
        for field, values in REQUIRED.items():
            if part.get(field) not in values:
                raise WeightsError(
                    f"{where}: {WHOLE} with {field} = {part[field]!r} is not supported"
                )
    for field in sorted(set(config) - IMAGES - set(REQUIRED) - OTHER):
        raise WeightsError(f"{where}: field {field} = {config[field]!r} is not known for {WHOLE}")
    of_whole = {field: config[field] for field in IDS if config.get(field) is not None}
    return text | of_whole | {"architectures": ["Gemma3ForCausalLM"], "model_type": TEXT}


def find_layout(tensors: Iterable[str]) -> tuple[str, str]:
    """Return the prefix of the language model's tensors and the one it stands for."""
    names = tuple(tensors)
    for prefix, plain in LAYOUTS.items():
        if any(name.startswith(prefix) for name in names):
            return prefix, plain
    return "", ""


def in_layout(place: Place, layout: tuple[str, str]) -> Place:
    """Return a place of the language model alone as a place in the whole."""
    prefix, plain = layout
    if not place.tensor.startswith(plain):
        return place
    return place._replace(tensor=prefix + place.tensor.removeprefix(plain))


def is_tower(tensor: str) -> bool:
    """Return whether a tensor belongs to the vision tower or the projector."""
    return tensor.removeprefix("model.").startswith(TOWER)
