"""The workspace gives all stages the folder, mesh, tokenizers, problems and models of a run.

Text becomes token columns here, arrays are placed on the mesh, and a stage loads what earlier
stages left behind.
"""

import dataclasses
import functools
import itertools
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rlvr_jax import sharding
from rlvr_jax.config import Config, DataConfig, ModelConfig, SftStage, stage_of
from rlvr_jax.host import rules
from rlvr_jax.host.problems import dataset, sources
from rlvr_jax.host.problems.sources import origin
from rlvr_jax.host.processes import gathering
from rlvr_jax.host.runs import log
from rlvr_jax.host.runs.folder import Run, RunError
from rlvr_jax.host.text import template
from rlvr_jax.host.text.conversation import Lesson, encode_conversation, is_conversation
from rlvr_jax.host.text.tokenizer import Tokenizer
from rlvr_jax.host.text.verifier_prompt import VerifierPrompt, build_verdict
from rlvr_jax.stages import programs, tokenizers
from rlvr_jax.stages.models import Models
from rlvr_jax.structs import Array, Params, Prompts, TrainState, Verdict


class Workspace:
    """A Workspace is one run on one mesh; it loads tokenizers and problems when first needed."""

    def __init__(self, run: Run, mesh: Mesh, models: Models | None = None):
        self.run, self.mesh = run, mesh
        self.models = models or Models(run, mesh)
        self.cfg: Config = run.cfg
        self.dropped: dict[str, int] = {}  # split -> problems too long for their columns

    @property
    def data(self) -> Path:
        """Return the folder of the problem set that the stages of this workspace read."""
        return self.run.data

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer of the policy, the PRM and the reference policy.

        Raises:
          RunError: as `tokenizers.open_policy`.
        """
        return tokenizers.open_policy(self.cfg, self.run)

    @functools.cached_property
    def judge_tokenizer(self) -> Tokenizer:
        """Return the tokenizer of the verifier, through whose chat template the verifier speaks.

        Raises:
          RunError: as `tokenizers.open_verifier`.
        """
        return tokenizers.open_verifier(self.cfg, self.run, self.tokenizer)

    @functools.cached_property
    def verifier_prompt(self) -> VerifierPrompt:
        """Return how the verifier is asked.

        A verifier with a tokenizer of its own is asked through its own chat template, if it has
        one; any other is asked like the policy.

        Raises:
          ValueError: a template is not valid, or a verdict word is not one token.
        """
        tok, data = self.judge_tokenizer, self.cfg.data
        if tok is not self.tokenizer:
            more = data.chat_variables if tok.has_chat else {}
            data = dataclasses.replace(data, chat=tok.has_chat, system="", chat_variables=more)
        return VerifierPrompt(tok, data)

    @functools.cached_property
    def judged(self) -> bool:
        """Return whether any stage of the run uses a verifier."""
        return self.cfg.uses_verifier

    @functools.cache  # noqa: B019 - one workspace lives as long as its process
    def problems(self, split: str) -> dataset.RandomAccessSource:
        """Load the records of a split that fit their token columns and that its rules can grade.

        Raises:
          ValueError: a record has a task that cannot be graded.
          RunError: a record is too long and `data.too_long` is `refuse`, no record fits, or more
            than 1 % of the records cannot be graded by a rule of a stage.
        """
        return self.fitting(dataset.open_split(self.data, split), split)

    def fitting(self, source: dataset.RandomAccessSource, split: str) -> dataset.RandomAccessSource:
        """Return the records of a source, used as a split, that `problems` would load.

        Raises:
          ValueError, RunError: as `problems`.
        """
        cfg = self.cfg.data
        source = self._keep_gradable(source, split)
        fits, longest = [], dict[str, int]()
        for index, record in enumerate(dataset.each(source)):
            lengths = self.lengths(record, split)
            longest = {key: max(n, longest.get(key, 0)) for key, n in lengths.items()}
            if all(n <= getattr(cfg, f"{key}_columns") for key, n in lengths.items()):
                fits.append(index)
        dropped = len(source) - len(fits)
        if dropped and (cfg.too_long == "refuse" or not fits):
            raise RunError(_too_long_message(split, dropped, len(source), longest, cfg))
        if dropped:
            self.dropped[split] = dropped
            log.say(f"{split}: {dropped} of {len(source)} problems are too long and dropped")
        return dataset.keep(source, fits)

    def _keep_gradable(
        self, source: dataset.RandomAccessSource, split: str
    ) -> dataset.RandomAccessSource:
        """Return the records of a split that `record_check` does not refuse."""
        check = self.record_check(source, split)
        kept, reasons = [], []
        for index, record in enumerate(dataset.each(source)):
            try:
                check(record)
                kept.append(index)
            except ValueError as error:
                reasons.append(f"problem {index} of split {split}: {error}")
        if len(reasons) > len(source) / 100:
            raise RunError(
                f"{len(reasons)} of {len(source)} problems cannot be graded; {reasons[0]}"
            )
        for reason in reasons:
            log.say(f"left out: {reason}")
        return dataset.keep(source, kept) if reasons else source

    def record_check(
        self, source: dataset.RandomAccessSource, split: str
    ) -> Callable[[dataset.Record], None]:
        """Return a function that raises ValueError for a record which no rule can grade.

        Raises:
          ValueError: a record has a task that is not known.
        """
        for task in {record["task"] for record in dataset.each(source)}:
            rules.check_task(task)
        policies = [s for s in self.cfg.stages if s.role == "policy"]
        stages = [s for s in policies if split in [problems.split for problems in s.splits]]
        names = {rule for stage in stages for rule in stage.rules}
        names |= {judge.rule for stage in stages for judge in stage.judges}
        graded = any(stage.stage not in ("sft", "tokenizer") for stage in stages)

        def check(record: dataset.Record) -> None:
            if graded and is_conversation(record):
                raise ValueError("it is a conversation without a reference, for sft stages alone")
            for rule in names:
                rules.check_record(record, rule)

        return check

    def lengths(self, record: dataset.Record, split: str) -> dict[str, int]:
        """Return the number of tokens of a record in each kind of columns."""
        cfg = self.cfg.data
        if split == "sft":
            lesson = self.encode_lesson(record)
            prompt, response = len(lesson.prompt), len(lesson.response)
        else:
            prompt, response = len(self.encode_prompt(record)), 0
        judged = self.judged and not is_conversation(record)
        check, tail = self.verifier_prompt.lengths(record) if judged else (0, 0)
        lengths = {"prompt": prompt, "check": check, "response": response}
        return lengths | ({"tail": tail} if cfg.tail_columns else {})

    def encode_prompt(self, record: dataset.Record) -> list[int]:
        """Return the ids of a record's prompt, as a policy sees it."""
        return template.encode_prompt(record, self.tokenizer, self.cfg.data)

    def encode_demonstration(self, record: dataset.Record) -> list[int]:
        """Return the ids of a record's demonstration, with the token that ends it."""
        return [*self.tokenizer.encode(record["demonstration"]), self.tokenizer.eos[0]]

    def encode_lesson(self, record: dataset.Record) -> Lesson:
        """Return what an sft stage learns of a record.

        Raises:
          ValueError: as `encode_conversation`.
        """
        if is_conversation(record):
            return encode_conversation(record, self.tokenizer, self.cfg.data)
        response = self.encode_demonstration(record)
        return Lesson(self.encode_prompt(record), response, [True] * len(response))

    def demonstrations(self, stage: SftStage) -> dataset.RandomAccessSource:
        """Return the records whose demonstrations a stage learns."""
        return self.problems("sft")

    def columns(self, records: list[dataset.Record], step: int = 0) -> Prompts:
        """Encode records as token columns, in numpy arrays of the widths that the config sets.

        `step` is the number of the training step; only the order of the responses in preference
        items depends on it.
        """
        prompts = template.build_prompts(records, self.tokenizer, self.cfg.data)
        return self.verifier_prompt.asking(prompts, records) if self.judged else prompts

    def verdict(self) -> Verdict:
        """Build the verifier's template tails, verdict words and vocabulary tables.

        Every device gets a copy of what `verifier_prompt.build_verdict` returns.
        """
        cfg, writer = self.cfg, self.tokenizer
        vocab = cfg.model.vocab
        if cfg.verifier_tokenizer:  # the host encodes the answers anew
            vocab, writer = cfg.verifier.vocab, self.judge_tokenizer
        return self.replicate(build_verdict(self.verifier_prompt, cfg.data, vocab, writer))

    def write_problems(self) -> None:
        """Write the problems of the config, unless the run folder already holds them.

        The first process writes, and the others wait for it.  If the data have changed and the run
        has no results yet (`Run.begun`), the problems are written again.

        Raises:
          RunError: the data have changed, and the run has results; or this process may only read.
        """
        self.run.team.share(f"the problems in {self.data.name}", self._write_problems)

    def _write_problems(self) -> None:
        cfg = self.cfg.data
        counts = {k: getattr(cfg, k) for k in ("sft", "label", "train", "test") if getattr(cfg, k)}
        there = dataset.prepared(self.data, "problems")
        before = self.run.origin(self.data) if there else None
        seed = self.cfg.seed
        if before is not None and before.get("keeps_seed"):  # of the run that they come from
            seed = before["config"]["seed"]
        now = origin.compute_origin(cfg, counts, seed)
        if there:
            change = "" if before is None else origin.describe_change(before, now)
            if self.run.begun():
                if change:
                    raise RunError(
                        f"{change} since {self.run.folder} was begun: put back what it was made "
                        f"of, choose another folder with name=..., or remove {self.run.folder} to "
                        "start over"
                    )
                return  # a folder of an older version has no origin to compare with
            if before is not None and not change:
                return
            self.run.refuse_reader()
            log.say(f"{change or 'the origin of the problems is not known'}: they are made anew")
            self.run.clear()
        self.run.refuse_reader()
        splits = sources.build_splits(cfg, counts, self.cfg.seed)
        dataset.prepare(self.data, splits, "problems")
        log.write_json(self.run.origin_file(self.data), now)

    def key(self, name: str) -> Array:
        """Return the random key of a stage; it does not depend on the stages before."""
        return jax.random.fold_in(jax.random.key(self.cfg.seed), zlib.crc32(name.encode()))

    def seed(self, name: str) -> int:
        """Return the seed of the data order of a stage."""
        return zlib.crc32(f"{self.cfg.seed}/{name}".encode())

    def load(
        self, stage: str, cfg: ModelConfig, part: str = "params", *, value_head: bool = False
    ) -> Params:
        """Load the parameters that a finished stage left, or pretrained ones: see `Models.load`."""
        return self.models.load(stage, cfg, part, value_head=value_head)

    def base(self, stage: str, cfg: ModelConfig) -> Params:
        """Load what an adapter lies on in a stage that starts from `stage`: see `Models.base`."""
        return self.models.base(stage, cfg)

    def load_prm(self, stage: str) -> Params:
        """Load the PRM that a stage left: the one beside the policy of an rl stage, or its model.

        For a stage without a PRM, this is the model of the stage: a PRM may start from any policy.
        """
        return self.load(stage, self.cfg.model, self.prm_part(stage))

    def prm_part(self, stage: str) -> str:
        """Return the name of the parameters that `load_prm` loads, within the stage's state."""
        named = {s.name: s for s in self.models.cfg.stages}.get(stage_of(stage))
        beside = named is not None and named.has_prm_beside_policy
        return "prm.params" if beside else "params"

    def new_state(
        self,
        name: str,
        cfg: ModelConfig,
        tx: optax.GradientTransformation,
        init: str,
        *,
        start: programs.Start = programs.ALONE,
        prm_init: str = "",
    ) -> TrainState:
        """Make the state of a stage before its first update, with the shardings of `layout`.

        `init` is a stage as in `load`, or `fresh` for random parameters.  `start` says what the
        state holds beside the model; its PRM starts from the stage `prm_init` or, if that is empty,
        as the policy.
        """
        return self.models.new_state(
            self.key(name),
            cfg,
            tx,
            init,
            start=start,
            prm_start=(prm_init, self.prm_part(prm_init)),
        )

    @property
    def layout(self) -> programs.Layout:
        """Return where the arrays of the run lie: `sharding`'s table on the config's mesh."""
        return self.models.layout

    def jit_step(self, function: Callable, state: TrainState, result: Any) -> Callable:
        """Jit a training step; the state is donated, and the new state keeps its shardings.

        `result` is the type that the step returns, with a field `state`.
        """
        return programs.jit_step(function, state, result, self.layout)

    def place(self, tree):
        """Place host arrays with all rows of a batch on the mesh, split by row."""
        return self.place_own(jax.tree.map(self.own, tree))

    def place_own(self, tree):
        """Place host arrays with this process's rows of a batch on the mesh, split by row."""
        return sharding.place_rows(tree, self.mesh)

    def own(self, rows):
        """Return this process's rows of a batch; `rows` is a list or an array with all of them."""
        if self.run.team.count == 1:
            return rows
        numbers = self.own_numbers(len(rows))
        return [rows[i] for i in numbers] if isinstance(rows, list) else rows[numbers]

    def own_numbers(self, count: int) -> list[int]:
        """Return the numbers of this process's rows, of `count` in a batch."""
        if self.run.team.count == 1:
            return list(range(count))
        return sharding.own_rows(count, self.mesh).tolist()

    def fetch(self, tree):
        """Return device arrays as numpy arrays with all rows, in every process."""
        return gathering.fetch(tree)

    def fetch_own(self, tree):
        """Return device arrays as numpy arrays with this process's rows of the batch."""
        return gathering.fetch_own(tree, self.mesh)

    def divide(self, work: Callable[[list[int]], Sequence[Any]], count: int) -> list[Any]:
        """Return what `work` gives for numbers from 0 on, with an equal share in each process.

        Values are plain JSON.
        """
        numbers = gathering.share_of(self.run.team, count)
        return gathering.gather_rows(self.run.team, numbers, work(numbers))

    def replicate(self, tree):
        """Place host arrays on the mesh, whole on every device."""
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))


def chunks(source, size: int):
    """Iterate over the records of a source in lists of up to `size` records, in order."""
    records = dataset.each(source)
    return iter(functools.partial(lambda: list(itertools.islice(records, size))), [])


def padded(records: list, size: int) -> list:
    """Repeat the last record of a short list up to `size` records, so that one compile suffices."""
    return records + [records[-1]] * (size - len(records))


def _too_long_message(
    split: str, dropped: int, total: int, longest: dict[str, int], cfg: DataConfig
) -> str:
    """Write which columns are too narrow; `longest` holds the lengths of the longest texts."""
    needs = [f"data.{key}_columns to at least {n}" for key, n in longest.items()]
    wide = [n > getattr(cfg, f"{key}_columns") for key, n in longest.items()]
    more = " and ".join(itertools.compress(needs, wide))
    if cfg.too_long == "drop":
        return (
            f"all {total} problems of split {split} are longer than their columns, so that "
            f"data.too_long: drop leaves none: raise {more}"
        )
    return (
        f"{dropped} of {total} problems of split {split} are longer than their columns: raise "
        f"{more}, or set data.too_long: drop"
    )
