"""What a stage needs from the config and from earlier stages, as data that one check reads."""

from typing import ClassVar, Literal, NamedTuple

from rlvr_jax.config.reward import AlarmConfig, JudgeConfig

# What a finished stage leaves behind for later stages.
Product = Literal["tokenizer", "model", "prm", "answers", "verdicts"]
Part = Literal["model", "verifier"]  # the two models of a config


class Problems(NamedTuple):
    """Problems are the split that a stage reads, and how many it needs at least."""

    split: str  # train, test, sft or label: a key of `data`
    at_least: int = 1


class Input(NamedTuple):
    """An Input is something that a stage reads and that an earlier stage must leave behind."""

    key: str  # the stage's config key that names the earlier stage, such as `prm.init`
    source: str  # the value of that key: name of a stage, `pretrained` or `fresh`
    product: Product  # what the earlier stage must leave behind
    pretrained: Part | None = None  # the model whose weights `pretrained` means; None: not allowed
    fresh: bool = False  # `fresh` is allowed: random parameters
    optional: bool = False  # the key may be empty


def verifier_input(source: str, optional: bool = False) -> tuple[Input]:
    """Return the input of a stage that reads a trained verifier, named by the key `verifier`."""
    return (Input("verifier", source, "model", pretrained="verifier", optional=optional),)


class Rows(NamedTuple):
    """Rows are the part of a batch that is split over the data shards of the mesh."""

    key: str  # the config key, or the quotient of keys, that sets their number
    number: int


class Needs:
    """Needs are what a stage says about itself beside its config keys.

    These are the answers of a stage that needs nothing; a type of stage overrides its own.  The
    rest of the program asks for them and never for the type of a stage.
    """

    alarms: AlarmConfig = AlarmConfig(action="off")
    trains: ClassVar[Part | None] = None  # which model of the config the stage trains

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
        """Return which problems the stage reads; None where it reads none."""
        return None

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Return what the stage reads from earlier stages; keys that are empty are left out."""
        return ()

    @property
    def leaves(self) -> frozenset[Product]:
        """Return what the stage leaves behind for later stages."""
        return frozenset()

    @property
    def rows(self) -> Rows | None:
        """Return the rows that must be a multiple of the data shards; None: any number is fine."""
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
        """Return whether the verifier of the stage reads the token ids of the policy."""
        return False

    @property
    def has_prm_beside_policy(self) -> bool:
        """Return whether the stage trains a PRM in addition to its policy."""
        return False
