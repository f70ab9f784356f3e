"""Load a user's rule: a Python file, named by its path, with `score(completion, record) -> number`.

Reward functions that were written for TRL (`f(completions, **columns)` on lists) or for verl
(`compute_score(data_source, solution_str, ground_truth, extra_info)`) are called in their own way.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib.util
import inspect
import io
import json
import numbers
import sys
import traceback
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from rlvr_jax.host.files.looked_up import looked_up

Score = Callable[[str, Mapping[str, Any]], Any]
TRL, VERL = "completions", ("solution_str", "ground_truth")  # parameters that tell whose it is
_REFERENCE = ("reference", "answer", "ground_truth", "solution", "target", "label")
_QUESTION = ("question", "prompt", "prompts", "problem")


def load_score(rule: str, known: Collection[str] = ()) -> Score:
    """Return the grading function of the Python file that `rule` names.

    `known` are the names of the kinds; the error message suggests the nearest one.

    Raises:
      ValueError: there is no such file, it cannot be imported, or it has no function that can be
        called with a completion and its record.
    """
    check_path(rule, known)
    return _load(str(Path(rule).resolve()))


def check_path(rule: str, known: Collection[str] = ()) -> None:
    """Refuse a rule that names no Python file; see `load_score`.

    Raises:
      ValueError: there is no such file.
    """
    path = Path(rule)
    if not rule.endswith(".py") or not path.is_file():
        near = difflib.get_close_matches(rule, list(known), n=1)
        if rule.endswith(".py") or "/" in rule:
            kind = "no file that ends in .py" if path.exists() else f"not there{looked_up(rule)}"
            raise ValueError(
                f"the rule {rule} is {kind}: name a file of Python with a function "
                "score(completion, record)"
            )
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}."
        raise ValueError(
            f"rule {rule!r} is neither a kind nor the name of a file that ends in .py; {hint}"
        )


def check(rule: str) -> tuple[float, str, str]:
    """Import a user's file, in a worker; return 1, `ok` and what it printed, or 0 and the error."""
    with captured_output() as printed:
        try:
            load_score(rule)
        except ValueError as error:
            return 0.0, "error", f"{error}"
    return 1.0, "ok", printed.getvalue().strip()[:200]


def describe(error: BaseException, path: str = "") -> str:
    """Return an exception in one line, with the file and the line that raised it.

    This is the last line of the file `path`, where the exception went through it.
    """
    frames = [(x.filename, x.lineno) for x in traceback.extract_tb(error.__traceback__)]
    frames = [x for x in frames if x[0] == path] or frames
    if isinstance(error, SyntaxError):
        frames = [(error.filename or path, error.lineno)]
    ours = ("host/rules/__init__.py", "host/rules/user_file.py", "<frozen importlib._bootstrap>")
    where = ""
    if frames and not frames[-1][0].endswith(ours):
        name, line = frames[-1]
        where = f" ({Path(name).name} line {line})" if line else f" ({Path(name).name})"
    text = error.msg if isinstance(error, SyntaxError) else " ".join(f"{error}".split())
    return f"{type(error).__name__}: {text}"[:400].removesuffix(": ") + where


def prepare(rule: str) -> float:
    """Import a user's file before the first job, so that the import takes no time from the job."""
    load_score(rule)
    return 1.0


@contextlib.contextmanager
def captured_output() -> Iterator[io.StringIO]:
    """Collect the text that is printed inside the `with` block, instead of printing the text."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        yield printed


def to_number(value: Any) -> float:
    """Return the result of a rule as a float.

    The result may be a number or a truth value of Python, NumPy or JAX.

    Raises:
      TypeError: the result is neither a number nor a truth value.
    """
    if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)):
        value = value.item()
    if not isinstance(value, numbers.Number) or isinstance(value, complex):
        raise TypeError(f"it returned {_short(value)}, which is no number")
    return float(value)  # type: ignore[arg-type]


@functools.lru_cache(16)
def _load(path: str) -> Score:
    module = import_file(path)
    name, function = _pick(module, path)
    if inspect.iscoroutinefunction(function):
        raise ValueError(f"the rule {path}: {name} is `async`, and a rule has to be a function")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the rule {path}: the arguments of {name} are unknown") from error
    if TRL in signature.parameters:
        return functools.partial(_call_trl, function, signature)
    if set(VERL) <= set(signature.parameters):
        return functools.partial(_call_verl, function, signature)
    try:
        signature.bind("", {})
    except TypeError as error:
        raise ValueError(
            f"the rule {path}: {name}{signature} cannot be called as {name}(completion, record), "
            "and is neither TRL's f(completions, **kwargs) nor verl's compute_score(data_source, "
            "solution_str, ground_truth, extra_info)"
        ) from error
    return function


def import_file(path: str, noun: str = "rule") -> Any:
    """Import a file under its own name, so that dataclasses and pickle find its classes.

    `noun` is what the file is called in error messages.

    Raises:
      ValueError: the import fails.
    """
    name, folder = Path(path).stem, str(Path(path).parent)
    if not name.isidentifier() or name in sys.modules or importlib.util.find_spec(name):
        name = f"own_rule_{zlib.crc32(path.encode())}"  # another module has the name
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader  # it ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        with captured_output() as printed:
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ValueError(
            f"the {noun} {path} cannot be imported: {describe(error, path)}"
        ) from error
    _tell(path, printed.getvalue(), sys.stderr)
    return module


def _tell(path: str, printed: str, stream: TextIO) -> None:
    if printed.strip():
        print(f"{path} printed: {printed.strip()[:200]}", file=stream)


def _pick(module: Any, path: str) -> tuple[str, Callable[..., Any]]:
    """Return the function that grades: `score`, `compute_score`, or the only one of TRL's form."""
    for name in ("score", "compute_score"):
        if callable(getattr(module, name, None)):
            return name, getattr(module, name)
    theirs = [
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and TRL in inspect.signature(value).parameters
    ]
    if len(theirs) == 1:
        return theirs[0], getattr(module, theirs[0])
    if theirs:
        more = f"; it has several of TRL's form: {', '.join(theirs)}"
    else:
        functions = [name for name, value in vars(module).items() if inspect.isfunction(value)]
        more = f": give {' or '.join(functions)} this name" if functions else ""
    raise ValueError(f"the rule {path} has no function score(completion, record){more}")


def _columns(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a record under all names that data sets and libraries use for them."""
    extra = json.loads(record.get("extra") or "{}")
    columns = dict.fromkeys(_REFERENCE, record.get("reference"))
    columns |= dict.fromkeys(_QUESTION, record.get("question"))
    return columns | (extra if isinstance(extra, dict) else {}) | dict(record)


def _accepted(signature: inspect.Signature, named: Mapping[str, Any]) -> dict[str, Any]:
    """Return those arguments that a function takes by name.

    Raises:
      TypeError: the function needs one that is not there.
    """
    for name, p in signature.parameters.items():
        needed = p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        if needed and name not in named:
            raise TypeError(f"it wants {name!r}, and there are only {', '.join(named)}")
    if any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        return dict(named)
    return {name: value for name, value in named.items() if name in signature.parameters}


def _call_trl(
    function: Callable[..., Any],
    signature: inspect.Signature,
    completion: str,
    record: Mapping[str, Any],
) -> Any:
    columns = {name: [value] for name, value in (_columns(record) | {TRL: completion}).items()}
    try:
        scores = function(**_accepted(signature, columns))
    except TypeError as error:
        if "string indices" in str(error):  # written for conversational data
            error.args = (f"{error} (a completion is a text here, not a list of messages)",)
        raise
    if not hasattr(scores, "__len__") or isinstance(scores, str | dict) or len(scores) != 1:
        raise TypeError(f"it returned {_short(scores)}, not a list of one number per completion")
    return scores[0]


def _call_verl(
    function: Callable[..., Any],
    signature: inspect.Signature,
    completion: str,
    record: Mapping[str, Any],
) -> Any:
    extra = json.loads(record.get("extra") or "{}")
    named = {
        "data_source": record.get("task", ""),
        "solution_str": completion,
        "ground_truth": record.get("reference"),
        "extra_info": extra,
    }
    result = function(**_accepted(signature, named))
    if isinstance(result, dict) and "score" not in result:
        raise TypeError(f"it returned {_short(result)}, a dict without `score`")
    return result["score"] if isinstance(result, dict) else result


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
