"""Responses of a model that no stage asks: one token by token, or many in batches."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from rlvr_jax import engine, parameters, ragged, sharding
from rlvr_jax.config import MeshConfig, ModelConfig, SampleConfig
from rlvr_jax.host import weights
from rlvr_jax.host.runs import log
from rlvr_jax.host.text import template
from rlvr_jax.host.text.tokenizer import Tokenizer
from rlvr_jax.stages import trained
from rlvr_jax.stages.programs import Layout
from rlvr_jax.structs import Params, Prompts

BUCKET = 64  # prompt columns are a multiple of this, so that prompts share compiled programs


def load_model(path: Path) -> tuple[Params, ModelConfig]:
    """Load a pretrained model, sharded over all devices of this machine.

    Raises:
      ValueError: the model cannot be read, or its sizes do not divide over the devices.
    """
    on_cpu = jax.default_backend() == "cpu"
    sizes = weights.load_architecture(path)
    cfg = ModelConfig(**sizes, compute="float32" if on_cpu else "bfloat16")
    mesh_cfg = MeshConfig(fsdp=len(jax.devices()))
    sharding.check_divides(cfg.sizes, parameters.names(cfg), mesh_cfg, "model")
    mesh = sharding.make_mesh(mesh_cfg)
    where = sharding.shard_tree(parameters.abstract(cfg), mesh, mesh_cfg)
    return weights.load(path, cfg, where, log.say_aside), cfg


def load_trained(source: str, tokenizer: str) -> tuple[Params, ModelConfig, Tokenizer]:
    """Load the model of RUN:STAGE[@STEP], on one device, and its tokenizer or the one named.

    Raises:
      ValueError, RunError, CheckpointError: it is not there, or cannot be read.
    """
    one = MeshConfig()
    layout = Layout(sharding.make_mesh(one, jax.devices()[:1]), one)
    found = trained.load(source, layout, tokenizer)
    cfg = dataclasses.replace(found.cfg, slots=0, decode_tensor=0)  # of one response
    return found.params, cfg, found.tokenizer


def generate_tokens(
    params: Params,
    cfg: ModelConfig,
    prompt: list[int],
    eos: tuple[int, ...],
    budget: int,
    sample: SampleConfig,
    key: jax.Array,
) -> Iterator[int]:
    """Yield the ids of one response as they are drawn, with its EOS if it has one.

    `prompt` has the ids of the prompt; `budget` is the greatest number of ids.
    """
    ids, mask = template.left_pad([prompt], -(-len(prompt) // BUCKET) * BUCKET, "prompt")
    prompts = Prompts(ids, mask, ids[:, :0], mask[:, :0])
    sampler = engine.Sampler(key, eos, 1, budget, sample)

    @jax.jit
    def begin(params):
        prefix, _ = ragged.read_prompts(params, prompts.prompt_QP, prompts.prompt_mask_QP, cfg)
        return engine.begin(params, engine.hold(prefix, cfg), 1, sampler, cfg)

    @functools.partial(jax.jit, donate_argnums=1)
    def write(params, slots, written):
        return engine.write_column(params, slots, written, sampler, cfg)

    params = jax.jit(parameters.for_decoding, static_argnums=1)(params, cfg)
    slots, written = begin(params)
    for column in range(budget):
        yield int(np.asarray(written.response_BR[0, column]))
        if written.done_B[0] or column + 1 == budget:
            return
        slots, written = write(params, slots, written)


def generate_batches(
    params: Params,
    cfg: ModelConfig,
    prompt_ids: Sequence[Sequence[int]],
    batch: int,
    sampler: engine.Sampler,
) -> Iterator[tuple[int, list[int], bool]]:
    """Yield the number of a prompt, the ids of its response, and whether the response ended.

    Prompts of a similar length are answered together, in columns whose number is BUCKET times a
    power of 2: one program is compiled for each such width.  The random stream of a response is the
    number of its prompt, so that no other prompt changes it.  `batch` is the number of rows, before
    it is rounded up to a multiple of the devices.
    """
    shards = sharding.data_shards()
    rows = -(-batch // shards) * shards

    @jax.jit
    def write_batch(params, asked, stream_B):
        return engine.generate(params, asked, sampler._replace(stream_B=stream_B), cfg)[0]

    by_width: dict[int, list[int]] = {}
    for number, ids in enumerate(prompt_ids):
        by_width.setdefault(_columns(len(ids)), []).append(number)
    for width, numbers in sorted(by_width.items()):
        for start in range(0, len(numbers), rows):
            part = numbers[start : start + rows]
            full = part + [part[-1]] * (rows - len(part))
            ids, mask = template.left_pad([prompt_ids[i] for i in full], width, "prompt")
            asked = Prompts(ids, mask, ids[:, :0], mask[:, :0])
            wrote = jax.device_get(write_batch(params, asked, np.array(full, np.int32)))
            for i, number in enumerate(part):
                tokens = wrote.response_BR[i, : wrote.length_B[i]].tolist()
                yield number, tokens, not wrote.truncated_B[i]


def _columns(length: int) -> int:
    return BUCKET << max(0, (length - 1).bit_length() - (BUCKET - 1).bit_length())
