"""Tables of the result of an evaluation, for the terminal and as Markdown.

A result is what `stages.evaluate.summary` returns: measures over all problems and by domain, each
with its interval.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]
Rows = list[list[str]]

WAYS = {
    "majority": "maj@{k}",
    "weighted": "votes weighted by the PRM, {k}",
    "best_of_k_min": "best of {k}, least line of the PRM",
    "best_of_k_sum": "best of {k}, sum of the PRM",
    "weighted_verifier": "votes weighted by the verifier, {k}",
    "best_of_k_verifier": "best of {k} by the verifier",
    "greedy": "greedy answer",
    "exact_match": "exact match",
    "cut_off": "cut off",
    "crashed": "grading crashed",
    "verifier_reward": "mean reward of the verifier",
}
VERDICTS = {
    "accuracy": "verifier = rule",
    "false_positive": "verifier accepts wrong answers",
    "false_negative": "verifier rejects right answers",
}


def measures(result: Result) -> dict[str, tuple[Any, Any]]:
    """Return the means and intervals of a result, each by domain, under the names of the table."""
    k, intervals = result["samples"] or 1, result["intervals"]
    binary = result["measure"] == "accuracy"
    found: dict[str, tuple[Any, Any]] = {}
    for count, means in result["pass_at"].items():
        if count == "1":
            name = f"avg@{k} = pass@1" if binary else f"mean score of {k}"
        else:
            name = f"pass@{count}" if binary else f"best score of {count}"
        found[name] = means, intervals["pass_at"][count]
    for key, words in WAYS.items():
        if key in result and not (k == 1 and "{k}" in words):
            found[words.format(k=k)] = result[key], intervals[key]
    return found


def overview(result: Result) -> tuple[list[str], Rows]:
    """Return head and rows of a table with the measures over all problems."""
    rows = [
        [name, _share(means["all"]), _interval(edges["all"])]
        for name, (means, edges) in measures(result).items()
    ]
    told = result.get("verifier", {})
    rows += [[words, _share(told[key]), ""] for key, words in VERDICTS.items() if key in told]
    return [f"{result['n']} problems", result["measure"], "95 % interval"], rows


def of_domains(result: Result, short: bool = False) -> tuple[list[str], Rows]:
    """Return head and rows of a table with a row for each domain; no rows for a single domain.

    The short form, for a terminal, has fewer columns and one interval.
    """
    found = measures(result)
    first, k = next(iter(found)), result["samples"] or 1
    wanted = {first, f"pass@{k}", f"best score of {k}", f"maj@{k}", "greedy answer", "cut off"}
    found = {name: pair for name, pair in found.items() if name in wanted or not short}

    def cell(name: str, domain: str) -> str:
        means, edges = found[name]
        share = _share(means[domain])
        return share if short and name != first else f"{share} {_interval(edges[domain])}"

    rows = [
        [domain, str(count), *(cell(name, domain) for name in found)]
        for domain, count in result["domains"].items()
    ]
    return ["domain", "n", *found], rows if len(rows) > 1 else []


def markdown(result: Result) -> str:
    """Write a result as a page of Markdown."""
    facts = ("model", "data", "rule", "verifier", "prm", "temperature", "tokens", "seed")
    lines = [f"# {_cell(result['name'])}", ""]
    told = {key: result[key] for key in facts if result.get(key) not in (None, "")}
    lines += [f"- {key}: {_cell(value)}" for key, value in told.items()]
    for head, rows in (overview(result), of_domains(result)):
        lines += ["", *_table(head, rows)] if rows else []
    lines += ["", "Intervals: bootstrap over problems, percentiles 2.5 and 97.5 of 1000 resamples."]
    return "\n".join(lines) + "\n"


def _table(head: Sequence[str], rows: Rows) -> list[str]:
    ruler = ["---", *["---:"] * (len(head) - 1)]
    return [f"| {' | '.join(map(_cell, row))} |" for row in (head, ruler, *rows)]


def _cell(value: Any) -> str:
    return " ".join(str(value).replace("|", "\\|").split())


def _share(value: float) -> str:
    return f"{value:.1%}"


def _interval(edges: Sequence[float]) -> str:
    return f"[{edges[0]:.1%}, {edges[1]:.1%}]"
