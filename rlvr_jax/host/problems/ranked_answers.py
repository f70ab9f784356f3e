r"""This module writes preference items whose best response is known: answers to the toy tasks.

A response has a manner and a fault.  The manners of all responses of an item are drawn alike, so
that length and layout do not give the best one away; the faults decide the grade:

    grade  fault        the response
    6      none         right lines and the right result (manner `worked`)
    5      none         the same between empty phrases (`verbose`)
    4      none         a right result with nothing to support it (`bare`)
    3      slip         the right result, and one wrong line before it
    2      incomplete   ends before the result
    1      wrong        a wrong result: a near miss (hard), or far off (easy)
    0      broken       the words are in disorder

An item has a demonstration: a judgement in three lines, `Criteria:`, `Analysis:` and `Scores:`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from rlvr_jax.host.problems import task_answers
from rlvr_jax.host.problems.dataset import Record
from rlvr_jax.host.problems.preference import Item
from rlvr_jax.host.problems.tasks import TASKS, parse_options
from rlvr_jax.host.problems.worked_answers import spoil_line, write_lines, write_lines_to

MOST = 6  # responses of an item
MANNERS = {"worked": 6, "verbose": 5, "bare": 4}  # manner -> grade of a response without fault
FAULTS = {"slip": 3, "incomplete": 2, "wrong": 1, "broken": 0}
SCORES = (1, 2, 3, 5, 7, 8, 10)  # the judge's score of each grade
EASY = ("wrong", "wrong", "wrong", "incomplete", "broken")
HARD = ("wrong", "wrong", "slip", "none")
PHRASES = ("Let me see.", "This is a good question.", "I think step by step.", "Now I am sure.")
CRITERIA = {
    "number": "right result 6, right steps 3, short 1",
    "choice": "right relation 6, true facts 3, short 1",
    "bool": "valid conclusion 6, true premises 3, short 1",
}
RELATIONS = ("uncle", "aunt", "cousin")  # that no question offers
PATIENCE = 200  # draws of a response before its item is drawn anew


@dataclass(frozen=True)
class Answer:
    """An Answer is a response with what is true of it.

    `detail` is the wrong result or the wrong line; "" for the other faults.
    """

    text: str
    manner: str
    fault: str = "none"
    detail: str = ""

    @property
    def grade(self) -> int:
        return MANNERS[self.manner] if self.fault == "none" else FAULTS[self.fault]


def build_item(record: Record, counts: tuple[int, int], error_rate: float, seed: int) -> Item:
    """Build the preference item of a record of a toy task.

    `counts` are the least and the most responses.  Seed and question alone decide the item.  The
    demonstration is wrong with probability `error_rate`: it misjudges one response, so that the
    best one is not strictly on top.
    """
    rng = random.Random(f"preferences/{seed}/{record['task']}/{record['question']}")
    number = rng.randint(*counts)
    hard = rng.random() < 0.5
    answers = None
    while answers is None:
        answers = _draw_single(record, hard, rng) if number == 1 else None
        answers = answers or _draw_several(record, number, hard, rng)
    grades = [answer.grade for answer in answers]
    best = grades.index(max(grades)) if number > 1 else int(answers[0].fault == "none")
    others = sorted(grades)[-2:-1]
    misjudged = rng.randrange(number) if rng.random() < error_rate else None
    return Item(
        query=record["question"],
        responses=tuple(answer.text for answer in answers),
        best=best,
        reference=record["reference"],
        quality=tuple(map(float, grades)),
        strength=_name_gap(max(grades) - others[0]) if others else "",
        criteria=CRITERIA[TASKS[record["task"]].kind],
        domain=f"{record['task']}/{'hard' if hard else 'easy'}",
        demonstration=write_judgement(record, answers, misjudged),
    )


def write_judgement(record: Record, answers: Sequence[Answer], misjudged: int | None = None) -> str:
    r"""Write a judgement of the answers in three lines.

    `misjudged` is the index of an answer that is judged wrongly: the best one is called wrong, and
    any other is called right.
    """
    clauses = [_describe(answer) for answer in answers]
    scores = [SCORES[answer.grade] for answer in answers]
    if len(answers) == 1:
        scores = [int(answers[0].fault == "none")]
    if misjudged is not None:
        called_right = scores[misjudged] < max(max(scores), 1)
        clauses[misjudged] = "right" if called_right else "wrong result"
        low, high = (0, 1) if len(answers) == 1 else (min(SCORES), max(SCORES))
        scores = [min(score, max(high - 1, 1)) for score in scores]  # none equals a false best
        scores[misjudged] = high if called_right else low
    lines = write_lines(record) if TASKS[record["task"]].kind == "number" else []
    result = ", so ".join([", ".join(lines), record["answer"]] if lines else [record["answer"]])
    judged = "; ".join(f"{i}: {clause}" for i, clause in enumerate(clauses, 1))
    return (
        f"Criteria: {CRITERIA[TASKS[record['task']].kind]}\n"
        f"Analysis: {result}; {judged}\n"
        f"Scores: \\boxed{{{', '.join(map(str, scores))}}}"
    )


def _draw_single(record: Record, hard: bool, rng: random.Random) -> list[Answer]:
    """Draw one answer, right in one half of the cases."""
    manner = rng.choice(list(MANNERS))
    if rng.random() < 0.5:
        return [_write(record, manner, "none", "", rng)]
    fault = "wrong" if hard else rng.choice(EASY)
    return [_write(record, manner, fault, rng.choice(_wrong_results(record, hard, rng)), rng)]


def _draw_several(
    record: Record, number: int, hard: bool, rng: random.Random
) -> list[Answer] | None:
    """Draw distinct answers with one best, at a uniform place; None if that needs another try."""
    manners = [rng.choice(list(MANNERS)) for _ in range(number)]
    best, wrong = rng.randrange(number), _wrong_results(record, hard, rng)
    answers = {best: _write(record, manners[best], "none", "", rng)}
    for place, manner in enumerate(manners):
        if place == best:
            continue
        for _ in range(PATIENCE):
            fault = rng.choice(HARD if hard else EASY)
            other = _write(record, manner, fault, rng.choice(wrong), rng)
            fits = other.grade < answers[best].grade and (manner != "bare" or fault != "slip")
            if fits and other.text not in [a.text for a in answers.values()]:
                answers[place] = other
                break
        else:
            return None
    return [answers[place] for place in range(number)]


def _wrong_results(record: Record, hard: bool, rng: random.Random) -> list[str]:
    """Draw one to three wrong results in canonical form, from which an item takes its own.

    So a wrong result may be the most frequent one.  The right number has any place among them.
    """
    gold, kind = record["answer"], TASKS[record["task"]].kind
    if kind == "bool":
        return ["No" if gold == "Yes" else "Yes"] if hard else ["maybe"]
    if kind == "choice":
        options = [text for text in parse_options(record).values() if text != gold]
        return options if hard else list(RELATIONS)
    distances = (1, 2, 10) if hard else tuple(range(5, 30))
    signed = record["task"] in ("sum", "chain")  # elsewhere a sign would give the mistake away
    lower = [d for d in distances if signed or d <= int(gold)]
    number = rng.randint(1, 3)
    below = min(rng.randint(0, number), len(lower))
    shifts = [-d for d in rng.sample(lower, below)] + rng.sample(distances, number - below)
    return [str(int(gold) + shift) for shift in shifts]


def _write(record: Record, manner: str, fault: str, wrong: str, rng: random.Random) -> Answer:
    """Write an answer with a fault; `wrong` is the result that it gives if that is the fault."""
    result = wrong if fault == "wrong" else record["answer"]
    lines, detail = write_lines(record), ""
    if fault == "wrong":
        lines, detail = write_lines_to(record, wrong, rng), wrong
    elif fault == "slip":
        lines, detail = spoil_line(record, lines, rng)
    if manner == "bare":
        lines, result = [], _render(record, result, rng)
    elif rng.random() < 0.5:
        result = f"the answer is {result}"
    if manner == "verbose":
        first, second = rng.sample(PHRASES, 2)
        lines = [first, *lines, second]
    text = "\n".join([*lines, result])
    if fault == "incomplete":
        text = _cut(lines, rng)
    elif fault == "broken":
        text = _shuffle(text, record, rng)
    return Answer(text, manner, fault, detail)


def _render(record: Record, result: str, rng: random.Random) -> str:
    """Write a bare result in a random surface form, also one that the task never has."""
    known = TASKS[record["task"]].kind == "number" or result in ("Yes", "No")
    known |= result in parse_options(record).values()
    if known:
        return task_answers.render(record, result, rng)
    return rng.choice(("{}", "the answer is {}", "the {}")).format(result)


def _cut(lines: list[str], rng: random.Random) -> str:
    """Return a response without its result, and without the end of its last line of work."""
    if not lines:
        return rng.choice(("the answer is", "answer:", "it is", "the result is"))
    last = max(i for i, line in enumerate(lines) if line not in PHRASES)
    return "\n".join([*lines[:last], lines[last].rpartition(" ")[0], *lines[last + 1 :]])


def _shuffle(text: str, record: Record, rng: random.Random) -> str:
    """Return the words of a response in an order that nobody can read a result from.

    The lines keep their numbers of words.
    """
    lines = [line.split() for line in text.split("\n")]
    if sum(map(len, lines)) < 3:
        lines = [["the", "answer", "is", *lines[0]]]
    ordered = [word for line in lines for word in line]
    while True:
        words = iter(rng.sample(ordered, len(ordered)))
        shuffled = "\n".join(" ".join(next(words) for _ in line) for line in lines)
        if shuffled.split() != ordered and task_answers.canonical(shuffled, record) is None:
            return shuffled


def _describe(answer: Answer) -> str:
    """Say in a short clause what is right or wrong with an answer."""
    if answer.fault == "none":
        return {"worked": "right", "verbose": "right but long", "bare": "right, no steps"}[
            answer.manner
        ]
    return {
        "slip": f"wrong line {answer.detail}",
        "incomplete": "no result",
        "wrong": f"{answer.detail} is wrong",
        "broken": "not readable",
    }[answer.fault]


def _name_gap(gap: int) -> str:
    return "slightly better" if gap < 2 else "better" if gap < 4 else "much better"
