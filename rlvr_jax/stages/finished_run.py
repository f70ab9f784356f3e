"""A finished run as Python objects: its metrics, its evaluations, and the policies it trained.

`rlvr_jax.train(config)` returns one; `FinishedRun("runs/quickstart")` opens one that is on disk.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from rlvr_jax import engine
from rlvr_jax.config import Config, ModelConfig, SampleConfig
from rlvr_jax.host.runs.paths import Paths
from rlvr_jax.host.text import template
from rlvr_jax.host.text.tokenizer import Tokenizer
from rlvr_jax.stages import left, responses
from rlvr_jax.structs import Params

Table = dict[str, list[Any]]  # columns by name; pandas.DataFrame and polars.DataFrame take it


class Policy(NamedTuple):
    """A Policy holds the parameters of a model that a stage trained, and how it is asked."""

    params: Params
    model: ModelConfig
    tokenizer: Tokenizer
    run: Config

    def answer(
        self, questions: Sequence[str], *, temperature: float = 0.0, seed: int = 0, batch: int = 16
    ) -> list[str]:
        """Return an answer to each question, asked as in training, with the run's token budget.

        A temperature of 0 is greedy.  `batch` questions are answered at a time.
        """
        data = self.run.data
        records = [{"question": text, "messages": ""} for text in questions]
        prompts = [template.encode_prompt(record, self.tokenizer, data) for record in records]
        sample = SampleConfig(temperature=temperature)
        key, eos = jax.random.key(seed), self.tokenizer.eos
        sampler = engine.Sampler(key, eos, 1, data.response_columns, sample)
        texts = [""] * len(prompts)
        answers = responses.generate_batches(self.params, self.model, prompts, batch, sampler)
        for number, ids, _ in answers:
            texts[number] = self.tokenizer.decode(ids)
        return texts


class FinishedRun:
    """A FinishedRun reads the folder of a run; nothing is written there."""

    def __init__(self, folder: str | Path):
        """Open a run folder.

        Raises:
          ValueError: it is none, or its config is damaged.
        """
        self.folder = Path(folder)
        self.config: Config = left.load_config(self.folder)

    def __repr__(self) -> str:
        stages = ", ".join(stage.name for stage in self.config.stages)
        return f"FinishedRun({str(self.folder)!r}: {stages})"

    @property
    def report(self) -> Path:
        """Return the path of the report, a page for a browser."""
        return self.folder / "report.html"

    def metrics(self, stage: str) -> Table:
        """Return the metrics of a stage, a column for each name and a row for each step.

        A step without a metric has None there.

        Raises:
          ValueError: the stage logged nothing.
        """
        lines = (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [row for row in map(json.loads, lines) if row["stage"] == stage]
        if not rows:
            known = ", ".join(one.name for one in self.config.stages)
            raise ValueError(f"stage {stage!r} has logged nothing; the stages are {known}")
        names = list(dict.fromkeys(name for row in rows for name in row if name != "stage"))
        return {name: [row.get(name) for row in rows] for name in names}

    @property
    def evaluations(self) -> dict[str, dict[str, Any]]:
        """Return the result of each evaluation, by the name of its stage."""
        found = {}
        for stage in self.config.evaluations:
            path = Paths(self.folder).evaluation(stage.name)
            if path.exists():
                found[stage.name] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def policy(self, stage: str = "") -> Policy:
        """Load the policy that a stage left, as `STAGE`, `STAGE@STEP` or `STAGE@best`.

        Without a name it is the policy of the last stage that trained one.

        Raises:
          ValueError, RunError or CheckpointError: there is none, or it cannot be read.
        """
        policies = (s for s in self.config.stages if s.trains == "model" and "model" in s.leaves)
        trained = [one.name for one in policies]
        if not stage and not trained:
            raise ValueError(f"no stage of {self.folder} trains a policy")
        source = f"{self.folder}:{stage or trained[-1]}"
        return Policy(*responses.load_trained(source, ""), self.config)
