"""A config may start from the model of another run: RUN:STAGE[@STEP] is checked before any work."""

import dataclasses
import hashlib
from pathlib import Path

from rlvr_jax.config import Architecture, Config, Input, ModelConfig, Part, parse_left
from rlvr_jax.host.runs.digests import compute_digest
from rlvr_jax.host.runs.folder import RunError
from rlvr_jax.host.runs.paths import Paths, tokenizer_path
from rlvr_jax.stages import left

LARGEST = 64 << 20  # bytes of a tokenizer's file; larger ones hold weights too
FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")


def check_other_run(cfg: Config, key: str, needed: Input, part: Part | None) -> None:
    """Refuse a model of another run that this config cannot read, and one with other tokens.

    What has been taken already was checked then, and the other run may be gone.

    Raises:
      ValueError: the message says what to change.
    """
    source = needed.source
    if left.taken(Paths(Path(cfg.runs) / cfg.name), source) is not None:
        return
    if needed.product != "model":
        raise ValueError(f"{key} names {source}, and of another run only models are taken")
    named = parse_left(source)
    folder = Path(named.run)
    other = left.load_config(folder)
    stages = {stage.name: stage for stage in other.stages}
    if named.stage not in stages or "model" not in stages[named.stage].leaves:
        known = [stage.name for stage in other.stages if "model" in stage.leaves]
        raise ValueError(
            f"{key} names {source}, and {folder} has no stage {named.stage!r} that leaves a model: "
            f"those are {', '.join(known) or 'none'}"
        )
    theirs = stages[named.stage].trains or "model"
    ours = needed.pretrained or part or "model"
    _check_model(key, source, getattr(other, theirs), getattr(cfg, ours), ours)
    _check_tokens(cfg, key, other, folder, (theirs, ours))
    try:
        left.find_step(Paths(folder), stages[named.stage], named.step)
    except RunError as error:
        raise ValueError(f"{key} names {source}: {error}") from None


def _check_model(key: str, source: str, there: ModelConfig, here: ModelConfig, part: str) -> None:
    if there.adapter.rank:
        raise ValueError(
            f"{key} names {source}, which learned by an adapter: write it to a folder by `python "
            f"-m rlvr_jax.convert {source} FOLDER`, and name that folder in {part}.weights"
        )
    for field in dataclasses.fields(Architecture):
        one, other = getattr(there, field.name), getattr(here, field.name)
        if one != other:
            raise ValueError(
                f"{key} names {source}, whose {field.name} is {one}, and {part}.{field.name} is "
                f"{other}: make them equal"
            )


def _check_tokens(
    cfg: Config, key: str, other: Config, folder: Path, parts: tuple[Part, Part]
) -> None:
    """Refuse a model that reads other tokens than this config's: nothing else would show it."""
    theirs, ours = (
        whole.verifier_tokenizer if part == "verifier" else ""
        for whole, part in zip((other, cfg), parts, strict=True)
    )
    there = theirs or tokenizer_path(other, folder)
    own = Path(cfg.runs) / cfg.name
    here = ours or tokenizer_path(cfg, own)
    hint = f"set tokenizer={there}"
    if any("tokenizer" in stage.leaves for stage in cfg.stages):
        raise ValueError(
            f"{key} names a model of {folder}, and this config trains a tokenizer of its own: "
            f"leave that stage out and {hint}"
        )
    if _identify(there) != _identify(here):
        raise ValueError(f"{key} names a model of {folder}, which reads other tokens: {hint}")


def _identify(tokenizer: str | Path) -> str:
    """Return what tells a tokenizer from others: the digest of its files, or else its path."""
    path = Path(tokenizer)
    if path.is_dir():
        found = [path / name for name in FILES if (path / name).is_file()]
        if found:
            return hashlib.sha256("".join(map(compute_digest, found)).encode()).hexdigest()
    if path.is_file() and path.stat().st_size <= LARGEST:
        return compute_digest(path)
    return str(path.resolve()) if path.exists() else str(tokenizer)
