"""Before the first stage, references are tried with the rules that will grade with them.

A rule that does not accept the reference of a row would probably give 0 to every answer.  A sample
of the rows is tried.  A warning gives the number of such rows and shows the first; the run goes on,
because a reference may have another form than answers have.
"""

from collections.abc import Iterator

from rlvr_jax.config import Config
from rlvr_jax.host import rules
from rlvr_jax.host.problems import dataset
from rlvr_jax.host.problems.dataset import Record
from rlvr_jax.host.rules import jobs
from rlvr_jax.host.runs import log
from rlvr_jax.host.workers import pool
from rlvr_jax.stages.workspace import Workspace

SAMPLE = 32  # problems of each split whose references are graded
SECONDS = 0.5  # of processor time for one grade; a slow one says nothing about the reference
# Kinds of rules whose reference, if any, is no answer: tests, a schema, a pattern, a language.
OTHERS = ("code", "json", "regex", "language", "format", "overlong", "repetition")


def check_references(ws: Workspace) -> None:
    """Try references of each split with the rules of its stages, and print warnings."""
    with pool.Pool(2, SECONDS) as workers:
        for split, rule in _graded_splits(ws.cfg):
            source = dataset.open_split(ws.data, split)
            records = [source[i] for i in range(0, len(source), max(1, len(source) // SAMPLE))]
            records = [r for r in records[:SAMPLE] if rule != "task" or _is_of_file(r)]
            if rejected := find_rejected(records, rule, workers):
                log.say(_warning(split, rule, rejected, len(records)))


def find_rejected(records: list[Record], rule: str, workers: pool.Pool) -> list[Record]:
    """Find the records whose reference and worked solution both get 0 from a rule.

    The reference is tried with and without a box.  A timeout is no rejection.
    """
    for form in ("\\boxed{{{reference}}}", "{demonstration}", "{reference}"):
        texts = [form.format_map(record) for record in records]
        results = workers.map(jobs.grading_jobs(texts, records, rule))
        records = [
            record
            for record, result in zip(records, results, strict=True)
            if result.score == 0 and result.status != "timeout"
        ]
    return records


def _graded_splits(cfg: Config) -> Iterator[tuple[str, str]]:
    """Yield each split with each kind of rule that grades its problems, once.

    A user's own rule is not tried, because it may want another form of answers.
    """
    known = set(rules.KINDS) - set(OTHERS)
    pairs = [
        (problems.split, rule or "task")
        for stage in cfg.stages
        for problems in stage.splits
        for rule in stage.rules
    ]
    yield from dict.fromkeys((split, rule) for split, rule in pairs if rule in known)


def _is_of_file(record: Record) -> bool:
    """Return whether a problem comes from a file, and not from a task or reasoning-gym."""
    return record["task"].startswith(("file:", "tfds:"))


def _warning(split: str, rule: str, rejected: list[Record], total: int) -> str:
    first = rejected[0]
    return (
        f"warning: rule {rule} gives 0 to the reference itself in {len(rejected)} of {total} "
        f"problems of split {split} that were tried; the first is {_short(first['question'])} "
        f"with the reference {_short(first['reference'])}"
    )


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
