"""What a config can say: frozen dataclasses, values only, each field with its meaning.

`rlvr_jax.host.runs.settings` reads them from YAML and the command line.  Configs are hashable, so
that a jitted function can take one as a static argument.
"""

from dataclasses import dataclass, field

from rlvr_jax.config.data import DataConfig, SourceConfig
from rlvr_jax.config.fields import STRICT, file_name, option, own
from rlvr_jax.config.learning import (
    AdvantageConfig,
    FilterConfig,
    LossConfig,
    OptimConfig,
    OverlongConfig,
    PrmConfig,
    SampleConfig,
)
from rlvr_jax.config.model import FAMILIES, Family, MeshConfig, ModelConfig
from rlvr_jax.config.reward import (
    AlarmConfig,
    AuditConfig,
    JudgeConfig,
    NegativesConfig,
    RewardConfig,
)
from rlvr_jax.config.stages import (
    EvaluateStage,
    LabelStage,
    PrmStage,
    RlStage,
    Sampling,
    SftStage,
    Stage,
    TokenizerStage,
    VerifierStage,
    reads_verifier,
)

__all__ = [
    "AdvantageConfig",
    "AlarmConfig",
    "AuditConfig",
    "Config",
    "DataConfig",
    "EvaluateStage",
    "FAMILIES",
    "Family",
    "FilterConfig",
    "JudgeConfig",
    "LabelStage",
    "LossConfig",
    "MeshConfig",
    "ModelConfig",
    "NegativesConfig",
    "OptimConfig",
    "OverlongConfig",
    "PrmConfig",
    "PrmStage",
    "RewardConfig",
    "RlStage",
    "SampleConfig",
    "Sampling",
    "SftStage",
    "SourceConfig",
    "Stage",
    "TokenizerStage",
    "VerifierStage",
    "reads_verifier",
]


@dataclass(frozen=True)
class Config:
    """One run: data, models, mesh and the stages that are run in order."""

    name: str = option("run", "name of the run; its folder is runs/NAME")
    seed: int = option(0, "the one seed of the run")
    runs: str = option("runs", "folder that holds the run folders")
    data: DataConfig = own(DataConfig, "problems")
    tokenizer: str = option(
        "", "tokenizer file or folder, or `byte`; empty: the model's own, else a tokenizer stage's"
    )
    model: ModelConfig = own(ModelConfig, "the policy")
    verifier: ModelConfig = own(ModelConfig, "the verifier; of any size")
    verifier_tokenizer: str = option(
        "", "the verifier's own, as in tokenizer; empty: the policy's. Needs the split step"
    )
    audit: AuditConfig = own(AuditConfig, "the hardening suite and its limits")
    mesh: MeshConfig = own(MeshConfig, "device mesh")
    stages: tuple[Stage, ...] = field(
        default=(), metadata={"help": "stages in order; finished ones are skipped on a rerun"}
    )

    def __post_init__(self) -> None:
        file_name(self.name)
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must be from 0 to 2**31 - 1, not {self.seed}")
        if not self.stages:
            raise ValueError("stages is empty: name at least one stage")
        names = [stage.name for stage in self.stages]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two stages are named {name!r}; give each a name of its own")
        judged = any(reads_verifier(stage) for stage in self.stages)
        if self.verifier_tokenizer:
            self._check_split()
        elif judged and self.verifier.vocab != self.model.vocab:
            raise ValueError(
                f"model.vocab is {self.model.vocab} and verifier.vocab {self.verifier.vocab}: "
                "inside the fused step both read the same token ids and need one vocabulary"
            )

    def _check_split(self) -> None:
        """Refuse stages in which a verifier with a tokenizer of its own would read policy ids."""
        for stage in self.stages:
            trained = isinstance(stage, VerifierStage | LabelStage)
            collects = isinstance(stage, RlStage) and stage.collect
            if trained or collects or (isinstance(stage, EvaluateStage) and stage.verifier):
                raise ValueError(
                    f"verifier_tokenizer needs the host between answer and verdict, and stage "
                    f"{stage.name} reads the policy's ids as the verifier's: only a prm stage "
                    "and an rl stage without collect may ask such a verifier; evaluate with "
                    "verifier: ''"
                )

    __pydantic_config__ = STRICT
