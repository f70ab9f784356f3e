"""What every stage needs: the run folder, the mesh, the tokenizer, problems and models."""

import functools
import random
import zlib
from collections.abc import Callable

import jax
from jax.sharding import Mesh

from rlvr_jax import model, sharding, train_step
from rlvr_jax.config import Config, ModelConfig
from rlvr_jax.host import checkpoint, data, tasks, template
from rlvr_jax.host.run import Run, RunError
from rlvr_jax.host.tokenizer import Tokenizer
from rlvr_jax.structs import Array, Params, Prompts, TrainState


class Workspace:
    """One run on one mesh.  Cheap to make; reads what it is asked for, once."""

    def __init__(self, run: Run, mesh: Mesh):
        self.run, self.mesh = run, mesh
        self.cfg: Config = run.cfg

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        path = self.run.tokenizer_file
        if not path.exists():
            raise RunError(f"there is no {path}: put a `tokenizer` stage before this one")
        tok = Tokenizer(path)
        if tok.vocab != self.cfg.model.vocab:
            raise RunError(
                f"the tokenizer has {tok.vocab} pieces and model.vocab is {self.cfg.model.vocab}: "
                "policy, verifier and tokenizer need one vocabulary"
            )
        return tok

    def problems(self, split: str) -> data.RandomAccessSource:
        """The records of a split, every one of them known to fit its columns."""
        source = data.open_split(self.run.data, split)
        cfg, tok = self.cfg.data, self.tokenizer
        asked, checked, answered = 0, 0, 0
        for record in data.each(source):
            asked = max(asked, len(tok.encode(template.prompt_text(record))))
            checked = max(checked, len(tok.encode(template.check_text(record, cfg.check_question))))
            answered = max(answered, len(tok.encode(record["demonstration"])) + 1)
        needed = {"prompt_columns": asked, "check_columns": checked}
        needed |= {"response_columns": answered} if split == "sft" else {}
        for key, columns in needed.items():
            if columns > getattr(cfg, key):
                raise RunError(
                    f"the longest {key.split('_')[0]} of split {split} has {columns} tokens and "
                    f"the window {getattr(cfg, key)}: raise data.{key} to at least {columns}"
                )
        return source

    def columns(self, records: list[data.Record]) -> Prompts:
        """Records as the token columns of the config (numpy)."""
        cfg = self.cfg.data
        return template.prompts(
            records, self.tokenizer, cfg.prompt_columns, cfg.check_columns, cfg.check_question
        )

    def write_problems(self) -> None:
        """Generate the problem set of the config, unless it is there already."""
        cfg = self.cfg.data
        counts = {k: getattr(cfg, k) for k in ("sft", "label", "train", "test") if getattr(cfg, k)}
        if data.prepared(self.run.data, "problems"):
            return
        splits = tasks.generate(cfg.tasks, counts, self.cfg.seed)
        rng = random.Random(self.cfg.seed)
        for record in splits.get("sft", []):
            record["demonstration"] = tasks.demonstrate(record, cfg.demonstration_errors, rng)
        data.prepare(self.run.data, splits, "problems")

    def key(self, name: str) -> Array:
        """The random key of a stage: its own stream, whatever stages come before it."""
        return jax.random.fold_in(jax.random.key(self.cfg.seed), zlib.crc32(name.encode()))

    def seed(self, name: str) -> int:
        """The data-order seed of a stage."""
        return zlib.crc32(f"{self.cfg.seed}/{name}".encode())

    def load(self, stage: str, cfg: ModelConfig) -> Params:
        """The parameters a finished stage left behind, laid out by the table."""
        if self.run.finished(stage) is None:
            raise RunError(
                f"stage {stage!r} has not been run: list it before the one that needs it"
            )
        like = self._with_shardings(model.abstract(cfg))
        return checkpoint.restore_params(self.run.checkpoints(stage), like)

    def new_state(self, name: str, cfg: ModelConfig, tx, params: Params | None) -> TrainState:
        """A state in the table's layout, moments included; random parameters if none are given."""
        key = self.key(name)

        def build(params):
            start = model.init(jax.random.fold_in(key, 0), cfg) if params is None else params
            return train_step.init_state(jax.random.fold_in(key, 1), start, tx)

        return jax.jit(build, out_shardings=self.shardings(jax.eval_shape(build, params)))(params)

    def shardings(self, tree):
        return sharding.shard_tree(tree, self.mesh, self.cfg.mesh)

    def like(self, state: TrainState):
        """Shapes, dtypes and shardings of a state: what a checkpoint is restored into."""
        return self._with_shardings(jax.eval_shape(lambda x: x, state))

    def jit_step(self, step: Callable, state: TrainState, outputs: int) -> Callable:
        """Jit `step(state, ...) -> (state, ...)`: state donated, and kept in the table's layout."""
        kept = (self.shardings(state), *[None] * (outputs - 1))
        return jax.jit(step, donate_argnums=0, out_shardings=kept)

    def place(self, tree):
        return sharding.place_rows(tree, self.mesh)

    def _with_shardings(self, tree):
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            tree,
            self.shardings(tree),
        )
