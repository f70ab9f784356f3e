"""The first verdicts of a verifier, and that a verifier of other words is refused."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlvr_jax import model, parameters, sharding
from rlvr_jax.config import Config, DataConfig, MeshConfig, ModelConfig, RewardConfig, RlStage
from rlvr_jax.host.runs.folder import Run, RunError
from rlvr_jax.stages import first_verdicts
from rlvr_jax.stages.workspace import Workspace

SMALL = ModelConfig(layers=1, width=16, heads=2, kv_heads=2, head_size=4, feedforward=16, vocab=264)
DATA = DataConfig(tasks=("sum",), check_templates=("plain", "strict"), check_columns=160)
RECORDS = [
    {"question": f"{i} + {i}?", "reference": str(2 * i), "messages": "", "key": str(i)}
    for i in range(12)
]


@pytest.fixture(scope="module")
def ws(tmp_path_factory):
    cfg = Config(
        runs=str(tmp_path_factory.mktemp("runs")),
        tokenizer="byte",
        data=DATA,
        model=SMALL,
        verifier=SMALL,
        stages=(RlStage(policy="pretrained", verifier="pretrained"),),
    )
    made = Workspace(Run(cfg), sharding.make_mesh(MeshConfig(), jax.devices()[:1]))
    made.problems = lambda split: RECORDS
    return made


@pytest.fixture(scope="module")
def params():
    params = parameters.init(jax.random.key(0), SMALL)
    return {k: x * (1 if "norm" in k else 4) for k, x in params.items()}


def test_first_verdicts_are_those_of_the_whole_row(ws, params):
    with jax.set_mesh(ws.mesh):
        got = first_verdicts.ask(ws, params, RECORDS[:3])
    assert len(got.said_B) == 6, "two templates, three problems"
    for i, record in enumerate(RECORDS[:3]):
        for j, (before, after) in enumerate(ws.verifier_prompt.around(record)):
            row = [*before, *ws.tokenizer.encode(record["reference"]), *after]
            hidden, _ = model.prefill(
                params, jnp.array([row]), jnp.ones((1, len(row)), bool), SMALL
            )
            logits = np.asarray(model.logits(params, hidden[0, -1], SMALL), np.float64)
            p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
            at = 2 * i + j
            np.testing.assert_allclose(got.mass_B[at], p[49] + p[48], rtol=1e-4)
            assert got.accepted_B[at] == (p[49] > p[48])
            assert got.clear_B[at] == (int(p.argmax()) in (48, 49))
            assert got.said_B[at] == ws.tokenizer.pieces([int(p.argmax())])[0]


def told(monkeypatch, ws, params, capsys, mass, clear=1.0, **reward):
    """The sentence of a check where each verdict has this mass."""

    def ask(ws, params, records):
        assert len(records) == first_verdicts.COUNT
        count = 2 * len(records)
        accepted = np.arange(count) % 4 == 0
        said = ["NO"] * 12 + ["YES"] * 8
        return first_verdicts.FirstVerdicts(
            np.full(count, mass), accepted, np.arange(count) < clear * count, said
        )

    monkeypatch.setattr(first_verdicts, "ask", ask)
    first_verdicts.check(ws, "rl", params, RewardConfig(**reward), "train")
    return " ".join(capsys.readouterr().out.split())


def test_enough_mass_is_printed(ws, params, monkeypatch, capsys):
    said = told(monkeypatch, ws, params, capsys, 0.75)
    assert "shown 20 references as answers, the verifier puts 0.75 of its probability" in said
    assert "'1' and '0'" in said and "accepts 5" in said
    assert told(monkeypatch, ws, params, capsys, 0.0, min_mass=0.0)
    assert told(monkeypatch, ws, params, capsys, 0.0, 0.6, mode="paper")


@pytest.mark.parametrize(("mass", "clear", "mode"), [(0.49, 1.0, "soft"), (1.0, 0.45, "paper")])
def test_a_verifier_of_other_words_is_refused(ws, params, monkeypatch, capsys, mass, clear, mode):
    with pytest.raises(RunError) as error:
        told(monkeypatch, ws, params, capsys, mass, clear, mode=mode)
    said = str(error.value)
    assert "the verifier says 'NO' (12 times), 'YES' (8 times) where '1' and '0' is due" in said
    assert "data.check_templates" in said and "\n" not in said


def test_few_problems_are_enough(ws, params, capsys):
    short = SimpleNamespace(
        **{k: getattr(ws, k) for k in ("verifier_prompt", "cfg", "place", "fetch")}
    )
    short.problems = lambda split: RECORDS[:1]
    with jax.set_mesh(ws.mesh):
        free = dataclasses.replace(RewardConfig(), min_mass=0.0)
        first_verdicts.check(short, "rl", params, free, "train")
    assert "shown 2 references as answers" in " ".join(capsys.readouterr().out.split())
