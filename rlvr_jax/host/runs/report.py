"""The report of a run is one self-contained HTML page that opens without a network.

The page treats everything in a run folder as untrusted, because models write the responses and
data sets the questions. Text goes into the page as JSON in a data block without any `<`, the script
sets text by `textContent` only, and a content security policy allows no script but the page's own.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from rlvr_jax.host.files import whole_file
from rlvr_jax.host.runs import log

MAX_POINTS = 2000  # points of one curve
MAX_COLUMNS = 240  # columns of a histogram strip: more would be thinner than a pixel
MAX_SAMPLE_FILES = 20
MAX_ROLLOUTS = 200  # rollouts of one step
MAX_REMARKS = 50
MAX_TEXT = 8000  # characters of one field
MAX_PIECES = 2048  # tokens of one rollout
MAX_BYTES = 24_000_000  # size of the data block: a page of this size still opens on a laptop

METRIC_NOTES: dict[str, str] = {
    "loss": "Falls fast, then flattens; a rise means the learning rate is too high.",
    "accuracy": "Rises towards 1; held-out accuracy in the evaluations is the one that counts.",
    "eval/accuracy": "Graded by the oracle, not by the reward: it should rise with the reward.",
    "eval/greedy": "Rises with the sampled accuracy and stays a little above it.",
    "eval/pass_at_k": "Right at least once among k; a fall as accuracy rises is lost variety.",
    "eval/exact_match": "The strictest reading; a widening gap to accuracy is drift in format.",
    "eval/verifier_accuracy": "Stays flat: a fall while the reward rises is reward hacking.",
    "eval/false_positive": "Below 5 %: a policy learns to find wrong answers that are accepted.",
    "eval/false_negative": "Below 10 %: rejected right answers cost learning signal, not safety.",
    "reward/mean": "Rises and flattens; compare it with eval/accuracy, the gap is the hacked part.",
    "reward/raw_mean": "The reward before normalisation and shaping; follows reward/mean.",
    "reward/std": "Above 0: with no spread there is nothing to learn from.",
    "reward/greedy": "Rises with reward/mean and stays above it: ReMax's baseline.",
    "difficulty/unseen": "Falls to 0 as every problem is tried once.",
    "difficulty/unsolved": "Falls; what stays has no right answer to learn from yet.",
    "difficulty/solved": "Rises; its share of the step (drawn_solved) is spent on nothing new.",
    "difficulty/forced": "0: problems of weight 0 that were drawn because no others were left.",
    "reward/frac_zero_std": "Below 60 %: groups that are all right or all wrong teach nothing.",
    "advantage/mean": "Close to 0: advantages are centred in their group or batch.",
    "advantage/max": "A few units; far above 5, one rare success steers the whole update.",
    "policy/loss": "Hovers around 0; its size says little, jumps and drifts do.",
    "policy/grad_norm": "Steady and mostly below the clipping threshold, with rare single spikes.",
    "policy/lr": "Follows the schedule: warm-up, then flat or falling.",
    "policy/entropy": "Falls slowly; a plunge towards 0 is collapse, a climb is noise winning.",
    "policy/kl": "Grows slowly from 0 and levels off; far above 1 it has left the reference.",
    "policy/approx_kl": "Below 0.02 between two updates; 0 when every batch is used once.",
    "policy/clip_frac": "Below 20 %; 0 when every batch is used once.",
    "completion/length_mean": "Drifts slowly; racing up or down is length being rewarded.",
    "completion/truncated_frac": "Below 10 %: above it, raise the response limit.",
    "mismatch/logprob_diff_mean": "<= 1e-6 in float32, about 1e-3 in bfloat16.",
    "mismatch/logprob_diff_max": "<= 1e-5 in float32: sampler and trainer are the same function.",
    "mismatch/ess": "Above 90 %: the share of tokens that count as drawn from the policy.",
    "mismatch/ratio": "1 within rounding: the sampler's and the trainer's probabilities agree.",
    "grm/valid_frac": "Above 90 %: judgements with one score for each response, in range.",
    "grm/tie_frac": "Below 20 %: judgements that give their top score to several responses.",
    "grm/reward": "The mean reward that a generative reward model's votes give.",
    "grm/votes": "Votes that count, for each response; fewer than asked are invalid or left out.",
    "grm/unjudged_frac": "Below 5 %: responses without a vote, whose reward is 0.",
    "grm/length": "Tokens of a judgement; a fall while the reward rises is a shortcut.",
    "grm/rollout_useful": "The share of decoding in which judgements were written, not waited for.",
    "grm/disagree_frac": "How often the rule and the votes disagree about a response.",
    "verifier/p1_mean": "Follows the accuracy; pinned near 1 means the verifier is fooled.",
    "verifier/mass01": "Above 95 %: the verifier answers with a verdict and nothing else.",
    "verifier/ambiguous_frac": "Below 5 %: verdicts whose mass was too low and count as 0.",
    "verifier/blocked_frac": "Below 2 %: answers refused because they attack the verifier.",
    "verifier/timeout_frac": "0; a timeout scores 0, so a slow checker punishes right answers.",
    "advantage/correlation": "Above 0: token rewards agree with the outcome rewards.",
    "advantage/process_std": "Below the outcome's: token rewards never stand alone.",
    "prm/loss": "Falls and then hovers: the PRM keeps up with the policy.",
    "prm/acc": "Above 60 %: the PRM ranks right responses above wrong ones.",
    "prm/reward_mean": "Near 0 and bounded; a steady drift means beta is too large.",
    "router/balance": "Near the number of experts per token; a climb is a few experts taking over.",
    "router/busiest": "A few times 1 / experts; towards 1 / (experts per token) it has collapsed.",
    "value/loss": "Falls and then hovers: the squared error of the value head per token, halved.",
    "value/explained": "Rises from 0 towards 1; below 0 the values are worse than none.",
    "value/mean": "Follows the mean reward after normalisation; a drift away is a broken head.",
    "time/step": "Flat after the first step; slow steps later are compilation or host rewards.",
    "perf/tokens_per_s": "Flat or rising; a fall with constant lengths is padding or a recompile.",
    "perf/compiles": "Stops growing after the first steps: one compile for each bucket.",
    "reward/histogram": "Mass moves upwards and out of the middle; all of it in the top bin is "
    "either a solved task or a fooled verifier.",
}
"""For each metric, one sentence on its course in a healthy run."""

# The limits (low, high) in those sentences; the page marks a metric that was outside at last.
# The mismatch limit is that of bfloat16, because the page does not know the precision of a run.
HEALTHY: dict[str, tuple[float | None, float | None]] = {
    "eval/false_positive": (None, 0.05),
    "eval/false_negative": (None, 0.10),
    "reward/std": (1e-6, None),
    "reward/frac_zero_std": (None, 0.6),
    "advantage/mean": (-0.1, 0.1),
    "policy/approx_kl": (None, 0.02),
    "policy/clip_frac": (None, 0.2),
    "policy/kl": (None, 1.0),
    "completion/truncated_frac": (None, 0.1),
    "mismatch/logprob_diff_max": (None, 0.05),
    "grm/valid_frac": (0.9, None),
    "grm/tie_frac": (None, 0.2),
    "grm/unjudged_frac": (None, 0.05),
    "verifier/mass01": (0.95, None),
    "verifier/ambiguous_frac": (None, 0.05),
    "verifier/blocked_frac": (None, 0.02),
    "verifier/timeout_frac": (None, 0.0),
    "prm/acc": (0.6, None),
}

Json = dict[str, Any]
_SECRET = re.compile(r"(?im)^([^:#\n]*(?:api_?key|secret|password|auth_?token)[^:\n]*:[ \t]*)\S.*$")


def write_report(run: Path) -> Path:
    """Write `report.html` into the run folder and return its path.

    Raises:
      FileNotFoundError: `run` is not a folder, or has no config, metrics and evaluations.
    """
    run = Path(run)
    if not run.is_dir():
        raise FileNotFoundError(f"no run folder at {run}")
    if not any((run / n).exists() for n in ("config.resolved.yaml", "metrics.jsonl", "eval")):
        raise FileNotFoundError(f"{run} is not a run folder: no config, metrics or evaluations")
    name = run.resolve().name
    metrics = run / "metrics.jsonl"
    stages, damaged = load_metrics(metrics)
    data: Json = {
        "name": name,
        "written": _written(metrics if metrics.exists() else run),
        "config": load_config(run / "config.resolved.yaml"),
        "damaged": damaged,
        "stages": stages,
        "evals": load_evals(run / "eval"),
        "samples": load_samples(run / "samples"),
        "remarks": load_remarks(run / "remarks.json"),
        "notes": METRIC_NOTES,
        "healthy": HEALTHY,
    }
    rollouts = MAX_ROLLOUTS
    while len(block := embed(data)) > MAX_BYTES and rollouts > 1:
        rollouts //= 2  # long responses with a value for each token can exceed any page size
        data["samples"] = [f | {"rows": f["rows"][:rollouts]} for f in data["samples"]]
    target = run / "report.html"
    draft = target.with_suffix(".html.part")
    draft.write_text(render(name, block), encoding="utf-8", newline="\n")
    whole_file.put_in_place(draft, target)  # so that a browser never opens an incomplete page
    return target


def render(name: str, block: str) -> str:
    """Return the HTML page: the template with a title, a data block and the script's hash."""
    page = resources.files("rlvr_jax.host.runs").joinpath("report_page.html").read_text("utf-8")
    script = page.split("<script>", 1)[1].split("</script>", 1)[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    title = html.escape(name).encode("utf-8", "replace").decode()
    fill = {"TITLE": title, "HASH": f"sha256-{digest}", "DATA": block}
    # One pass, so that a placeholder inside the text of the run stays text.
    return re.sub("%%(TITLE|HASH|DATA)%%", lambda match: fill[match[1]], page)


def embed(data: Json) -> str:
    """Encode data as JSON that is ASCII and has no character of HTML markup."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def load_metrics(path: Path) -> tuple[list[Json], int]:
    """Load a metrics.jsonl: its stages in order of appearance, and the number of damaged lines."""
    stages: dict[str, dict[float, Json]] = {}
    damaged = 0
    for row in _rows(path):
        if row is None:
            damaged += 1
            continue
        steps = stages.setdefault(_text(row.get("stage") or "run"), {})
        step = _number(row.get("step"))
        # A resumed run may repeat the steps after its checkpoint; the later line counts.
        steps[len(steps) if step is None else step] = row
    return [_stage(name, steps) for name, steps in stages.items()], damaged


def _stage(name: str, steps: dict[float, Json]) -> Json:
    """Return the curve of every numeric metric of a stage, and its histograms."""
    order = sorted(steps)
    kept = spread(len(order), MAX_POINTS)
    keys = dict.fromkeys(key for step in order for key in steps[step])
    series: dict[str, list[float | None]] = {}
    histograms: dict[str, Json] = {}
    nonfinite: dict[str, int] = {}
    for key in keys:
        if key in ("stage", "step"):
            continue
        values: list[Any] = [steps[step].get(key) for step in order]
        lists = [i for i, v in enumerate(values) if isinstance(v, list) and v]
        if lists:
            lists = [lists[i] for i in spread(len(lists), MAX_COLUMNS)]
            bins = [[max(_number(x) or 0.0, 0.0) for x in values[i][:64]] for i in lists]
            histograms[key] = {"step": [order[i] for i in lists], "bins": bins}
            continue
        column = [_number(v) for v in values]
        if any(v is not None for v in column):
            series[key] = [column[i] for i in kept]
        if count := sum(key in steps[step] and _nonfinite(steps[step][key]) for step in order):
            nonfinite[key] = count
    return {
        "name": name,
        "lines": len(order),
        "step": [order[i] for i in kept],
        "series": series,
        "histograms": histograms,
        "nonfinite": nonfinite,
    }


def load_evals(folder: Path) -> list[Json]:
    """Load the evaluations by step; at the same step, "before" comes first and "after" last."""
    evals: list[Json] = []
    for path in sorted(folder.glob("*.json")):
        try:
            row = json.loads(path.read_text(encoding="utf-8", errors="replace"))
        except (ValueError, RecursionError):
            continue
        if not isinstance(row, dict):
            continue
        entry: Json = {"name": _text(row.get("name") or path.stem)}
        entry |= {key: _number(row.get(key)) for key in ("step", "n", "samples")}
        for key in ("accuracy", "greedy", "exact_match", "verifier"):
            table = row.get(key)
            table = table if isinstance(table, dict) else {"all": table}
            numbers = {_text(k): _number(v) for k, v in table.items()}
            entry[key] = {k: v for k, v in numbers.items() if v is not None}
        evals.append(entry)

    def place(entry: Json) -> tuple[float, int, str]:
        name = entry["name"].lower()
        return entry["step"] or 0.0, ("after" in name) - ("before" in name), name

    return sorted(evals, key=place)


def load_remarks(path: Path) -> list[str]:
    """Load what the run said that stands out (`folder.Run.remark`); nothing if it is damaged."""
    try:
        remarks = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError, RecursionError):
        return []
    found = remarks if isinstance(remarks, list) else []
    return [_text(remark)[:MAX_TEXT] for remark in found[:MAX_REMARKS]]


def load_samples(folder: Path) -> list[Json]:
    """Load rollouts of at most MAX_SAMPLE_FILES evenly spaced sample files, in order of steps."""

    def place(path: Path) -> tuple[str, int]:
        match = re.fullmatch(r"(.*?)(\d+)", path.stem)
        return (match[1], int(match[2][-15:])) if match else (path.stem, -1)

    paths = sorted(folder.glob("*.jsonl"), key=place)
    files: list[Json] = []
    for path in (paths[i] for i in spread(len(paths), MAX_SAMPLE_FILES)):
        rows = [row for row in _rows(path) if row is not None]
        if rows:
            prefix, number = place(path)
            step = _number(rows[0].get("step"))
            files.append(
                {
                    "label": prefix.removesuffix("_").removesuffix("step").strip("_"),
                    "step": (number if number >= 0 else None) if step is None else step,
                    "total": len(rows),
                    "rows": [_rollout(row) for row in rows[:MAX_ROLLOUTS]],
                }
            )
    return files


def _rollout(row: Json) -> Json:
    """Return one rollout, cut to the maximum sizes, with finite numbers only."""
    out: Json = {key: _text(row.get(key))[:MAX_TEXT] for key in ("domain", "question", "reference")}
    out |= {key: _number(row.get(key)) for key in ("reward", "advantage", "oracle")}
    out["truncated"] = row.get("truncated") is True
    response = _text(row.get("response"))
    pieces, values = row.get("pieces"), row.get("piece_values")
    if isinstance(pieces, list) and isinstance(values, list):
        out["pieces"] = [_text(piece)[:MAX_TEXT] for piece in pieces[:MAX_PIECES]]
        out["values"] = [_number(value, 3) for value in values[: len(out["pieces"])]]
        out["cut"] = len(pieces) > MAX_PIECES
        # The page joins the pieces; it needs the response only if they give another text.
        response = "" if "".join(map(_text, pieces)) == response else response
    out["response"] = response[:MAX_TEXT]
    out["cut"] = out.get("cut", False) or len(response) > MAX_TEXT
    return {k: v for k, v in out.items() if v is not None and v is not False and v != ""}


def load_config(path: Path) -> str | None:
    """Load the resolved config as text, without the values of keys that look like secrets."""
    if not path.is_file():
        return None
    return _SECRET.sub(r"\1(hidden)", path.read_text(encoding="utf-8", errors="replace"))


def spread(count: int, limit: int) -> list[int]:
    """Return at most `limit` evenly spaced indices below `count`, with the first and the last."""
    if count <= limit:
        return list(range(count))
    return [round(i * (count - 1) / (limit - 1)) for i in range(limit)]


def _rows(path: Path) -> Iterator[Json | None]:
    """Iterate over the objects of a JSONL file; a damaged line gives None.

    The last line gives nothing if it is damaged, because the run may still be writing it.
    """
    if not path.is_file():
        return
    lines = path.read_bytes().split(b"\n")
    for i, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            yield row
        elif i < len(lines) - 1:
            yield None


def _number(value: object, digits: int = 6) -> float | int | None:
    """Return a number rounded to `digits` significant digits; None if it is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(f"{value:.{digits}g}") if isinstance(value, float) else float(value)
    except OverflowError:
        return None
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() and abs(number) < 1e15 else number


def _nonfinite(value: object) -> bool:
    """Return whether a metric is not finite; the log writes such a number as null."""
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def _text(value: object) -> str:
    """Return any value as text; chat messages and other structures become JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _written(path: Path) -> str:
    """Return the time of a file's last change, in UTC, to the minute."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M UTC")


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report of the run folder in `argv`; return the exit code, 2 if there is no run."""
    parser = argparse.ArgumentParser(prog="python -m rlvr_jax.report", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN_FOLDER", help="the folder of a run")
    try:
        print(write_report(parser.parse_args(argv).run))
    except OSError as error:
        log.say_aside(f"error: {error}")
        return 2
    return 0
