"""This package defines the config: frozen dataclasses of values, each field with its meaning.

`rlvr_jax.host.runs.settings` reads them from YAML and the command line.  Configs are hashable, so
that a jitted function can take one as a static argument.
"""

from dataclasses import dataclass, field
from typing import Literal

from rlvr_jax.config.adapter import AdapterConfig
from rlvr_jax.config.critique import CritiqueConfig, VoteConfig
from rlvr_jax.config.data import DataConfig, PreferencesConfig, SourceConfig
from rlvr_jax.config.fields import (
    STRICT,
    Formula,
    UnknownWordError,
    check_file_name,
    option,
    section,
)
from rlvr_jax.config.grm_stages import (
    CompareStage,
    MetaStage,
    RftStage,
    ScalarStage,
    VoteStage,
)
from rlvr_jax.config.held_out import EvalConfig, StopConfig
from rlvr_jax.config.learning import (
    BANDS,
    DifficultyConfig,
    FilterConfig,
    OptimConfig,
    OverlongConfig,
    PrmConfig,
    SampleConfig,
)
from rlvr_jax.config.model import (
    FAMILIES,
    Architecture,
    Execution,
    Family,
    MeshConfig,
    ModelConfig,
    Pretrained,
    Training,
)
from rlvr_jax.config.needs import BEST, Input, Left, Part, Problems, Product, parse_left, stage_of
from rlvr_jax.config.objective import AdvantageConfig, LossConfig, ReferenceConfig
from rlvr_jax.config.passes import count_steps
from rlvr_jax.config.presets import PRESETS, check_preset, fill_preset
from rlvr_jax.config.processes import ProcessesConfig
from rlvr_jax.config.reward import (
    AlarmConfig,
    AuditConfig,
    JudgeConfig,
    NegativesConfig,
    RewardConfig,
)
from rlvr_jax.config.sampling_stages import PrmStage, RlStage, Sampling
from rlvr_jax.config.stages import (
    EvaluateStage,
    LabelStage,
    SftStage,
    Stage,
    TokenizerStage,
    Trained,
    VerifierStage,
)

__all__ = [
    "AdapterConfig",
    "AdvantageConfig",
    "AlarmConfig",
    "Architecture",
    "AuditConfig",
    "BANDS",
    "BEST",
    "CompareStage",
    "Config",
    "CritiqueConfig",
    "DataConfig",
    "DifficultyConfig",
    "EvalConfig",
    "EvaluateStage",
    "Execution",
    "FAMILIES",
    "Family",
    "FilterConfig",
    "Formula",
    "Input",
    "JudgeConfig",
    "LabelStage",
    "Left",
    "LossConfig",
    "MeshConfig",
    "MetaStage",
    "ModelConfig",
    "NegativesConfig",
    "OptimConfig",
    "OverlongConfig",
    "PRESETS",
    "Part",
    "PreferencesConfig",
    "Pretrained",
    "PrmConfig",
    "PrmStage",
    "Problems",
    "ProcessesConfig",
    "Product",
    "ReferenceConfig",
    "RewardConfig",
    "RftStage",
    "RlStage",
    "SampleConfig",
    "Sampling",
    "ScalarStage",
    "SftStage",
    "SourceConfig",
    "Stage",
    "StopConfig",
    "TokenizerStage",
    "Trained",
    "Training",
    "UnknownWordError",
    "VerifierStage",
    "VoteConfig",
    "VoteStage",
    "check_preset",
    "count_steps",
    "fill_preset",
    "parse_left",
    "stage_of",
]


@dataclass(frozen=True)
class Config:
    """A Config describes one run: data, models, mesh, and the stages that run in order."""

    name: str = option("run", "name of the run; its folder is runs/NAME")
    seed: int = option(0, "seed of everything random in the run")
    runs: str = option("runs", "folder that holds the run folders")
    log: tuple[Literal["wandb", "mlflow", "trackio"], ...] = option(
        (),
        "trackers that get metrics, config and samples too, beside metrics.jsonl and TensorBoard: "
        "wandb, mlflow, trackio; local unless their own environment variables say otherwise",
    )
    data: DataConfig = section(DataConfig, "problems")
    tokenizer: str = option(
        "",
        "tokenizer file or folder, or `byte`; empty: the one beside model.weights, or else the one "
        "that a tokenizer stage trains",
    )
    model: ModelConfig = section(ModelConfig, "the policy")
    verifier: ModelConfig = section(ModelConfig, "the verifier, of any size")
    verifier_tokenizer: str = option(
        "",
        "tokenizer of the verifier, a value as for the key `tokenizer`; empty: the policy's; "
        "another one makes the step a split step",
    )
    grm: ModelConfig = section(ModelConfig, "the generative reward model, of any size")
    critique: CritiqueConfig = section(
        CritiqueConfig, "how the generative reward model is asked, and its preference items"
    )
    audit: AuditConfig = section(AuditConfig, "attacks on the reward, and their limits")
    mesh: MeshConfig = section(MeshConfig, "device mesh")
    processes: ProcessesConfig = section(ProcessesConfig, "processes, where there are several")
    stages: tuple[Stage, ...] = field(
        default=(), metadata={"help": "stages in order; a rerun skips those that are finished"}
    )

    def __post_init__(self) -> None:
        check_file_name(self.name)
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must be from 0 to 2**31 - 1, not {self.seed}")
        if not self.stages:
            raise ValueError("stages is empty: name at least one stage")
        names = [stage.name for stage in self.stages]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two stages are named {name!r}; give each a name of its own")
            if ":" in name or parse_left(name).step:
                raise ValueError(
                    f"a stage is named {name!r}, and RUN:STAGE@STEP is how configs name what a "
                    "stage left: choose a name without `:` and without a step"
                )
        self._check_grm()
        if self.verifier_tokenizer:
            self._check_split()
        elif self.uses_verifier and self.verifier.vocab != self.model.vocab:
            raise ValueError(
                self.missing_verifier
                or f"model.vocab is {self.model.vocab} and verifier.vocab {self.verifier.vocab}: "
                "inside the fused step both read the same token ids and need one vocabulary"
            )

    @property
    def missing_verifier(self) -> str:
        """Return what to do about a stage that asks the stage `verifier`, where there is none.

        This is the default of the key `verifier`, which who wants another reward does not know.
        """
        if "verifier" in [stage.name for stage in self.stages]:
            return ""
        for stage in self.stages:
            if any(x.key == "verifier" and x.source == "verifier" for x in stage.inputs):
                way_out = (
                    "`verifier: ''` to measure without one"
                    if isinstance(stage, EvaluateStage)
                    else "`reward: {source: rule}` for the reward of a rule"
                )
                return (
                    f"stage {stage.name} asks the verifier of a stage `verifier`, and there is no "
                    f"such stage: write {way_out}, name another stage by `verifier`, or list a "
                    "label and a verifier stage before it"
                )
        return ""

    def named_steps(self, name: str) -> frozenset[int]:
        """Return the steps of a stage that other stages name, as NAME@STEP."""
        found = (parse_left(needed.source) for stage in self.stages for needed in stage.inputs)
        return frozenset(
            int(left.step) for left in found if left[:2] == ("", name) and left.step.isdecimal()
        )

    @property
    def uses_verifier(self) -> bool:
        """Return whether any stage trains a verifier or asks one."""
        return any(stage.uses_verifier for stage in self.stages)

    @property
    def uses_grm(self) -> bool:
        """Return whether any stage trains or asks a generative reward model."""
        return any(stage.uses_grm or stage.role == "grm" for stage in self.stages)

    @property
    def reads_items(self) -> bool:
        """Return whether any stage reads the preference items of `critique.data`."""
        return any(stage.role == "grm" and stage.problems for stage in self.stages)

    @property
    def rl_stages(self) -> list[RlStage]:
        """Return the stages of reinforcement learning, in order."""
        return [stage for stage in self.stages if isinstance(stage, RlStage)]

    @property
    def evaluations(self) -> list[EvaluateStage]:
        """Return the stages that evaluate, in order."""
        return [stage for stage in self.stages if isinstance(stage, EvaluateStage)]

    def prm_stage(self, name: str) -> Sampling:
        """Return the stage of that name, which leaves a PRM behind.

        Raises:
          KeyError: there is no stage of that name, or it leaves no PRM.
        """
        named = {stage.name: stage for stage in self.stages}.get(stage_of(name))
        if isinstance(named, Sampling) and "prm" in named.leaves:
            return named
        raise KeyError(name)

    def _check_grm(self) -> None:
        """Refuse a policy and a generative reward model that cannot work in one step."""
        asked = [stage for stage in self.stages if stage.uses_grm]
        for stage in asked:
            if self.grm.vocab != self.model.vocab:
                raise ValueError(
                    f"model.vocab is {self.model.vocab} and grm.vocab {self.grm.vocab}: inside "
                    f"the step of stage {stage.name} both read the same token ids and need one "
                    "vocabulary"
                )
        mixed = any(isinstance(s, SftStage) and s.others == "problems" for s in self.stages)
        for name in ("prompt_columns", "response_columns"):
            if mixed and getattr(self.data, name) > getattr(self.critique.data, name):
                raise ValueError(
                    f"data.{name} is above critique.data.{name}, and an sft stage mixes rows of "
                    "both: raise the second"
                )
        stages = [stage for stage in self.stages if isinstance(stage, RftStage)]
        if self.critique.principles == "from_query" and any(s.by_endpoint for s in stages):
            raise ValueError(
                "critique.principles `from_query` is for a model that runs here: an endpoint "
                "writes criteria with its judgement (`with_responses`) or none"
            )
        hinted = any(stage.hinted for stage in stages)
        if hinted and self.critique.principles == "from_query":
            raise ValueError(
                "critique.principles `from_query` writes criteria before the responses are seen, "
                "and a hint would be learned with them: set hinted: false in rft stages"
            )
        if asked and self.critique.principles == "given":
            raise ValueError(
                "critique.principles `given` needs criteria in the data, which the responses of a "
                "policy have not: take another value"
            )

    def _check_split(self) -> None:
        """Refuse stages whose verifier would read the policy's ids with another tokenizer."""
        for stage in self.stages:
            if stage.shares_ids:
                raise ValueError(
                    f"verifier_tokenizer needs the host between answer and verdict, and stage "
                    f"{stage.name} reads the policy's ids as the verifier's: only an "
                    "evaluate stage, a prm stage and an rl stage without collect may ask such a "
                    "verifier"
                )

    __pydantic_config__ = STRICT
