"""The origin of a problem set records the settings and the file contents that it was built from.

A run folder keeps the origin beside its problem set, so that a change of a file is noticed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlvr_jax.config import DataConfig, SourceConfig
from rlvr_jax.host.problems.sources import downloads, hub_data

Origin = dict[str, Any]


def compute_origin(data: DataConfig, counts: Mapping[str, int | str], seed: int) -> Origin:
    """Compute the origin of the problem set that `build_splits` builds from the same arguments.

    Raises:
      ValueError: a downloaded data set is not there.
      OSError: a file cannot be read.
    """
    tasks, sources = list(data.tasks), [_describe_source(source) for source in data.sources]
    config = {"tasks": tasks, "sources": sources, "counts": dict(counts), "seed": seed}
    config["demonstration_errors"] = data.demonstration_errors
    if data.preferences.most:  # absent by default, as in the folders of older versions
        config["preferences"] = dataclasses.asdict(data.preferences)
    origin = {
        "config": config,
        "files": {str(path): _hash_file(path) for path in sorted(_list_files(data))},
        "reasoning-gym": _version("reasoning-gym") if any(s.gym for s in data.sources) else "",
    }
    plain: Origin = json.loads(json.dumps(origin, default=str))
    return plain


def _describe_source(source: SourceConfig) -> dict[str, Any]:
    keys = dataclasses.asdict(source)
    defaults: dict[str, Any] = {
        "columns": {},
        "unranked": "refuse",
        "splits": (),
        "hub": "",
        "subset": "",
        "test_split": "",
    }
    if source.hub:
        keys["hub"] = hub_data.pin(source)
    else:
        del keys["split"]
    for name, default in defaults.items():
        if keys[name] == default:  # absent by default, as in the folders of older versions
            del keys[name]
    return keys


def describe_change(before: Origin, now: Origin) -> str:
    """Describe the first difference between two origins; "" if they are equal."""
    then, here = before.get("files", {}), now["files"]
    for path in sorted({*then, *here}):
        if then.get(path) != here.get(path):
            how = "is new" if path not in then else "has changed" if path in here else "is gone"
            return f"the data file {path} {how}"
    if before.get("reasoning-gym") != now["reasoning-gym"]:
        versions = f"{before.get('reasoning-gym')} then and is {now['reasoning-gym']} now"
        return f"the version of reasoning-gym was {versions}"
    return "" if before.get("config") == now["config"] else "the data of its config has changed"


def _list_files(data: DataConfig) -> Iterator[Path]:
    for source in data.sources:
        for name in filter(None, (source.file, source.test_file)):
            yield Path(name)
        if source.tfds:
            for split in ("train", "test"):
                yield from downloads.find_files(source.tfds, Path(source.folder), split)


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
