"""A run may go on under a config that differs in some keys; this module says in which.

What a stage has computed belongs to the data, the model, the seed and the objective that it was
computed with.  How far a stage goes, when it saves and measures, where it runs and who is told of
it may change, and so may everything about stages that have not begun.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from rlvr_jax.config import Config, Execution
from rlvr_jax.host.runs import settings
from rlvr_jax.host.runs.checkpoint import steps_in
from rlvr_jax.host.runs.config_text import parse_yaml
from rlvr_jax.host.runs.paths import Paths

# Of a stage that has begun, besides `steps`.
OF_STAGE = (
    *("save_every", "sample_every", "keep", "eval.every", "alarms.", "reward.workers"),
    *("judge.concurrency", "judge.per_minute", "judge.retries"),
    *("endpoint.concurrency", "endpoint.per_minute", "endpoint.retries"),
)
# What all stages stand on, so that not even a new run can take a stage over with another one.
PROBLEMS: tuple[str, ...] = ("tasks", "sources", "preferences", "sft", "label", "train", "test")
PROBLEMS += ("demonstration_errors",)
MODELS = ("model", "verifier", "grm")
MOST = 8  # changes that are said


class Progress(NamedTuple):
    """A Progress says how far the stages of a run are, by their names."""

    finished: frozenset[str]
    newest: Mapping[str, int]  # step of the newest checkpoint

    @property
    def begun(self) -> frozenset[str]:
        """Return the stages that have finished or have a checkpoint."""
        return self.finished | self.newest.keys()


def read_progress(paths: Paths) -> Progress:
    """Return how far the stages of a run folder are."""
    finished = {path.stem for path in (paths.folder / "stages").glob("*.json")}
    found = (paths.folder / "checkpoints").glob("*/step_*")
    steps = {name: steps_in(paths.checkpoints(name)) for name in {x.parent.name for x in found}}
    newest = {name: max(known) for name, known in steps.items() if known}
    return Progress(frozenset(finished), newest)


class Change(NamedTuple):
    """A Change is a key in which two configs differ; `stage` has it as `own`, if a stage does."""

    key: str
    old: str
    new: str
    stage: str = ""
    own: str = ""

    @property
    def was(self) -> str:
        """Return the change as what was and what is."""
        return f"{self.key} was {self.old} and is {self.new}"

    @property
    def there(self) -> str:
        """Return the change as what is there, in the folder, and here, in the config."""
        return f"{self.key} is {self.old} there and {self.new} here"


class Going(NamedTuple):
    """A Going says how a run goes on under a changed config.

    `said` has the changes in words, `reopened` the finished stages that take further steps, and
    `refused` why the run cannot go on; it is empty if the run can.
    """

    said: tuple[str, ...] = ()
    reopened: tuple[str, ...] = ()
    refused: str = ""
    founded: bool = False  # the refused key is one that all stages stand on

    def words(self) -> str:
        """Return the changes as one text."""
        more = len(self.said) - MOST
        return "; ".join([*self.said[:MOST], *([f"and {more} more"] if more > 0 else [])])


def compare(old: str, new: str, progress: Progress) -> Going:
    """Compare the resolved config that a run folder has with the one that it is opened with.

    Raises:
      ConfigError: one of the texts is not YAML.
    """
    try:
        there, here = (settings.parse(parse_yaml(text)) for text in (old, new))
    except (ValueError, TypeError):  # of another version: only an equal one can go on
        change = settings.difference(old, new)
        return Going(refused=change or "")
    names, wanted = ([stage.name for stage in cfg.stages] for cfg in (there, here))
    # A stage whose marker was removed, so that it is done again, keeps its place before later ones.
    last = max((i for i, name in enumerate(names) if name in progress.begun), default=-1)
    begun = names[: last + 1]
    if wanted[: len(begun)] != begun:
        return Going(refused=_out_of_place(begun, wanted))
    again = frozenset(begun) - progress.begun  # what later stages stand on may not change
    progress = progress._replace(finished=progress.finished | again)
    said = [f"stage {name} is new" for name in wanted if name not in names]
    said += [f"stage {name} is gone" for name in names if name not in wanted]
    kept = [name for name in names if name in wanted]
    if kept != [name for name in wanted if name in names]:
        said.append(f"the order of the stages is {', '.join(wanted)}")
    reopened = []
    for found in find(there, here):
        why, more = _judge(found, there, here, progress)
        if why:
            return Going(refused=why, founded=is_founding(found.key))
        if found.key.startswith("processes."):  # differs between processes, too
            continue
        said.append(found.was + more)
        if found.own == "steps" and found.stage in progress.finished:
            reopened.append(found.stage)
    return Going(tuple(said), tuple(reopened))


def find(there: Config, here: Config) -> Iterator[Change]:
    """Iterate over the keys in which two configs differ, without stages that only one has."""
    left, right = (settings.flatten(settings.as_tree(cfg)) for cfg in (there, here))
    names = sorted({s.name for cfg in (there, here) for s in cfg.stages}, key=len)
    both = {s.name for s in there.stages} & {s.name for s in here.stages}
    for key in [*left, *(key for key in right if key not in left)]:
        if left.get(key) == right.get(key):
            continue
        stage = next((name for name in names[::-1] if key.startswith(f"stages.{name}.")), "")
        if stage and stage not in both:
            continue
        own = key.removeprefix(f"stages.{stage}.") if stage else ""
        was, now = (str(side.get(key, "absent")) for side in (left, right))
        yield Change(key, was, now, stage, own)


def may_change(own: str) -> bool:
    """Return whether a key of a stage, but `steps`, may change after the stage has begun."""
    return any(own == key or key.endswith(".") and own.startswith(key) for key in OF_STAGE)


def is_founding(key: str) -> bool:
    """Return whether no stage can be taken over into a run whose config has another value."""
    first, _, rest = key.partition(".")
    if first in MODELS:
        return rest not in {field.name for field in dataclasses.fields(Execution)}
    if first == "critique":
        first, _, rest = rest.partition(".")
    return first.startswith("tokenizer") or (first == "data" and rest.partition(".")[0] in PROBLEMS)


def _judge(change: Change, there: Config, here: Config, progress: Progress) -> tuple[str, str]:
    """Return why a change is refused, or "", and what else is to be said of it."""
    if change.key.startswith(settings.PLACE):
        return "", ""
    if change.stage and change.stage not in progress.begun:
        return "", ""
    if change.own == "steps":
        return _judge_steps(change, there, here, progress)
    if change.stage and may_change(change.own):
        over = change.stage in progress.finished
        return "", f" (stage {change.stage} has finished and is not done again)" if over else ""
    begun = [stage for stage in there.stages if stage.name in progress.begun]
    if change.key.startswith("verifier") and not any(stage.uses_verifier for stage in begun):
        return "", ""
    of_grm = any(stage.uses_grm or stage.role == "grm" for stage in begun)
    if change.key.startswith(("grm.", "critique.")) and not of_grm:
        return "", ""
    return change.there, ""


def _judge_steps(
    change: Change, there: Config, here: Config, progress: Progress
) -> tuple[str, str]:
    name, steps = change.stage, int(change.new)
    names = [stage.name for stage in there.stages]
    later = [other for other in names[names.index(name) + 1 :] if other in progress.begun]
    newest = progress.newest.get(name, 0)
    if later:
        return f"{change.there}, and stage {later[0]} has begun after it", ""
    if name in progress.finished and steps < int(change.old):
        return f"{change.there}, and the stage has finished", ""
    if steps < newest:
        return f"{change.there}, and its newest checkpoint is of step {newest}", ""
    more = ""
    stage: Any = next(stage for stage in here.stages if stage.name == name)
    if decaying := schedules(stage):
        more = f" (the learning rate follows {' and '.join(decaying)} over {steps} steps from here)"
    if steps == newest < int(change.old):
        more += f" (stage {name} ends at its checkpoint, without the measurements of a last step)"
    return "", more


def schedules(stage: Any) -> list[str]:
    """Return the keys of a stage whose learning rates depend on its number of steps, with values.

    For such a stage a change of `steps` is not what it would have been from the start.
    """
    parts = {"optim": stage.optim}
    if stage.has_prm_beside_policy:
        parts["prm.optim"] = stage.prm.optim
    return [f"{key}.decay {x.decay}" for key, x in parts.items() if x.decay != "constant"]


def _out_of_place(begun: list[str], wanted: list[str]) -> str:
    for place, name in enumerate(begun):
        if name not in wanted:
            return f"stage {name} has begun there and is not listed here"
        if wanted.index(name) != place:
            break
    return (
        f"the stages that have begun are {', '.join(begun)} there, and here they are not the first "
        "ones in this order: list new stages behind them"
    )
