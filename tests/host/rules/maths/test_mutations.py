r"""A change of what a reference says is never accepted: mutants of pairs that are equal.

A mutant has one sign, digit, name, accent, relation, base or unit changed.  Where the reference
leaves something open (5 does not say whose value, nor in which unit), that is not mutated.
"""

import re

import make_notations
import make_pairs
import pytest

from rlvr_jax.host.rules.maths import equivalence

SWAPS = {
    **{r"\in": r"\notin", r"\le": r"\ge", "<=": ">=", "<": ">", ">": "<", r"\ge": r"\le"},
    **{r"\cup": r"\cap", r"\lor": r"\land", r"\mid": r"\nmid", r"\equiv": r"\not\equiv"},
    **{"=": r"\ne ", " or ": " and not ", r"\forall": r"\exists", r"\sin": r"\cos"},
    **{r"\cos": r"\sin", r"\ln": r"\log_3", r"\pi": r"\phi", r"\angle": r"\triangle", "+": "-"},
    **{r"\sqrt": r"2\sqrt", r"\infty": r"-\infty", "a.m.": "p.m.", "PM": "AM", "cm": "km"},
    **{r"\pm": "+", r"\frac": r"2\frac", "!": "!!", r"\bar": r"\hat", r"\vec": r"\bar"},
    **{r"\partial x": r"\partial y", r"\int": r"2\int", r"\lim": r"\sup", r"\sum": r"\prod"},
    **{r"\binom": r"2\binom", "million": "billion", "%": "", r"\degree": r"\degree^2"},
}
WHOLE = [  # forms that nobody computes: equal to their own letters only
    *(r"x \equiv 5 \pmod{11}", r"13 \in A", r"2\mid n^2+7", r"\bar z", r"\angle ABC", r"\log_2 x"),
    *(r"\frac{\partial f}{\partial x}", "f'(x)=3x^2", r"A \cup B", r"p \lor q", "P(A)=1/4"),
    *(r"\forall x \in A", r"\int_0^1 x dx", r"\lim_{x\to 0} f(x)", r"\vec{v}=(1,2)", "mean=2"),
    *(r"x^2 \equiv 1 \mod 8", "3A7_{16}", "10 a.m.", "7:05", "a=1, b=2", r"x<1 \lor x>2"),
]
SAME_VALUE = {
    *(r"\binom{5}{3}", r"-\sin \pi", r"-\pm 3", r"-\pm 1", "-\xb13", "-0", "--0"),
    *(r"\{2,1,2\}", r"\{1,2,2\}", r"(-1)^{n-1}", r"(-1)^{n+17}"),
}
_WORD = re.compile(r"(?<![\\A-Za-z])[^\W\d_]{2,}")


def mutants(gold, answer):
    says = gold + gold.upper() + gold.lower()
    for old, new in SWAPS.items():
        for at in re.finditer(
            re.escape(old) + (r"(?![A-Za-z])" if old[-1].isalpha() else ""), answer
        ):
            if old in gold or old.startswith("\\") or "=" in gold:
                yield answer[: at.start()] + new + answer[at.end() :]
    for at in re.finditer(r"\d", answer) if "_" in gold or "_" not in answer else ():
        yield answer[: at.start()] + str((int(at[0]) + 1) % 10) + answer[at.end() :]
        if not answer[at.end() : at.end() + 1].isdigit():
            yield answer[: at.end()] + "7" + answer[at.end() :]
    for at in re.finditer(r"(?<![A-Za-z\\])[a-zA-Z](?![A-Za-z])", answer):
        if at[0] in says and ("=" in gold or "=" not in answer) and "degrees" not in answer:
            other = "q" if at[0] in "zZdheD" else chr(ord(at[0]) + 1)
            yield answer[: at.start()] + other + answer[at.end() :]
            yield answer[: at.start()] + r"\bar " + answer[at.start() :]
            yield answer[: at.end()] + "'" + answer[at.end() :]
    if not _WORD.search(answer) and ("=" in gold or "=" not in answer):
        yield "-" + answer
        yield answer + " + 1"


def pairs():
    right = [pair for family in make_notations.RIGHT.values() for pair in family]
    listed = [*make_pairs.RIGHT, *right]
    golds = [gold for gold, _ in listed if not re.search(r"[A-Za-z]{3}", gold.replace("\\", " \\"))]
    prose = re.compile(r"(?<!\\)\b(?:is|the|so|we|answer|box\w*)\b|\*\*|[><]|\)\s|\"", re.I)
    both = [(gold, gold) for gold in (*golds, *WHOLE)]
    both += [(gold, answer) for gold, answer in listed if not prose.search(answer)]
    return [pair for pair in dict.fromkeys(both) if equivalence.are_equal(*pair)]


@pytest.fixture(scope="module")
def tried():
    rows = [(gold, mutant) for gold, answer in pairs() for mutant in mutants(gold, answer)]
    return list(dict.fromkeys(rows))


def test_no_mutant_is_accepted(tried):
    wrong = [row for row in tried if row[1] not in SAME_VALUE and equivalence.are_equal(*row)]
    assert len(tried) >= 3000
    assert not wrong
