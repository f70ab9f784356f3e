"""`stage: rounds` in a config stands for the stages in which a verifier learns in rounds.

    - stage: rounds
      rounds: 2                # how often the verifier learns and pays the policy
      policy: sft              # where the policy starts; left out: sft
      explore: {steps: 40}     # rl by a rule on the label problems; left out: the policy's samples
      label: {judge: ...}      # who gives the verdicts
      verifier: {steps: 800}
      rl: {steps: 100}         # the main rl, paid by the verifier, on other problems

becomes `explore`, `label`, `verifier` and `rl`, as in arXiv 2503.23829, section 4: answers are
explored and judged, the verifier learns the verdicts, and the policy learns from the verifier.
Each further round adds `label2`, `verifier2`, `rl2` and so on: the judge sees answers of the newest
policy to the label problems, the verifier goes on from its last state with the verdicts of all
rounds, and the policy goes on from its own.

A section says what its stages set; `further` holds keys that replace those of a section from the
second round on.  With `further: {label: {limit: 200}}` the judge sees only the 200 answers of each
round of which the last verifier was least sure.
"""

from __future__ import annotations

import copy
from typing import Any

from rlvr_jax.host.runs.config_text import ConfigError

Tree = dict[str, Any]
SECTIONS = ("explore", "label", "verifier", "rl")
KEYS = ("stage", "rounds", "policy", *SECTIONS, "further")
MOST = 20
# Wrong answers that no policy has given yet, and as many verdicts 0 as 1.
NEGATIVES = {
    "keys": 0.02,
    "openings": 0.02,
    "cuts": 0.1,
    "near_misses": 0.3,
    "strangers": 0.1,
    "hedges": 0.1,
}
BALANCE = "up"


def expand_rounds(tree: Tree) -> Tree:
    """Return a config's tree in which each stage `rounds` is replaced by the stages it stands for.

    Raises:
      ConfigError: a key of such a stage is unknown, or a value is of another kind.
    """
    stages = tree.get("stages")
    if not isinstance(stages, list):
        return tree
    expanded: list[Any] = []
    for place, item in enumerate(stages):
        named = isinstance(item, dict) and item.get("stage") == "rounds"
        expanded += _expand(item, f"stages.{place} (rounds)") if named else [item]
    return tree | {"stages": expanded}


def _expand(given: Tree, where: str) -> list[Tree]:
    for key in given:
        if key not in KEYS:
            raise ConfigError(f"{where}: unknown key {key!r}; known are {', '.join(KEYS[1:])}")
    rounds = given.get("rounds", 1)
    if type(rounds) is not int or not 1 <= rounds <= MOST:
        raise ConfigError(f"{where}.rounds: needs a number from 1 to {MOST}, not {rounds!r}")
    further = given.get("further", {})
    for key, section in [*((k, given[k]) for k in SECTIONS if k in given), ("further", further)]:
        if not isinstance(section, dict):
            raise ConfigError(f"{where}.{key}: write keys of the stage, such as {{steps: 100}}")
    policy = str(given.get("policy", "sft"))
    stages = []
    if "explore" in given:
        fixed = {"stage": "rl", "name": "explore", "policy": policy, "split": "label"}
        rule = {"reward": {"source": "rule"}, "collect": 1.0}
        stages.append(rule | copy.deepcopy(given["explore"]) | fixed)
    for number in range(1, rounds + 1):
        sections = {key: copy.deepcopy(given.get(key, {})) for key in SECTIONS}
        if number > 1:
            for key, section in further.items():
                if key not in SECTIONS[1:] or not isinstance(section, dict):
                    raise ConfigError(f"{where}.further.{key}: takes label, verifier and rl")
                sections[key] |= copy.deepcopy(section)
        stages += _one_round(number, sections, policy, bool(stages) and number == 1)
    return stages


def _one_round(number: int, sections: Tree, policy: str, explored: bool) -> list[Tree]:
    """Return the stages of a round: the judge, the verifier and the policy that it pays."""

    def name(kind: str, of: int = number) -> str:
        return kind if of == 1 else f"{kind}{of}"

    newest = policy if number == 1 else name("rl", number - 1)
    label = {"answers": "explore"} if explored else {"policy": newest}
    if number > 1 and "limit" in sections["label"]:
        label |= {"verifier": name("verifier", number - 1)}
    learns = {"negatives": dict(NEGATIVES), "balance": BALANCE}
    learns |= sections["verifier"]
    start = {} if number == 1 else {"init": name("verifier", number - 1)}
    heard = [name("label", of) for of in range(1, number + 1)]
    return [
        sections["label"] | {"stage": "label", "name": name("label")} | label,
        learns | {"stage": "verifier", "name": name("verifier"), "verdicts": heard} | start,
        sections["rl"]
        | {"stage": "rl", "name": name("rl"), "policy": newest, "verifier": name("verifier")},
    ]
