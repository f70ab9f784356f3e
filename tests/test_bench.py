"""`python -m rlvr_jax.bench`: one JSON line, with the numbers that it promises."""

import json

import pytest

from rlvr_jax import bench, parameters
from rlvr_jax.config import ModelConfig

FIELDS = "tool size workload step_s gen_s update_s gen_tok_s peak_rss_mb compile_s compiles"
FIELDS += " rollout_useful update_useful"
SMALL = "--steps 1 --warmup 1 --layers 1 --prompts 2 --samples 2 --new 8 --prompt 8".split()


def measured(capsys, *args) -> dict:
    assert bench.main([*args]) == 0
    said = capsys.readouterr().out
    assert said.endswith("\n") and said.count("\n") == 1
    return json.loads(said)


def test_one_line_with_every_number(capsys) -> None:
    told = measured(capsys, "tiny", "S", *SMALL)
    assert set(FIELDS.split()) <= set(told)
    assert [told[x] for x in ("tool", "size", "workload")] == ["rlvr_jax", "tiny", "S"]
    for name in ("step_s", "gen_s", "update_s", "gen_tok_s", "peak_rss_mb", "compile_s"):
        assert told[name] > 0, name
    assert told["step_s"] >= max(told["gen_s"], told["update_s"])
    assert told["compiles"] == {"rollout": 1, "update": 1}
    assert told["new_tokens"] == 2 * 2 * 8 and told["mismatch"] <= 1e-5
    # All responses are of one length: nothing is decoded for nothing, nor read.
    assert told["rollout_useful"] == told["update_useful"] == 1


def test_shares_of_a_copy_and_of_a_product(capsys, monkeypatch) -> None:
    monkeypatch.setattr(bench, "_speeds", lambda cfg: bench.Speeds(1e9, 1e12))
    told = measured(capsys, "tiny", "S", *SMALL, "--shares")
    cfg, args = sizes("tiny", *SMALL, "--shares")
    moved, done = bench.decode_bytes(cfg, args), bench.update_operations(cfg, args)
    assert told["decode_of_copy"] == pytest.approx(moved / told["gen_s"] / 1e9, rel=0.05, abs=1e-3)
    assert told["update_of_product"] == pytest.approx(done / told["update_s"] / 1e12, abs=1e-3)
    assert told["tok_s_chip"] == pytest.approx(told["new_tokens"] / told["step_s"], rel=0.05)


def sizes(size: str, *more: str):
    args = bench._arguments([size, "S", *more])
    shape = bench.LARGE.get(size, bench.TINY)
    return ModelConfig(**(shape | {"layers": args.layers or shape["layers"]})), args


def test_bytes_and_operations_are_those_of_counting() -> None:
    """The oracle walks over columns, rows and pairs, for an untied and a tied model."""
    cfg, args = sizes("0.5b", *SMALL[:4], *"--layers 2 --prompts 2 --samples 3".split())
    args.prompt, args.new = 5, 7
    width, heads, size = 896, 14 * 64, 64
    layer = width * heads * 2 + width * 2 * size * 2 + 3 * width * 4864
    head = 151936 * width
    moved = operations = 0
    for column in range(1, 8):
        moved += 2 * (2 * layer + head)
        for _prompt in range(2):
            moved += 2 * 2 * 2 * (2 * size) * 5  # bytes, layers, keys and values
            moved += 3 * 2 * 2 * 2 * (2 * size) * column
    for _prompt in range(2):
        operations += sum(2 * 2 * layer + 2 * 4 * heads * (token + 1) for token in range(5))
        for _row in range(3):
            for token in range(7):
                operations += 2 * (2 * layer + head) + 2 * 4 * heads * (5 + token + 1)
    assert bench.decode_bytes(cfg, args) == moved
    assert bench.update_operations(cfg, args) == 3 * operations


@pytest.mark.parametrize(("size", "count"), [("0.5b", 494_032_768), ("1.5b", 1_543_714_304)])
def test_the_large_sizes_are_those_of_the_published_models(size, count) -> None:
    """The numbers of parameters in the safetensors headers of Qwen2.5-0.5B and 1.5B."""
    cfg, _ = sizes(size)
    assert sum(x.size for x in parameters.abstract(cfg).values()) == count


@pytest.mark.parametrize("more", ["--longest 4", "--slots 2", "--prm frozen"])
def test_shares_need_the_workload_that_is_counted(more, capsys) -> None:
    with pytest.raises(SystemExit):
        bench.main(["tiny", "S", *SMALL, "--shares", *more.split()])
    assert "--shares is for workload S" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [("--slots", "2", "--part-tokens", "16", "--scan", "--prm", "frozen", "--prm-share", "0.5")],
)
def test_the_long_tail_in_few_slots(capsys, more) -> None:
    told = measured(capsys, "tiny", "L", *SMALL, "--new", "20", *more)
    assert told["compiles"] == {"rollout": 1, "update": 1}
    assert told["new_tokens"] == 4 * 16 and told["mismatch"] <= 1e-5
    assert 0.5 < told["rollout_useful"] <= 1 and 0.5 < told["update_useful"] <= 1


@pytest.mark.parametrize("wrong", ["--samples 0", "--prompts 0", "--slots -1", "--part-tokens 0"])
def test_what_the_config_refuses_is_one_sentence(capsys, wrong) -> None:
    assert bench.main(["tiny", "S", *SMALL, *wrong.split()]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and "Traceback" not in said.err and not said.out


@pytest.mark.parametrize("wrong", ["--steps 0", "--new -1", "--prompt 0", "--longest -2"])
def test_a_size_without_meaning_is_refused(capsys, wrong) -> None:
    with pytest.raises(SystemExit):
        bench.main(["tiny", "S", *SMALL, *wrong.split()])
    assert "must be at least 1" in capsys.readouterr().err


def test_fewer_than_no_steps_to_warm_up_are_refused(capsys) -> None:
    with pytest.raises(SystemExit):
        bench.main(["tiny", "S", *SMALL, "--warmup", "-1"])
    assert "--warmup must be at least 0" in capsys.readouterr().err


def test_a_share_of_no_prm_is_refused(capsys) -> None:
    with pytest.raises(SystemExit):
        bench.main(["tiny", "S", *SMALL, "--prm-share", "0.5"])
    assert "--prm-share needs --prm" in capsys.readouterr().err
