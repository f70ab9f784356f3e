"""Files of problems as records: JSONL, JSON and parquet, in the layouts of common data sets.

The columns of a row decide its layout:

    verl             prompt, reward_model.ground_truth, data_source, extra_info
    work A           query, label, subject (arXiv 2503.23829)
    open-instruct    messages, ground_truth
    TRL and plain    prompt, question or problem, with answer, solution, ground_truth, label or
                     reference

A prompt is text, or a list of messages whose last message is the user's. The structs of a parquet
file may be nested or flat (a column named `reward_model.ground_truth`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlvr_jax.host.problems import dataset
from rlvr_jax.host.problems.dataset import Record
from rlvr_jax.host.text import answers

Row = dict[str, Any]
KINDS = (".jsonl", ".json", ".parquet")
PROMPTS = ("prompt", "question", "problem")
REFERENCES = ("final_answer", "answer", "solution", "ground_truth", "label", "reference")
DOMAINS = ("data_source", "domain", "subject", "type", "dataset", "ability")
ROLES = ("system", "user", "assistant")


def check_file(path: Path) -> None:
    """Refuse a file of problems that cannot be opened, without reading it.

    Raises:
      ValueError: there is no such file, its suffix is not in KINDS, or it is a parquet file and
        pyarrow is not installed.
    """
    if path.suffix not in KINDS:
        raise ValueError(f"{path} must be one of {', '.join(KINDS)}: convert it or rename it.")
    if not path.is_file():
        raise ValueError(f"there is no file {path}: check the path.")
    if path.suffix == ".parquet":
        _parquet()


def load_records(path: Path, task: str) -> Iterator[Record]:
    """Load the problems of a file one by one; `task` is the task of their records.

    Raises:
      ValueError: the file cannot be read, or a row cannot be a problem; the message names the file
        and the line or row, counted from 1.
    """
    check_file(path)
    for where, row in load_rows(path):
        try:
            yield parse_record(row, task)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error


def load_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Load the rows of a file, each with a text that says where in the file it stands.

    Raises:
      ValueError: the file or a row cannot be read.
    """
    read = {".parquet": _parquet_rows, ".json": _json_rows}.get(path.suffix, _lines)
    for where, row in read(path):
        if not isinstance(row, dict):
            raise ValueError(f"{where}: a row must be an object, not {type(row).__name__}.")
        yield where, _nested(row)


def parse_record(row: Row, task: str) -> Record:
    """Parse one row of a file as a record.

    Raises:
      ValueError: the row cannot be a problem; the message does not say where the row stands.
    """
    prompt, reference, solution = _layout(row)
    messages = _messages(prompt)
    for message in messages:
        _check_text("prompt", message["content"])
    gold = parse_reference(reference)
    if not gold:
        raise ValueError("it has no reference answer: fill it in or leave the row out.")
    domain = next(filter(None, (_label(row.get(name)) for name in DOMAINS)), "")
    record = {
        **{"question": messages[-1]["content"], "reference": gold, "answer": gold},
        **{"demonstration": solution or gold, "domain": domain or task.partition(":")[2]},
        **{"task": task, "extra": _extra(row)},
        # A system prompt says how to answer; it is no part of the problem.
        "key": dataset.problem_key(*(m["content"] for m in messages if m["role"] != "system")),
        "messages": json.dumps(messages, ensure_ascii=False) if len(messages) > 1 else "",
    }
    for name, text in record.items():
        _check_text(name, text)
    return record


def parse_reference(value: Any) -> str:
    """Return a row's reference answer as text; "" if there is none.

    A list with one element gives that element. Other lists, and numbers, give their JSON text.

    Raises:
      ValueError: the reference is an object, a number that is not finite, or has no JSON text.
    """
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None or value == []:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"its reference is {value}: give a number or a text.")
    if isinstance(value, dict):
        raise ValueError("its reference is an object: give a number or a text.")
    if isinstance(value, str):
        return _unlisted(value.strip())
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError as error:
        raise ValueError(f"its reference cannot be text ({error}): give a text.") from error


def _unlisted(text: str) -> str:
    """Replace the text of a JSON list with one element by that element."""
    if not (text.startswith("[") and text.endswith("]")):
        return text
    try:
        value = json.loads(text)
    except ValueError:
        return text
    element = value[0] if isinstance(value, list) and len(value) == 1 else None
    return str(element).strip() if isinstance(element, str | int | float) else text


def parse_final_answer(solution: str) -> str:
    r"""Return the final answer of a worked solution.

    The answer stands after the last ####, or else in the last \boxed{}; a solution with neither is
    itself the answer.
    """
    if "####" in solution:
        return solution.rpartition("####")[2].strip().replace(",", "")
    box = answers.boxed(solution)
    return solution if box is None else box


def _layout(row: Row) -> tuple[Any, Any, str]:
    """Return (prompt, reference, worked solution or "") by the layout of the row."""
    if "prompt" in row and "reward_model" in row:
        model = row["reward_model"]
        return row["prompt"], model.get("ground_truth") if isinstance(model, dict) else None, ""
    if "query" in row and "label" in row:
        return row["query"], row["label"], ""
    if "messages" in row and "ground_truth" in row:
        messages, last_turn = row["messages"], ""
        if _ends_with_answer(messages):
            messages, last_turn = messages[:-1], str(messages[-1].get("content") or "")
        return messages, row["ground_truth"], last_turn
    prompt = next((row[name] for name in PROMPTS if name in row), None)
    known = [name for name in REFERENCES if name in row]
    if prompt is None or not known:
        raise ValueError(
            f"its columns ({', '.join(map(str, row))}) are no known layout: rename them to "
            "'question' and 'answer', or see the layouts in the documentation."
        )
    value, solution = row[known[0]], row.get("solution")
    solution = solution if isinstance(solution, str) else ""
    if isinstance(value, str) and (
        known[0] == "solution" or "####" in value or answers.boxed(value) is not None
    ):
        return prompt, parse_final_answer(value), value.strip()
    return prompt, value, solution.strip()


def _ends_with_answer(messages: Any) -> bool:
    last = messages[-1] if isinstance(messages, list) and messages else None
    return isinstance(last, dict) and last.get("role") == "assistant"


def _messages(prompt: Any) -> list[dict[str, str]]:
    """Return the prompt as messages; ValueError unless the last one is the user's."""
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if not isinstance(prompt, list) or not all(isinstance(m, dict) for m in prompt):
        raise ValueError("its prompt must be text or a list of messages with role and content.")
    for message in prompt:
        if message.get("role") not in ROLES or not isinstance(message.get("content"), str):
            raise ValueError(
                "each message needs a role, one of system, user and assistant, and a text as its "
                f"content, not {message.get('role')!r} and {type(message.get('content')).__name__}."
            )
    if not prompt or prompt[-1]["role"] != "user" or not prompt[-1]["content"].strip():
        raise ValueError("its prompt must end with a user message that is not empty.")
    return [{"role": m["role"], "content": m["content"]} for m in prompt]


def _label(value: Any) -> str:
    value = value[0] if isinstance(value, list) and value else value
    return value.strip() if isinstance(value, str) else ""


def _extra(row: Row) -> str:
    info = row.get("extra_info")
    extra = dict(info) if isinstance(info, dict) else {}
    if isinstance(ability := row.get("ability"), str):
        extra.setdefault("ability", ability)
    # JSON has no dates, decimals and bytes, which parquet has; they become text.
    return json.dumps(extra, ensure_ascii=False, default=str) if extra else ""


def _check_text(name: str, text: str) -> None:
    # JSON text has NUL as an escape; templates use U+FDD0 to mark the place of the answer.
    if any(odd in text for odd in ("\x00", "\ufdd0")) or name == "messages" and "\\u0000" in text:
        raise ValueError(f"its {name} has a NUL or U+FDD0 character: remove it.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"its {name} is not Unicode ({error.reason}): repair it.") from error


def _nested(row: Row) -> Row:
    """Turn each column named `a.b` into the struct `a` with the field `b`."""
    out: Row = {}
    for name, value in row.items():
        outer, dot, inner = str(name).partition(".")
        if dot and isinstance(out.setdefault(outer, {}), dict):
            out[outer][inner] = value
        else:
            out[str(name)] = value
    return out


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    start = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}, line {number}"
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            shift, start = start + len(line) - len(text), start + len(line)
            if text.strip():
                yield where, _loads(text, where, shift)


def _json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Load a JSON file that holds an array of rows, a single row, or one row in each line."""
    raw = path.read_bytes()
    body = raw.removeprefix(b"\xef\xbb\xbf")
    if body.lstrip().startswith(b"["):
        for number, row in enumerate(_loads(body, str(path), len(raw) - len(body)), 1):
            yield f"{path}, row {number}", row
    elif (row := _single_row(body)) is not None:
        yield str(path), row
    else:
        yield from _lines(path)


def _single_row(body: bytes) -> Any:
    try:
        return _loads(body, "", 0)
    except ValueError:
        return None


def _loads(raw: bytes, where: str, offset: int) -> Any:
    """Parse strict JSON; `offset` is where in the file the bytes begin."""
    try:
        return json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where}: byte {offset + error.start} of the file is not UTF-8 ({error.reason}): save "
            "the file as UTF-8."
        ) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON ({error}): repair or remove it.") from error


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a number")


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    number = 0
    try:
        for batch in _parquet().ParquetFile(path).iter_batches(batch_size=1024):
            for i in range(len(batch)):
                number += 1
                yield f"{path}, row {number}", batch.slice(i, 1).to_pylist()[0]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, row {number}: not UTF-8 ({error.reason}): repair it.") from error
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is not readable parquet after row {number}: {error}") from error


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ValueError(
            "parquet files need a package: pip install 'rlvr-jax[parquet]', or convert to JSONL."
        ) from error
    return pyarrow.parquet
