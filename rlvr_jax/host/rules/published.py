r"""The rule `math_verify` grades with the library math-verify, to compare with published numbers.

It is as lenient and as strict as the library, and reads a completion as the library does by
default.  The reference is given to it in a \boxed{}, as verl does.
"""

from __future__ import annotations

import importlib.util
import logging


def score(completion: str, reference: str) -> float:
    """Return 1.0 if the library finds the completion equal to the reference, else 0.0.

    The caller limits the time; the library's own clock would stop a grade on a busy machine.

    Raises:
      ValueError: the library is not installed, or cannot read the reference.
    """
    check()
    import math_verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that it has no clock
    gold = math_verify.parse(f"\\boxed{{{reference}}}", parsing_timeout=None)
    if not gold:
        raise ValueError(f"math-verify cannot read the reference {reference!r}")
    answer = math_verify.parse(completion, parsing_timeout=None)
    return float(math_verify.verify(gold, answer, timeout_seconds=None))


def check() -> None:
    """Raise ValueError unless the library is installed."""
    if importlib.util.find_spec("math_verify") is None:
        raise ValueError(
            "the rule math_verify needs a package: pip install -e '.[math-verify]' in the clone, "
            "or take the rule math"
        )


def prepare() -> float:
    """Load the library before the first text, so that its grade does not wait for it."""
    check()
    import math_verify  # noqa: F401

    return 1.0
