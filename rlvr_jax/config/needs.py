"""Stages declare here, as data, what they need from the config and from earlier stages."""

from typing import Literal, NamedTuple

from rlvr_jax.config.held_out import StopConfig
from rlvr_jax.config.reward import AlarmConfig, JudgeConfig

# What a finished stage leaves behind for later stages.
Product = Literal[
    "tokenizer",
    "model",
    "prm",
    "answers",
    "verdicts",
    "judgements",
    "meta",
    "scalar",
    "items",
]
Part = Literal["model", "verifier", "grm"]  # the models of a config
BEST = "best"  # the best step of a stage, where it has a `keep_best`
Role = Literal["policy", "grm"]  # what a stage works on: a policy, or a generative reward model


class Problems(NamedTuple):
    """Problems names the split that a stage reads, and how many problems the stage needs."""

    split: str  # train, test, sft or label: a key of `data`
    at_least: int = 1


class Input(NamedTuple):
    """An Input is something that a stage reads and that an earlier stage must leave behind."""

    key: str  # the stage's config key that names the earlier stage, such as `prm.init`
    source: str  # the value of that key: what a stage left (`Left`), `pretrained` or `fresh`
    product: Product  # what the earlier stage must leave behind
    pretrained: Part | None = None  # the model whose weights `pretrained` means; None: not allowed
    fresh: bool = False  # `fresh` is allowed: random parameters
    optional: bool = False  # the key may be empty


def verifier_input(source: str, optional: bool = False) -> tuple[Input]:
    """Return, as a tuple of one, the input of a stage that reads a trained verifier.

    `source` is the value of the stage's key `verifier`; `optional` says that it may be empty.
    """
    return (Input("verifier", source, "model", pretrained="verifier", optional=optional),)


def grm_inputs(source: str, meta: str) -> tuple[Input, ...]:
    """Return the inputs of a stage in which a generative reward model judges responses.

    `source` and `meta` are the stages that leave the model and its meta RM; `meta` may be empty.
    """
    return (
        Input("grm", source, "model", pretrained="grm"),
        Input("reward.grm.meta", meta, "meta", optional=True),
    )


class Left(NamedTuple):
    """A Left names what a stage left: [RUN:]STAGE[@STEP], with a number or `best` for STEP."""

    run: str  # folder of another run; empty: this run
    stage: str
    step: str  # empty: the last one


def parse_left(source: str) -> Left:
    """Return the parts of a reference to what a stage left.

    `NAME:best` means `NAME@best`, as in configs of older versions.
    """
    if source.endswith(f":{BEST}"):
        source = f"{source.removesuffix(f':{BEST}')}@{BEST}"
    run, _, rest = source.rpartition(":")
    stage, at, step = rest.rpartition("@")
    if not at or not (step == BEST or step.isdecimal()):
        return Left(run, rest, "")
    return Left(run, stage, step if step == BEST else str(int(step)))


def stage_of(source: str) -> str:
    """Return the stage of this run that a reference names; "" if it names one of another run."""
    left = parse_left(source)
    return "" if left.run else left.stage


class Rows(NamedTuple):
    """Rows names the number of rows that are split over the data shards of the mesh."""

    key: str  # the config key, or the quotient of keys, that sets their number
    number: int


class Needs:
    """A Needs says what a stage reads, leaves behind and uses, beside its config keys.

    The defaults here are those of a stage that needs nothing; each type of stage overrides the
    properties in which it differs.  The rest of the program reads these properties and never
    asks for the type of a stage.
    """

    alarms: AlarmConfig = AlarmConfig(action="off")
    keep_best: str = ""
    stop: StopConfig = StopConfig()

    @property
    def trains(self) -> Part | None:
        """Return which model of the config the stage trains; None if it trains none."""
        return None

    @property
    def role(self) -> Role:
        """Return whether the stage works on policies, or on generative reward models.

        A stage of the second kind reads preference items (`critique.data`) and the model `grm`.
        """
        return "policy"

    @property
    def uses_grm(self) -> bool:
        """Return whether a generative reward model judges responses in the stage."""
        return False

    @property
    def updates(self) -> int:
        """Return the number of optimizer updates in a training step."""
        return 1

    @property
    def rounds(self) -> int:
        """Return the largest number of batches of problems that a training step takes."""
        return 1

    @property
    def problems(self) -> Problems | None:
        """Return which problems the stage reads; None if it reads none."""
        return None

    @property
    def splits(self) -> tuple[Problems, ...]:
        """Return all problems that the stage reads, also those that it measures itself on."""
        return (self.problems,) if self.problems else ()

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Return what the stage may read from earlier stages.

        An optional input whose key is empty has the source "" and is not read.
        """
        return ()

    @property
    def leaves(self) -> frozenset[Product]:
        """Return what the stage leaves behind for later stages."""
        return frozenset()

    @property
    def rows(self) -> Rows | None:
        """Return the rows whose number must be a multiple of the data shards; None for no limit."""
        return None

    @property
    def rules(self) -> tuple[str, ...]:
        """Return the rules that the stage names."""
        return ()

    @property
    def judges(self) -> tuple[JudgeConfig, ...]:
        """Return the judges that the stage asks."""
        return ()

    @property
    def uses_verifier(self) -> bool:
        """Return whether the stage trains a verifier or asks one."""
        return False

    @property
    def shares_ids(self) -> bool:
        """Return whether the stage works only with a verifier that reads the policy's token ids.

        Such a stage is refused when the config names a `verifier_tokenizer`.
        """
        return False

    @property
    def has_prm_beside_policy(self) -> bool:
        """Return whether the stage trains a PRM in addition to its policy."""
        return False
