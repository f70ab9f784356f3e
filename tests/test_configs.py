"""The shipped configs: each one loads, is accepted, and says what its header and its paper say."""

import json
import math
import operator
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from rlvr_jax import parameters
from rlvr_jax.host.problems.sources import files
from rlvr_jax.host.runs import settings
from rlvr_jax.stages.check import check_config

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "configs"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))

# What the hub says of the models, in the folders that the headers name.
QWEN25_7B = {
    **{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu"},
    **{"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28},
    **{"num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064},
    **{"max_position_embeddings": 131072, "max_window_layers": 28, "sliding_window": 131072},
    **{"rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "tie_word_embeddings": False},
    **{"use_mrope": False, "use_sliding_window": False, "use_cache": True},
    **{"bos_token_id": 151643, "eos_token_id": 151643, "torch_dtype": "bfloat16"},
    **{"attention_dropout": 0.0, "initializer_range": 0.02, "transformers_version": "4.40.1"},
}
MATH = {"max_position_embeddings": 4096, "sliding_window": 4096, "rope_theta": 10000}
QWEN3_1_7B = {
    **{"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu"},
    **{"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "head_dim": 128},
    **{"num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 151936},
    **{"max_position_embeddings": 40960, "max_window_layers": 28, "sliding_window": None},
    **{"rms_norm_eps": 1e-6, "rope_theta": 1000000, "rope_scaling": None},
    **{"tie_word_embeddings": True, "use_sliding_window": False, "attention_bias": False},
    **{"bos_token_id": 151643, "eos_token_id": 151645, "torch_dtype": "bfloat16"},
}
QWEN3_0_6B = QWEN3_1_7B | {"hidden_size": 1024, "intermediate_size": 3072}
GEMMA2_27B = {
    **{"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "head_dim": 128},
    **{"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh"},
    **{"hidden_size": 4608, "intermediate_size": 36864, "num_hidden_layers": 46},
    **{"num_attention_heads": 32, "num_key_value_heads": 16, "vocab_size": 256000},
    **{"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "attention_bias": False},
    **{"query_pre_attn_scalar": 144, "sliding_window": 4096, "sliding_window_size": 4096},
    **{"max_position_embeddings": 8192, "rms_norm_eps": 1e-6, "rope_theta": 10000.0},
    **{"cache_implementation": "hybrid", "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0},
}
SMOLLM2_135M = {
    **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu"},
    **{"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30},
    **{"num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152},
    **{"max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 100000},
    **{"rope_interleaved": False, "rope_scaling": None, "tie_word_embeddings": True},
}
MODELS = {
    "Qwen2.5-7B": QWEN25_7B,
    "Qwen2.5-7B-Instruct-RLVR": QWEN25_7B | {"eos_token_id": 151645},
    "Qwen2.5-Math-7B": QWEN25_7B | MATH,
    "Eurus-2-7B-SFT": QWEN25_7B | MATH,
    "Qwen3-1.7B": QWEN3_1_7B,
    "Qwen3-0.6B": QWEN3_0_6B,
    "gemma-2-27b": GEMMA2_27B,
    "SmolLM2-135M-Instruct": SMOLLM2_135M,
}
DATA = (
    "multi_subject_rlvr/data/train-00000-of-00001.parquet",
    "multi_subject_rlvr/data/test-00000-of-00001.parquet",
    "math_rlvr/data/train-00000-of-00001.parquet",
    "math_rlvr/data/test-00000-of-00001.parquet",
    "eurus_2_rl_data/data/train-00000-of-00001.parquet",
    "eurus_2_rl_data/data/validation-00000-of-00001.parquet",
    "gsm8k/train.jsonl",
    "gsm8k/test.jsonl",
    "grm/skywork.jsonl",
    "grm/helpsteer2.jsonl",
    "grm/ultrafeedback.jsonl",
    "grm/general.jsonl",
)
# Words of a header -> they are accepted too.
VARIANTS = [
    ("debug", "mesh.data=2 mesh.fsdp=2 mesh.tensor=2"),
    ("cross_domain_qwen2.5_7b", "mesh.data=2 mesh.fsdp=8"),
    ("cross_domain_qwen2.5_7b", "data.sources='[{tfds: math_rlvr, folder: data}]'"),
    ("cross_domain_qwen2.5_7b", "mesh.fsdp=8 rl.prompts=64"),
    ("prime_qwen2.5_math_7b", "model.weights=models/Qwen2.5-Math-7B"),
    ("prime_qwen2.5_math_7b", "rl.advantage.process_weight=0 name=rloo"),
    ("prime_small", "rl.advantage.process_weight=0"),
    ("gsm8k_qwen3_1.7b", "mesh.fsdp=64 rl.prompts=64"),
    ("gsm8k_qwen3_1.7b", "mesh.fsdp=8 rl.prompts=64"),
    ("smollm2_tpu", "mesh.data=8"),
    ("smollm2_tpu", "mesh.fsdp=8"),
]
# The papers' own numbers: hyper-parameters of arXiv 2503.23829 (main RL), 2502.01456 and its code,
# 2504.02495, and the steps of maxtext's pull request 4015.
PAPERS = {
    "cross_domain_qwen2.5_7b": {
        **{"rl.optim.lr": 5e-7, "rl.loss.kl_coef": 0.01, "rl.prompts": 128, "rl.samples": 4},
        **{"data.prompt_columns": 1024, "data.response_columns": 1024, "data.train": 30_000},
        **{"rl.steps": 30_000 // 128, "rl.optim.warmup": round(0.03 * 234)},
        **{"rl.optim.decay": "cosine", "rl.optim.final": 0.1, "rl.optim.beta2": 0.95},
        **{"rl.advantage.normalise": "batch", "rl.advantage.baseline": "rloo"},
        **{"rl.loss.kl_in": "reward", "rl.loss.clip_low": 0.2, "rl.loss.clip_high": 0.2},
        **{"rl.reward.source": "verifier", "rl.reward.mode": "paper"},
    },
    "prime_qwen2.5_math_7b": {
        **{"rl.optim.lr": 5e-7, "rl.optim.decay": "constant", "rl.optim.warmup": 0},
        **{"rl.optim.grad_clip": 1.0, "rl.loss.kl_coef": 0, "rl.prompts": 256, "rl.samples": 4},
        **{"rl.prm.beta": 0.05, "rl.prm.optim.lr": 1e-6, "rl.prm.optim.grad_clip": 10.0},
        **{"rl.minibatches": 4, "rl.filter.low": 0.2, "rl.filter.high": 0.8},
        **{"rl.advantage.process_weight": 1.0, "rl.advantage.whiten": "tokens"},
        **{"data.prompt_columns": 1024, "data.response_columns": 3072, "rl.steps": 240},
        **{"rl.loss.aggregate": "token-mean", "rl.loss.clip_low": 0.2, "rl.loss.clip_high": 0.2},
        **{"rl.sample.temperature": 1.0, "rl.sample.top_p": 1.0, "rl.reward.source": "rule"},
        **{"rl.advantage.normalise": "none", "rl.advantage.baseline": "rloo"},
    },
    "grm_gemma2_27b": {
        **{"cold.optim.lr": 5e-6, "cold.batch": 1024, "cold.steps": 900, "rft.samples": 3},
        **{"grm.optim.lr": 4e-7, "grm.steps": 900, "grm.samples": 4, "grm.prompts": 512 // 4},
        **{"grm.loss.kl_coef": 0.08, "grm.loss.kl_in": "loss", "grm.reward.source": "preference"},
        **{"meta.optim.lr": 1e-5, "meta.batch": 512, "vote.sample.temperature": 0.5},
        **{"vote.votes": (1, 8, 32), "vote.keep": (0.5,), "cold.share": round(186 / 1256, 3)},
    },
    "gsm8k_qwen3_1.7b": {"rl.steps": 100, "rl.reward.source": "rule"},
}
# Parameters of the policy, in billions, as the header's memory estimate has them.
SIZES = {
    "cross_domain_qwen2.5_7b": "7.62 B",
    "prime_qwen2.5_math_7b": "7.62 B",
    "grm_gemma2_27b": "27.2 B",
    "gsm8k_qwen3_1.7b": "1.72 B",
}
WHAT = ("Hardware:", "Time:", "Expect:")


@pytest.fixture
def downloaded(tmp_path, monkeypatch):
    """A working directory with everything that the headers say to put there, in small."""
    monkeypatch.chdir(tmp_path)
    for name, config in MODELS.items():
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        save_file({"model.norm.weight": np.zeros(1, np.float32)}, folder / "model.safetensors")
    question = "Q: {question}\nSolution: {answer}\nReference: {reference}\nOutput:"
    (tmp_path / "models" / "rm7b.txt").write_text(question, encoding="utf-8")
    for name in DATA:
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def load(name, *overrides):
    if name.startswith("smollm2"):  # its package need not be installed here
        parts = ("model", "verifier") if name == "smollm2_verifier" else ("model",)
        here = "models/SmolLM2-135M-Instruct"
        overrides = (*overrides, *(f"{part}.weights={here}" for part in parts))
    return settings.load(FOLDER / f"{name}.yaml", overrides)


def checked(name, *overrides):
    """The config, accepted; skipped where a package that it needs is absent."""
    cfg = load(name, *overrides)
    if cfg.data.tasks or any(source.gym for source in cfg.data.sources):
        pytest.importorskip("reasoning_gym")
    if any(source.tfds for source in cfg.data.sources):
        pytest.importorskip("pyarrow")
    check_config(cfg)
    return cfg


def header(name):
    lines = (FOLDER / f"{name}.yaml").read_text("utf-8").splitlines()
    return "\n".join(lines[: next(i for i, x in enumerate(lines) if not x.startswith("#"))])


def value(cfg, dotted):
    """`rl.optim.lr` of the stage rl, or a key of the config itself."""
    first, _, rest = dotted.partition(".")
    stages = {stage.name: stage for stage in cfg.stages}
    return operator.attrgetter(rest)(stages[first] if first in stages else getattr(cfg, first))


@pytest.mark.parametrize("name", NAMES)
def test_it_is_accepted(downloaded, name):
    assert checked(name).name == name


@pytest.mark.parametrize(("name", "words"), VARIANTS)
def test_what_its_header_offers_is_accepted(downloaded, name, words):
    assert words in header(name)
    key, equals, rest = words.partition("=")
    overrides = (
        [f"{key}={rest.strip(chr(39))}"] if "'" in words else words.replace("# ", "").split()
    )
    checked(name, *overrides)


@pytest.mark.parametrize("name", NAMES)
def test_its_header_says_how_to_run_it_and_what_to_expect(name):
    text = header(name)
    assert f"python -m rlvr_jax.train --config configs/{name}.yaml" in text
    assert [word for word in WHAT if word not in text] == []


@pytest.mark.parametrize("name", PAPERS)
def test_its_numbers_are_the_papers(downloaded, name):
    cfg = load(name)
    assert {key: value(cfg, key) for key in PAPERS[name]} == PAPERS[name]


@pytest.mark.parametrize("name", SIZES)
def test_its_header_counts_the_parameters_right(downloaded, name):
    cfg = load(name)
    shapes = parameters.abstract(cfg.grm if cfg.uses_grm else cfg.model).values()
    count, digits = sum(math.prod(x.shape) for x in shapes) / 1e9, SIZES[name].split()[0]
    assert f"{count:.{len(digits.partition('.')[2])}f}" == digits
    assert SIZES[name] in header(name)


@pytest.mark.parametrize("name", PAPERS)
def test_its_demonstrations_and_problems_are_enough_for_its_steps(downloaded, name):
    """No row is seen twice: all these runs are one epoch."""
    cfg = load(name)
    for stage in cfg.stages:
        data = cfg.critique.data if stage.role == "grm" else cfg.data
        rows = {"sft": data.sft, "rl": data.train}.get(stage.stage)
        if rows is not None and not getattr(stage, "judgements", ""):  # those are counted in a run
            assert stage.steps * getattr(stage, "prompts", getattr(stage, "batch", 0)) <= rows


def examples(page, language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text("utf-8"), re.S)


def test_the_rows_of_the_data_page_are_read():
    rows = [json.loads(line) for line in examples("data.md", "json")[0].splitlines()]
    records = [files.parse_record(row, "file:mine") for row in rows]
    assert [r["reference"] for r in records] == [
        "4",
        "Jane Austen",
        "6",
        "5",
        r"\frac{1}{2}",
        "A) neon",
    ]
    assert [r["demonstration"] for r in records][2:4] == ["3 + 3 = 6", "2 + 3 = 5\n#### 5"]


def test_the_options_on_the_page_of_objectives_exist():
    """Those that are a mapping are parts of an rl stage, those that are a list are stages."""
    found = [yaml.safe_load(text) for text in examples("objectives.md", "yaml")]
    assert found[0]["preset"] == "dapo" and len(found) >= 6
    for example in found:
        stages = example if isinstance(example, list) else [{"stage": "rl"} | example]
        settings.parse({"stages": stages})


@pytest.mark.parametrize("page", ["data.md", "models.md"])
def test_the_keys_on_the_pages_exist(downloaded, page):
    tree = {"stages": [{"stage": "evaluate"}]} | yaml.safe_load(examples(page, "yaml")[0])
    tree.get("model", {}).pop("weights", None)
    settings.parse(tree)
