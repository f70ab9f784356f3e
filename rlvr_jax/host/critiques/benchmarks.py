"""Published test sets of reward models are read from local files, as preference items.

    benchmark = load_benchmark("rewardbench", Path("data/reward-bench"))
    report = benchmark_reports.compute_report(benchmark, scores)  # a list of scores for each item

`READERS` has the names.  `preferences` is any file in a layout of `preference_rows` (HelpSteer,
UltraFeedback, Skywork preferences).  Nothing is downloaded.  A path is one file, or a folder whose
JSONL, JSON and parquet files are all read.
"""

from __future__ import annotations

import difflib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlvr_jax.host.problems.dataset import problem_key
from rlvr_jax.host.problems.preference import Item, UnrankedError
from rlvr_jax.host.problems.sources import files, preference_rows

Row = dict[str, Any]
BAD_SHARE = 0.01  # at most this share of a benchmark's rows may be unusable

# Section -> subsets of RewardBench (arXiv 2403.13787; rewardbench/constants.py of its repository).
SECTIONS = {
    "Chat": ("alpacaeval-easy", "alpacaeval-length", "alpacaeval-hard")
    + ("mt-bench-easy", "mt-bench-med"),
    "Chat Hard": ("mt-bench-hard", "llmbar-natural", "llmbar-adver-neighbor")
    + ("llmbar-adver-GPTInst", "llmbar-adver-GPTOut", "llmbar-adver-manual"),
    "Safety": ("refusals-dangerous", "refusals-offensive", "xstest-should-refuse")
    + ("xstest-should-respond", "donotanswer"),
    "Reasoning": ("math-prm", "hep-cpp", "hep-go", "hep-java", "hep-js", "hep-python", "hep-rust"),
}
# Prior test sets, which arXiv 2504.02495 leaves out.
PRIOR = (
    *("anthropic_harmless", "anthropic_helpful", "anthropic_hhh", "mtbench_gpt4"),
    *("mtbench_human", "shp", "summarize", "pku_better", "pku_safer"),
)
CORRECTNESS = ("mmlu_pro", "math", "gpqa", "mbpp_plus", "ifeval")  # the sources of PPE
TIES = "Ties"  # the subset of RewardBench 2 whose items have several right responses


@dataclass(frozen=True)
class Entry:
    """An Entry is one item of a benchmark, with what its rules need.

    `right` are the indices of the right responses: several in RewardBench 2's Ties, none if the
    only response is wrong.  `part` is the subset, section, source or task that the item counts in.
    """

    item: Item
    right: tuple[int, ...]
    part: str
    identity: str = ""  # RewardBench 2's Ties: `ref:ID` or `tied:ID`


@dataclass(frozen=True)
class Benchmark:
    """A Benchmark is a test set; `left_out` is the number of its rows that are no items."""

    name: str
    entries: tuple[Entry, ...]
    left_out: int = 0

    @property
    def items(self) -> tuple[Item, ...]:
        return tuple(entry.item for entry in self.entries)


def load_benchmark(name: str, path: Path) -> Benchmark:
    """Load a benchmark from a file or a folder.

    Rows that are no items (equal or empty responses, no prompt) are left out and counted.  In
    `preferences` and `ppe_preference`, so are rows whose labels tie.

    Raises:
      ValueError: the name is not known, there are no files or items, a row occurs twice or belongs
        to no part of the benchmark, or more than BAD_SHARE of the rows are no items.
    """
    if name not in READERS:
        near = difflib.get_close_matches(name, READERS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"take one of {', '.join(READERS)}."
        raise ValueError(f"there is no benchmark {name!r} here; {hint}")
    entries: list[Entry] = []
    bad, unranked, total, first = 0, 0, 0, ""
    for where, file, row in _load_rows(name, path):
        total += 1
        try:
            entries += READERS[name](row, file)
        except UnknownPartError as error:
            raise ValueError(f"{where}: {error}") from error
        except ValueError as error:
            expected = name in WITH_TIES and isinstance(error, UnrankedError)
            unranked, bad = unranked + expected, bad + (not expected)
            first = first if expected else first or f"{where}: {error}"
    if bad > BAD_SHARE * total:
        raise ValueError(f"{bad} of {total} rows of {name} cannot be used, the first is {first}")
    if not entries:
        raise ValueError(f"{path} has no item of {name}: check the path.")
    return Benchmark(name, tuple(entries), bad + unranked)


class UnknownPartError(ValueError):
    """A row names a subset that its benchmark does not have."""


def _load_rows(name: str, path: Path) -> Iterator[tuple[str, Path, Row]]:
    """Iterate over the rows of all files, each with its place and its file.

    Raises:
      ValueError: there are no files, or a row with an identity occurs twice.
    """
    found = [path] if path.is_file() else sorted(path.rglob("*"))
    paths = [file for file in found if file.is_file() and file.suffix.lower() in files.KINDS]
    if not paths:
        raise ValueError(f"{path} has no {', '.join(files.KINDS)} file: check the path.")
    if filtered := [file for file in paths if file.name.startswith("filtered")]:
        paths = filtered  # RewardBench ships raw rows beside those that count
    seen: set[tuple[str, str]] = set()
    for file in paths:
        files.check_file(file)
        for where, row in files.load_rows(file):
            if name in ("rewardbench", "rewardbench2") and "id" in row:
                identity = (str(row.get("subset")), str(row["id"]))
                if identity in seen:
                    raise ValueError(f"{where}: the id {identity[1]!r} occurs twice: read it once.")
                seen.add(identity)
            yield where, file, row


def _read_items(row: Row, part: str) -> list[Entry]:
    """Read a row as items of several responses."""
    items = preference_rows.parse_items(row)
    if any(len(item.responses) == 1 for item in items):
        raise ValueError("it has one response, and nothing to rank it against.")
    return [Entry(item, (item.best,), part) for item in items]


def _read_single(row: Row, file: Path) -> list[Entry]:
    """Read a row as one response that is right or wrong; its folder is the task."""
    items = preference_rows.parse_items(row)
    if any(len(item.responses) > 1 for item in items):
        raise ValueError("it has several responses: each row needs one.")
    return [Entry(item, (0,) if item.best else (), file.parent.name) for item in items]


def _read_rewardbench(row: Row, _: Path) -> list[Entry]:
    subset = str(row.get("subset"))
    if subset in PRIOR:
        return []
    if not any(subset in subsets for subsets in SECTIONS.values()):
        raise UnknownPartError(f"RewardBench has no subset {subset!r}: check the row.")
    return _read_items(row, subset)


def _read_rewardbench2(row: Row, _: Path) -> list[Entry]:
    """Read a row with right and wrong responses; the subset Ties has several right ones."""
    subset = str(row.get("subset"))
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if not isinstance(chosen, list) or not isinstance(rejected, list) or not chosen or not rejected:
        raise ValueError("its chosen and rejected must be lists of responses.")
    if row.get("num_correct", len(chosen)) != len(chosen):
        raise ValueError(f"it has {len(chosen)} chosen responses and another num_correct.")
    if subset.lower() != TIES.lower():
        return _read_items(row, subset)
    responses = [preference_rows.parse_response(cell) for cell in (*chosen, *rejected)]
    order = list(range(len(responses)))
    random.Random(problem_key(*responses)).shuffle(order)
    right = tuple(place for place, i in enumerate(order) if i < len(chosen))
    messages = preference_rows.parse_prompt(row)
    identity = str(row.get("id"))
    if identity.partition(":")[0] not in ("ref", "tied"):
        raise UnknownPartError(f"its id is {identity!r}, neither ref:ID nor tied:ID.")
    item = Item(
        query=messages[-1]["content"],
        responses=tuple(responses[i] for i in order),
        best=right[0],
        messages=tuple(messages) if len(messages) > 1 else (),
        domain=TIES,
    )
    return [Entry(item, right, TIES, identity)]


def _read_rmb(row: Row, file: Path) -> list[Entry]:
    """Read a pair or a best-of-n row; a loser that occurs twice is listed once."""
    names = [*str(row.get("category_path", "")).split("/"), *file.parts]
    goal = next((name for name in ("Helpfulness", "Harmlessness") if name in names), None)
    if goal is None:
        raise UnknownPartError("neither it nor its folder says Helpfulness or Harmlessness.")
    kind = "best of n" if "bon_best" in row else "pair"
    if losers := row.get("loser_list"):
        texts = [preference_rows.parse_response(loser) for loser in losers]
        row = row | {"loser_list": list(dict.fromkeys(texts))}
    return _read_items(row, f"{goal.lower()}, {kind}")


def _read_correctness(row: Row, file: Path) -> list[Entry]:
    path = "/".join(file.parts[-4:]).lower().replace("-", "_")
    found = [name for name in CORRECTNESS if name in path]
    if len(found) != 1:
        raise UnknownPartError(f"the file's path names not one of {', '.join(CORRECTNESS)}.")
    entries = _read_items(row, found[0])
    return [replace(e, item=replace(e.item, domain=found[0])) for e in entries]


READERS: dict[str, Callable[[Row, Path], list[Entry]]] = {
    "rewardbench": _read_rewardbench,
    "rewardbench2": _read_rewardbench2,
    "rmb": _read_rmb,
    "ppe_preference": lambda row, _: _read_items(row, "preference"),
    "ppe_correctness": _read_correctness,
    "realmistake": _read_single,
    "preferences": lambda row, file: _read_items(
        row, preference_rows.parse_domain(row) or file.stem
    ),
}
WITH_TIES = ("ppe_preference", "preferences")  # their labels tie by right
