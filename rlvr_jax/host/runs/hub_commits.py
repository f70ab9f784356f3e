"""The names of the hub in a config get the commits that they mean, so that a run stays the same."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlvr_jax.config import SourceConfig
from rlvr_jax.host.files import hub
from rlvr_jax.host.problems.sources import hub_data


def pin(tree: dict[str, Any]) -> None:
    """Write commits into the names of the hub in a tree of config values.

    A name without a revision gets the commit of the run's own resolved config, where the run has
    begun, and else the newest one.

    Raises:
      HubError: what is named cannot be downloaded.
      ValueError: a data set has no such files.
    """
    resolved = _resolved(tree)
    for section in _sections(tree):
        named = section.get("weights")
        if isinstance(named, str) and named.startswith(hub.HUB):
            name = hub.pinned(named.removeprefix(hub.HUB), resolved)
            section["weights"] = hub.HUB + hub.with_commit(name, hub.download_model(name))
        named = section.get("hub")
        if isinstance(named, str) and named:
            section["hub"] = hub.pinned(named, resolved)
            parts: dict[str, Any] = {k: section[k] for k in ("subset", "split") if k in section}
            if not all(isinstance(part, str) for part in parts.values()):
                continue  # the config is refused, as any value of a wrong type
            section["hub"] = hub_data.pin(SourceConfig(hub=section["hub"], **parts))


def _sections(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield the mappings of a tree, but not those of adapters, which the hub does not give."""
    if isinstance(tree, dict):
        yield tree
        for key in [key for key in tree if key != "adapter"]:
            yield from _sections(tree[key])
    elif isinstance(tree, list):
        for value in tree:
            yield from _sections(value)


def _resolved(tree: dict[str, Any]) -> str:
    """Return the resolved config of the run that a tree names; "" if there is none."""
    folder, name = tree.get("runs", "runs"), tree.get("name", "run")
    try:
        return (Path(folder) / name / "config.resolved.yaml").read_text(encoding="utf-8")
    except (OSError, ValueError, TypeError):
        return ""
