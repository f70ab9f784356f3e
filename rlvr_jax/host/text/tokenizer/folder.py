"""What the files of a Hugging Face model folder say about its tokenizer."""

import json
from pathlib import Path
from typing import Any

from rlvr_jax.host.text.chat import TokenizerError
from rlvr_jax.host.text.tokenizer.codec import Facts

KEPT = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
_TOKENS = ("eos_token", "bos_token", "unk_token", "pad_token")


def tokenizer_in(folder: Path) -> Path:
    """The tokenizer's file in a model folder; raises TokenizerError if there is none."""
    for name in ("tokenizer.json", "tokenizer.model"):
        if (folder / name).exists():
            return folder / name
    raise TokenizerError(
        f"{folder} has no tokenizer: put the model's tokenizer.json or tokenizer.model there"
    )


def facts(path: Path, name: str, own: dict[str, str], add_bos: bool = False) -> Facts:
    """Facts of the tokenizer `path`, which `save` will call `name`, from the files beside it.

    `own` and `add_bos` are what the tokenizer itself says.  Raises TokenizerError if a file is
    damaged.
    """
    folder = path.parent
    config = _json(folder / "tokenizer_config.json")
    named = {**_json(folder / "special_tokens_map.json"), **config}
    tokens = {key: _name(named[key]) for key in _TOKENS if named.get(key) is not None}
    template, template_file = _template(folder, config)
    says_bos = config.get("add_bos_token")
    return Facts(
        source=str(path),
        tokens=own | tokens,
        eos=_ends(folder),
        add_bos=add_bos if says_bos is None else bool(says_bos),
        template=template,
        template_file=str(template_file),
        files={k: folder / k for k in KEPT if (folder / k).exists()} | {name: path},
    )


def added_tokens(folder: Path) -> dict[int, dict[str, Any]]:
    """Tokens that tokenizer_config.json adds, by id; raises TokenizerError if it is damaged."""
    path = folder / "tokenizer_config.json"
    added = _json(path).get("added_tokens_decoder") or {}
    try:
        return {int(i): {**token, "content": str(token["content"])} for i, token in added.items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise TokenizerError(
            f"added_tokens_decoder of {path} is not a table of tokens: repair or remove it"
        ) from None


def _ends(folder: Path) -> tuple[int, ...]:
    found: list[Any] = []
    for name in ("generation_config.json", "config.json"):
        ids = _json(folder / name).get("eos_token_id")
        found += ids if isinstance(ids, list) else [ids]
    return tuple(i for i in found if type(i) is int)


def _template(folder: Path, config: dict[str, Any]) -> tuple[str | None, Path]:
    path = folder / "chat_template.jinja"
    if path.exists():
        return _read(path), path
    path, template = folder / "tokenizer_config.json", config.get("chat_template")
    if isinstance(template, list):
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    if template is not None and not isinstance(template, str):
        raise TokenizerError(f"chat_template of {path} is not text: repair or remove it")
    return template, path


def _name(token: Any) -> str:
    return str(token.get("content", "")) if isinstance(token, dict) else str(token)


def _json(path: Path) -> dict[str, Any]:
    """The table in a file, empty if there is no such file."""
    if not path.exists():
        return {}
    try:
        found = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} is not valid JSON; repair or remove it: {error}") from None
    if not isinstance(found, dict):
        raise TokenizerError(f"{path} does not hold a JSON object: repair or remove it")
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"cannot read {path}; repair or remove it: {error}") from None
