"""One greedy answer to each held-out problem of a run, by this program and by transformers.

    python -m rlvr_jax.convert RUN:STAGE EXPORTED
    python docs/results/transformers_greedy.py RUN STAGE EXPORTED

prints accuracy by the run's own rule for both, and on how many problems they write the same tokens.
Needs torch and transformers, which nothing else here does.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlvr_jax import engine, parameters
from rlvr_jax.config import SampleConfig
from rlvr_jax.host import rules
from rlvr_jax.host.problems import dataset
from rlvr_jax.host.runs import settings
from rlvr_jax.host.runs.checkpoint import restore_params
from rlvr_jax.host.runs.folder import tokenizer_path
from rlvr_jax.host.text import template
from rlvr_jax.host.text.tokenizer import open_tokenizer


def ours(run: Path, stage: str, records: list, tok, cfg) -> list[list[int]]:
    params = restore_params(run / "checkpoints" / stage, parameters.abstract(cfg.model))
    sampler = engine.Sampler(
        jax.random.key(0), tok.eos, 1, cfg.data.response_columns, SampleConfig(temperature=0)
    )
    write = jax.jit(lambda params, prompts: engine.generate(params, prompts, sampler, cfg.model))
    done, _ = write(params, template.build_prompts(records, tok, cfg.data, False))
    rows = zip(np.asarray(done.response_BR), np.asarray(done.length_B), strict=True)
    return [row[:length].tolist() for row, length in rows]


def theirs(folder: Path, records: list, tok, cfg) -> list[list[int]]:
    peer = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    text = AutoTokenizer.from_pretrained(folder)
    out = []
    for record in records:
        said = json.loads(record["messages"] or "[]")
        said = said or [{"role": "user", "content": record["question"]}]
        asked = text.apply_chat_template(said, add_generation_prompt=True, return_tensors="pt")
        ids = asked if torch.is_tensor(asked) else asked["input_ids"]
        assert ids[0].tolist() == template.encode_prompt(record, tok, cfg.data)
        made = peer.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=cfg.data.response_columns,
            do_sample=False,
            eos_token_id=list(tok.eos),
            pad_token_id=tok.eos[0],
        )
        out.append(made[0, ids.shape[1] :].tolist())
    return out


def accuracy(rows: list[list[int]], records: list, tok) -> float:
    finished = [bool(set(row) & set(tok.eos)) for row in rows]
    hits = [rules.score_record(tok.decode(row), r) for row, r in zip(rows, records, strict=True)]
    return float(np.mean([hit * end for hit, end in zip(hits, finished, strict=True)]))


def main(run: Path, stage: str, folder: Path) -> None:
    cfg = settings.load(run / "config.resolved.yaml")
    tok = open_tokenizer(tokenizer_path(cfg, run))
    records = list(dataset.each(dataset.open_split(run / "data", "test")))
    mine, peer = ours(run, stage, records, tok, cfg), theirs(folder, records, tok, cfg)
    result = {
        "problems": len(records),
        "accuracy_here": accuracy(mine, records, tok),
        "accuracy_transformers": accuracy(peer, records, tok),
        "same_tokens": sum(a == b for a, b in zip(mine, peer, strict=True)),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
