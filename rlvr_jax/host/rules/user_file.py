"""A user's rule: a Python file, named by its path, with `score(completion, record) -> float`."""

from __future__ import annotations

import difflib
import functools
import importlib.util
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any


def load_score(rule: str, known: Collection[str] = ()) -> Callable[..., float]:
    """Return the function `score` of a Python file; `known` are the kinds for a near match.

    Raises:
      ValueError: there is no such file, it cannot be imported, or it has no such function.
    """
    path = Path(rule)
    if not rule.endswith(".py") or not path.is_file():
        near = difflib.get_close_matches(rule, list(known), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}."
        raise ValueError(f"rule {rule!r} is neither a kind nor a Python file that exists; {hint}")
    return _load(str(path.resolve()))


@functools.lru_cache(16)
def _load(path: str) -> Callable[..., float]:
    spec = importlib.util.spec_from_file_location("rlvr_jax_own_rule", path)
    assert spec and spec.loader  # it ends in .py
    module: Any = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"the rule {path} cannot be imported: {error!r}") from error
    if not callable(getattr(module, "score", None)):
        raise ValueError(f"the rule {path} has no function score(completion, record)")
    return module.score
