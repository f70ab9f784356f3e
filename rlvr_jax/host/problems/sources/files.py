"""Problem files as records: JSONL, JSON and parquet, in the layouts of the field.

A row's columns say what it is:

    verl             prompt, reward_model.ground_truth, data_source, extra_info
    work A           query, label, subject (arXiv 2503.23829)
    open-instruct    messages, ground_truth
    TRL and plain    prompt, question or problem, with answer, solution, ground_truth, label or
                     reference

A prompt is text or a list of messages that ends with the user's. Structs of a parquet file may be
nested or flat (`reward_model.ground_truth`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlvr_jax.host.problems import dataset
from rlvr_jax.host.text import answers

Record = dict[str, str]
Row = dict[str, Any]
KINDS = (".jsonl", ".json", ".parquet")
PROMPTS = ("prompt", "question", "problem")
REFERENCES = ("final_answer", "answer", "solution", "ground_truth", "label", "reference")
DOMAINS = ("data_source", "domain", "subject", "type", "dataset", "ability")
ROLES = ("system", "user", "assistant")


def check(path: Path) -> None:
    """Refuse a file that cannot be opened, without reading it.

    Raises:
      ValueError: no such file, not one of KINDS, or parquet without pyarrow.
    """
    if path.suffix not in KINDS:
        raise ValueError(f"{path} must be one of {', '.join(KINDS)}: convert it or rename it.")
    if not path.is_file():
        raise ValueError(f"there is no file {path}: check the path.")
    if path.suffix == ".parquet":
        _parquet()


def records(path: Path, task: str) -> Iterator[Record]:
    """The problems of a file.

    Raises:
      ValueError: the file, the line or row (from 1), and why it cannot be a problem.
    """
    check(path)
    for where, row in rows(path):
        try:
            yield record(row, task)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error


def rows(path: Path) -> Iterator[tuple[str, Row]]:
    """The rows as they are in the file, each with its place in words."""
    read = {".parquet": _parquet_rows, ".json": _json_rows}.get(path.suffix, _lines)
    for where, row in read(path):
        if not isinstance(row, dict):
            raise ValueError(f"{where}: a row must be an object, not {type(row).__name__}.")
        yield where, _nested(row)


def record(row: Row, task: str) -> Record:
    """One row as a record; ValueError says what is wrong with it, without its place."""
    prompt, reference, solution = _layout(row)
    messages = _messages(prompt)
    for message in messages:
        _check_text("prompt", message["content"])
    gold = text_of(reference)
    if not gold:
        raise ValueError("it has no reference answer: fill it in or leave the row out.")
    domain = next(filter(None, (_label(row.get(name)) for name in DOMAINS)), "")
    made = {
        **{"question": messages[-1]["content"], "reference": gold, "answer": gold},
        **{"demonstration": solution or gold, "domain": domain or task.partition(":")[2]},
        **{"task": task, "extra": _extra(row)},
        # A system prompt says how to answer, not what is asked.
        "key": dataset.problem_key(*(m["content"] for m in messages if m["role"] != "system")),
        "messages": json.dumps(messages, ensure_ascii=False) if len(messages) > 1 else "",
    }
    for name, text in made.items():
        _check_text(name, text)
    return made


def text_of(value: Any) -> str:
    """A reference as text: a list of one is that one, other lists and numbers are JSON."""
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
    """A JSON list of one, written as text, is that one."""
    if not (text.startswith("[") and text.endswith("]")):
        return text
    try:
        found = json.loads(text)
    except ValueError:
        return text
    one = found[0] if isinstance(found, list) and len(found) == 1 else None
    return str(one).strip() if isinstance(one, str | int | float) else text


def final(solution: str) -> str:
    r"""The answer at the end of a worked solution: after ####, in the last \boxed{}, or all."""
    if "####" in solution:
        return solution.rpartition("####")[2].strip().replace(",", "")
    box = answers.boxed(solution)
    return solution if box is None else box


def _layout(row: Row) -> tuple[Any, Any, str]:
    """(prompt, reference, worked solution or ""), by the columns of the row."""
    if "prompt" in row and "reward_model" in row:
        model = row["reward_model"]
        return row["prompt"], model.get("ground_truth") if isinstance(model, dict) else None, ""
    if "query" in row and "label" in row:
        return row["query"], row["label"], ""
    if "messages" in row and "ground_truth" in row:
        messages, said = row["messages"], ""
        if _ends_with_answer(messages):
            messages, said = messages[:-1], str(messages[-1].get("content") or "")
        return messages, row["ground_truth"], said
    asked = next((row[name] for name in PROMPTS if name in row), None)
    known = [name for name in REFERENCES if name in row]
    if asked is None or not known:
        raise ValueError(
            f"its columns ({', '.join(map(str, row))}) are no known layout: rename them to "
            "'question' and 'answer', or see the layouts in the documentation."
        )
    value, solution = row[known[0]], row.get("solution")
    solution = solution if isinstance(solution, str) else ""
    if isinstance(value, str) and (
        known[0] == "solution" or "####" in value or answers.boxed(value) is not None
    ):
        return asked, final(value), value.strip()
    return asked, value, solution.strip()


def _ends_with_answer(messages: Any) -> bool:
    last = messages[-1] if isinstance(messages, list) and messages else None
    return isinstance(last, dict) and last.get("role") == "assistant"


def _messages(prompt: Any) -> list[dict[str, str]]:
    """The prompt as messages; ValueError unless it is text that ends with the user's."""
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
    # dates, decimals and bytes of parquet have no JSON of their own
    return json.dumps(extra, ensure_ascii=False, default=str) if extra else ""


def _check_text(name: str, text: str) -> None:
    # JSON escapes a NUL; U+FDD0 is no character, and marks the answer's place in templates.
    if any(odd in text for odd in ("\x00", "\ufdd0")) or name == "messages" and "\\u0000" in text:
        raise ValueError(f"its {name} has a NUL or U+FDD0 character: remove it.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"its {name} is not Unicode ({error.reason}): repair it.") from error


def _nested(row: Row) -> Row:
    """`a.b` columns as the struct a with the field b."""
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
    """One array of rows, one row alone, or one in each line as in JSONL."""
    raw = path.read_bytes()
    body = raw.removeprefix(b"\xef\xbb\xbf")
    if body.lstrip().startswith(b"["):
        for number, row in enumerate(_loads(body, str(path), len(raw) - len(body)), 1):
            yield f"{path}, row {number}", row
    elif (row := _alone(body)) is not None:
        yield str(path), row
    else:
        yield from _lines(path)


def _alone(body: bytes) -> Any:
    try:
        return _loads(body, "", 0)
    except ValueError:
        return None


def _loads(raw: bytes, where: str, offset: int) -> Any:
    """Strict JSON of bytes that begin at this offset of their file."""
    try:
        return json.loads(raw.decode("utf-8"), parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where}: byte {offset + error.start} of the file is not UTF-8 ({error.reason}): save "
            "the file as UTF-8."
        ) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON ({error}): repair or remove it.") from error


def _no_number(text: str) -> Any:
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
