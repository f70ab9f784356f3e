"""The evaluations of a run, and the audits of its rewards."""

from pathlib import Path

from rlvr_jax.host.report.records import Json, load_json, number, numbers, text

# How answers are chosen or compared -> the words for it.
WAYS = {
    "accuracy": "sampled",
    "greedy": "greedy",
    "pass_at_k": "pass@k",
    "majority": "majority of k",
    "weighted": "weighted votes",
    "best_of_k_min": "best of k by line",
    "best_of_k_sum": "best of k by sum",
    "weighted_verifier": "votes weighted by the verifier",
    "best_of_k_verifier": "best of k by the verifier",
    "exact_match": "exact match",
}
AUDIT = ("false_positive", "false_negative", "youden", "dark_current", "worst")


def load_evaluations(folder: Path) -> list[Json]:
    """Load the evaluations by step; at the same step, "before" comes first and "after" last."""
    found: list[Json] = []
    for path in sorted(folder.glob("*.json")):
        row = load_json(path)
        if not isinstance(row, dict):
            continue
        entry: Json = {"name": text(row.get("name") or path.stem), "file": path.stem}
        entry |= {key: number(row.get(key)) for key in ("step", "n", "samples")}
        entry["policy"] = text(row.get("policy"))
        entry["verifier"] = numbers(row.get("verifier"))
        entry["ways"] = {way: numbers(row[way]) for way in WAYS if row.get(way) is not None}
        entry["ways"] = {way: table for way, table in entry["ways"].items() if table}
        entry["intervals"] = _intervals(row.get("intervals"))
        entry["audit"] = _audit(row.get("audit"))
        found.append(entry)

    def place(entry: Json) -> tuple[float, int, str]:
        name = entry["name"].lower()
        return entry["step"] or 0.0, ("after" in name) - ("before" in name), name

    return sorted(found, key=place)


def shown_ways(evaluations: list[Json]) -> dict[str, str]:
    """Return the ways that a page shows; where only greedy answers were asked, they are all."""
    if evaluations and all(entry["samples"] == 0 for entry in evaluations):
        return {"accuracy": WAYS["greedy"], "exact_match": WAYS["exact_match"]}
    return WAYS


def accuracy(entry: Json, way: str = "accuracy") -> float | None:
    """Return the accuracy of an evaluation over all domains."""
    return entry["ways"].get(way, {}).get("all")


def audits(stages: list[Json], evaluations: list[Json]) -> list[Json]:
    """Return the results of the audits of the rewards: before a stage, and in an evaluation."""
    rows = []
    for stage in stages:
        values = {
            key: seen[-1]
            for key, column in stage["series"].items()
            if key.startswith("audit/") and (seen := [v for v in column if v is not None])
        }
        if values:
            rows.append({"where": f"reward of {stage['name']}, before it began", **_audit(values)})
    rows += [
        {"where": f"verifier in {entry['name']}", **entry["audit"]}
        for entry in evaluations
        if entry["audit"]
    ]
    return rows


def _intervals(table: object) -> dict[str, list[float | int]]:
    """Return the 95 % interval over all domains of each way, where the evaluation has it."""
    found = {}
    for way, by_domain in table.items() if isinstance(table, dict) else ():
        edges = by_domain.get("all") if isinstance(by_domain, dict) else None
        low_high = [number(edge) for edge in edges] if isinstance(edges, list) else []
        if way in WAYS and len(low_high) == 2 and None not in low_high:
            found[way] = [edge for edge in low_high if edge is not None]
    return found


def _audit(table: object) -> Json:
    values = numbers(table) if isinstance(table, dict) else {}
    return {name: values[key] for name in AUDIT if (key := f"audit/{name}") in values}
