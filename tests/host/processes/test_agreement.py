"""Processes with another config, code or package are refused by name."""

from rlvr_jax.config import Config, ProcessesConfig, SftStage
from rlvr_jax.host.processes import agreement
from rlvr_jax.host.processes.team import Team, TeamError
from rlvr_jax.host.runs import settings


class Told(Team):
    """A team in which the other processes have told their facts already."""

    def __init__(self, *others):
        super().__init__(0, 1 + len(others))
        self._others = list(others)

    def gather(self, at, value):
        return [value, *self._others]


def refusal(mine, *others):
    try:
        agreement.check_facts(Told(*others), "facts", mine)
    except TeamError as error:
        return str(error)


def test_equal_facts_agree():
    facts = {"code": "abc", "seed": "3"}
    assert refusal(facts, ["b", dict(facts)], ["c", dict(facts)]) is None


def test_the_first_difference_is_named_with_both_hosts():
    facts = {"code": "abc", "seed": "3"}
    why = refusal(facts, ["b", dict(facts)], ["c", facts | {"seed": "4"}])
    assert "seed is 3 in process 0 on" in why and "and 4 in process 2 on c" in why
    assert "code is abc in process 0" in refusal(facts, ["b", {"seed": "3"}])
    assert "new is absent in process 0" in refusal(facts, ["b", facts | {"new": "1"}])


def test_the_facts_of_a_config_leave_out_which_process_it_is():
    def facts(**changes):
        place = ProcessesConfig(coordinator="a:12", count=2, **changes)
        return settings.facts(Config(stages=(SftStage(),), processes=place))

    assert facts(index=0) == facts(index=1)
    assert facts() != facts(timeout=3)
    assert facts()["stages.sft.steps"] == str(SftStage().steps)


def test_versions_and_code_are_facts():
    found = agreement.read_versions()
    assert {"python", "jax", "code"} <= found.keys()
    assert found["code"] == agreement.hash_code() and len(found["code"]) == 16
    assert agreement.hash_facts(found) == agreement.hash_facts(dict(found))
    assert agreement.hash_facts(found) != agreement.hash_facts(found | {"jax": "x"})
