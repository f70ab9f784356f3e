"""Rules, templates and formulas of the user are pinned when a stage begins, by their SHA-256.

A config names such a file, and a change inside of it would change the objective of a stage between
two of its steps without a word.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlvr_jax.config import Config, RlStage, Stage
from rlvr_jax.host.runs import log
from rlvr_jax.host.runs.digests import compute_digest
from rlvr_jax.host.runs.paths import Paths

FILE = "files.json"  # stage -> path, as the config has it -> SHA-256


def describe_change(run: Paths, stage: Stage, cfg: Config) -> str:
    """Describe the first file that is no longer what it was when the stage began; "" if all are.

    `cfg` is the config that names the files now.

    Raises:
      ValueError: the record of the run is damaged.
    """
    known = _load(run).get(stage.name, {})
    for path, digest in compute_pins(stage, cfg).items():
        if known.get(path, digest) != digest:
            return f"the file {path} has changed since stage {stage.name} of {run.folder} began"
    return ""


def pin(run: Paths, stage: Stage, cfg: Config) -> None:
    """Record the files that a stage reads, which begins now."""
    known, now = _load(run), compute_pins(stage, cfg)
    if known.get(stage.name, {}) != now:
        log.write_json(run.folder / FILE, known | {stage.name: now})


def compute_pins(stage: Stage, cfg: Config) -> dict[str, str]:
    """Compute the digests of the user's own files that a stage reads, by their paths."""
    return {name: compute_digest(Path(name)) for name in _names(stage, cfg) if _is_file(name)}


def _names(stage: Stage, cfg: Config) -> Iterator[str]:
    yield from stage.rules
    if isinstance(stage, RlStage):
        yield from (stage.loss.objective, stage.advantage.baseline)
    for judge in stage.judges:
        yield from (judge.rule, judge.template)
    if stage.uses_verifier:
        yield from cfg.data.check_templates
    if stage.role == "grm" or stage.uses_grm:
        yield cfg.critique.template


def _is_file(name: str) -> bool:
    """Return whether a rule or template is a file, and not one of ours by its name."""
    return bool(Path(name).suffix or "/" in name) and Path(name).is_file()


def _load(run: Paths) -> dict[str, Any]:
    path = run.folder / FILE
    try:
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (ValueError, RecursionError):
        known = None
    if not isinstance(known, dict) or not all(isinstance(x, dict) for x in known.values()):
        raise ValueError(f"{path} is damaged: put it back")
    return known
