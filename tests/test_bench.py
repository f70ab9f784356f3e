"""`python -m rlvr_jax.bench`: one JSON line, with the numbers that it promises."""

import json

import pytest

from rlvr_jax import bench

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


def test_a_share_of_no_prm_is_refused(capsys) -> None:
    with pytest.raises(SystemExit):
        bench.main(["tiny", "S", *SMALL, "--prm-share", "0.5"])
    assert "--prm-share needs --prm" in capsys.readouterr().err
