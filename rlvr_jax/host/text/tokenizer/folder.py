"""The settings of a tokenizer in the files of a Hugging Face model folder."""

import json
from pathlib import Path
from typing import Any

from rlvr_jax.host.text.chat import TokenizerError
from rlvr_jax.host.text.tokenizer.codec import Facts, check_file, check_size

# Files that saving copies.
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
    """Find the tokenizer's file in a model folder; raise TokenizerError if there is none."""
    for name in ("tokenizer.json", "tokenizer.model"):
        if (folder / name).exists():
            return folder / name
    raise TokenizerError(
        f"{folder} has no tokenizer: put the model's tokenizer.json or tokenizer.model there"
    )


def load_facts(path: Path, name: str, own: dict[str, str], add_bos: bool = False) -> Facts:
    """Load the settings of the tokenizer at `path` from the files beside it.

    `name` is the file name that the tokenizer gets in a saved folder.  `own` (token names by
    key, such as `bos_token`) and `add_bos` come from the tokenizer's own file; the files beside
    it have precedence.

    Raises:
      TokenizerError: a file is damaged.
    """
    folder = path.parent
    config = _load_json(folder / "tokenizer_config.json")
    named = {**_load_json(folder / "special_tokens_map.json"), **config}
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


def load_added_tokens(folder: Path) -> dict[int, dict[str, Any]]:
    """Load the tokens that tokenizer_config.json adds, by id.

    Raises:
      TokenizerError: tokenizer_config.json is damaged, or has an id that no vocabulary has.
    """
    path = folder / "tokenizer_config.json"
    added = _load_json(path).get("added_tokens_decoder") or {}
    try:
        found = {int(i): {**token, "content": str(token["content"])} for i, token in added.items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise TokenizerError(
            f"added_tokens_decoder of {path} is not a table of tokens: repair or remove it"
        ) from None
    if min(found, default=0) < 0:
        raise TokenizerError(f"added_tokens_decoder of {path} has an id below 0: repair it")
    check_size(max(found, default=0) + 1, str(path))
    return found


def _ends(folder: Path) -> tuple[int, ...]:
    ends: list[Any] = []
    for name in ("generation_config.json", "config.json"):
        ids = _load_json(folder / name).get("eos_token_id")
        ends += ids if isinstance(ids, list) else [ids]
    return tuple(i for i in ends if type(i) is int)


def _template(folder: Path, config: dict[str, Any]) -> tuple[str | None, Path]:
    path = folder / "chat_template.jinja"
    if path.exists():
        return _load_text(path), path
    path, template = folder / "tokenizer_config.json", config.get("chat_template")
    if isinstance(template, list):
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    if template is not None and not isinstance(template, str):
        raise TokenizerError(f"chat_template of {path} is not text: repair or remove it")
    return template, path


def _name(token: Any) -> str:
    return str(token.get("content", "")) if isinstance(token, dict) else str(token)


def _load_json(path: Path) -> dict[str, Any]:
    """Load a JSON object; a missing file gives an empty one."""
    if not path.exists():
        return {}
    try:
        value = json.loads(_load_text(path))
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} is not valid JSON; repair or remove it: {error}") from None
    if not isinstance(value, dict):
        raise TokenizerError(f"{path} does not hold a JSON object: repair or remove it")
    return value


def _load_text(path: Path) -> str:
    check_file(path)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"cannot read {path}; repair or remove it: {error}") from None
