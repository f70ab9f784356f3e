"""Several processes are one run: equal results, one end, and a resume on any number of them."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import yaml
from make_hosts import (
    Job,
    assert_close,
    assert_rows_close,
    assert_same_learned,
    assert_same_rows,
    assert_same_samples,
    assert_same_steps,
    files,
    gke,
    run_beside,
    slurm,
    write,
)

from rlvr_jax.host.runs import checkpoint

HOSTS = Path(__file__).with_name("hosts.yaml")


@pytest.fixture(scope="module")
def only_sft(tmp_path_factory) -> Path:
    """The config without the stages after sft."""
    tree = yaml.safe_load(HOSTS.read_text())
    tree["stages"] = tree["stages"][:2]
    return write(tmp_path_factory.mktemp("config") / "sft.yaml", tree)


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[Job, Job, list[str]]:
    """One process with 8 devices, and two with 4 each: finished, and what the two printed."""
    one, two = (Job(tmp_path_factory.mktemp(name), HOSTS) for name in ("one", "two"))
    return one, two, run_beside(one, two)


def test_two_processes_log_what_one_does(both):
    one, two, _ = both
    mine = one.rows()
    assert_same_steps(mine, two.rows())
    assert any(row.get("filter/rounds", 0) > 1 for row in mine), "the filter drew no second round"
    assert any(row.get("prm/loss", 0) > 0 for row in mine) and "rule/mean" in mine[-1]
    assert sum("audit/youden" in row for row in mine) == 1


def test_two_processes_write_the_same_samples_in_the_same_order(both):
    one, two, _ = both
    assert assert_same_samples(one.folder, two.folder) == {"fused", "split"}


def test_two_processes_leave_the_same_files(both):
    one, two, _ = both
    patterns = ("verdicts/*", "tokenizer.model")
    mine = files(one.folder, *patterns)
    assert len(mine) == 3 and mine == files(two.folder, *patterns)
    assert_same_rows(one.folder, two.folder, "collected")  # its rewards are those of two sums
    results = [json.loads((job.folder / "eval/evaluate.json").read_text()) for job in (one, two)]
    assert_close(*results, 1e-5)
    assert results[0]["samples"] == 2 and "weighted" in results[0] and "verifier" in results[0]
    stages = [sorted(p.name for p in (job.folder / "stages").iterdir()) for job in (one, two)]
    assert stages[0] == stages[1]
    for job in (one, two):
        assert not list(job.folder.glob("**/*.part")) and (job.folder / "report.html").exists()


def test_two_processes_save_the_same_checkpoint(both):
    one, two, _ = both
    stages = ("sft", "verifier", "fused", "second", "split")
    assert_same_learned(one.folder, two.folder, *stages)


def test_each_process_prints_one_line_of_facts_and_the_first_one_the_rest(both):
    _, two, said = both
    lines = []
    for index, text in enumerate(said):
        facts = [x for x in two.log(index).read_text().splitlines() if x.startswith('{"process')]
        assert len(facts) == 1
        lines.append(json.loads(facts[0]))
        assert lines[-1]["process"] == index and lines[-1]["processes"] == 2
        assert lines[-1]["devices"] == "4 cpu" and lines[-1]["mesh"] == "2x4x1"
        assert "Traceback" not in text
    assert lines[0] | {"process": 1} == lines[1]
    assert "sft: done in" in said[0] and "sft" not in said[1].partition("}")[2]


def test_a_signal_to_one_stops_all_and_any_number_goes_on(both, only_sft, tmp_path):
    """SIGTERM on one; then the same bytes, and nearly so on one process."""
    _, two, _ = both
    job = Job(tmp_path / "a", only_sft)
    job.start(2, place=slurm)
    job.until(2)
    job.send(signal.SIGTERM, 1)
    codes, said = job.wait(120)
    assert codes == [75, 75], said
    assert sum("stopped by SIGTERM; the same command goes on" in text for text in said) == 1
    saved = checkpoint.Checkpoints(job.folder / "checkpoints" / "sft").latest()
    assert saved == len(job.rows("sft"))
    shutil.copytree(job.folder, tmp_path / "saved")
    job.run(2, place=gke)
    assert job.rows("sft") == two.rows("sft"), "a resume gives other bytes"

    shutil.rmtree(job.folder)
    shutil.move(tmp_path / "saved", job.folder)
    said = job.run(1, "mesh.data=1", "mesh.fsdp=8")
    assert "8 cpu device(s)" in said[0] and len(job.rows("sft")) - saved >= 10
    assert_close(job.rows("sft"), two.rows("sft"), 1e-5)


@pytest.mark.slow  # a collective of the CPU may hold the interpreter: then the end takes a minute
@pytest.mark.parametrize("dead", [1, 0])
def test_the_death_of_one_ends_all_and_the_run_goes_on(both, only_sft, tmp_path, dead):
    _, two, _ = both
    job = Job(tmp_path / "a", only_sft)
    job.start(2)
    job.until(4)
    job.send(signal.SIGKILL, dead)
    codes, said = job.wait(120)
    assert codes[dead] == -signal.SIGKILL, said
    if codes[1 - dead] == -signal.SIGABRT:  # JAX's own end, after the last sign of life
        assert "another task died" in said[1 - dead]
    else:
        assert codes[1 - dead] == 75 and f"process {dead} of 2 on" in said[1 - dead], said
        assert said[1 - dead].count("is gone without a word") == 1
    job.run(2)
    assert job.rows("sft") == two.rows("sft"), "a resume gives other bytes"


def test_configs_that_differ_are_refused_by_name_from_one_process(only_sft, tmp_path):
    job = Job(tmp_path, only_sft)
    job.start(2, own=lambda index: [f"sft.optim.lr=0.0{index + 1}"])
    codes, said = job.wait(120)
    assert codes == [2, 2], said
    told = [text for text in said if "stages.sft.optim.lr is 0.01 in process 0 on" in text]
    assert len(told) == 1 and "and 0.02 in process 1 on" in told[0] and "Traceback" not in told[0]
    assert not job.folder.exists()


@pytest.mark.slow
def test_files_that_differ_are_refused_by_name_from_one_process(only_sft, tmp_path):
    """The path is the same on both hosts, and what it holds is not."""
    tree = yaml.safe_load(only_sft.read_text())
    rule = {"stage": "rl", "reward": {"source": "rule", "rule": "rule.py"}, "prompts": 8}
    tree["stages"].append(rule)
    for index in range(2):
        (tmp_path / f"{index}").mkdir()
        (tmp_path / f"{index}" / "rule.py").write_text(f"def score(text, row): return {index}\n")
    job = Job(tmp_path / "runs", write(tmp_path / "ruled.yaml", tree))
    job.start(2, at=lambda index: tmp_path / f"{index}")
    codes, said = job.wait(120)
    assert codes == [2, 2], said
    told = [text for text in said if "the content of rule.py is " in text]
    assert len(told) == 1 and "Traceback" not in told[0] and not job.folder.exists()


@pytest.mark.slow
def test_four_processes(both, tmp_path):
    one, _, _ = both
    job = Job(tmp_path, HOSTS)
    job.run(4)
    for row, other in zip(one.rows(), job.rows(), strict=True):
        assert_rows_close(row, other)


@pytest.mark.slow
def test_a_full_disk_of_one_process_ends_all_and_tears_nothing(only_sft, tmp_path):
    """A limit on the size of files stands for the disk; the first checkpoint meets it."""
    job = Job(tmp_path, only_sft)
    job.start(2, "sft.save_every=4", full=1)
    codes, said = job.wait(120)
    assert codes == [2, 2], said
    assert sum("could not be written" in text for text in said) == 1
    assert checkpoint.Checkpoints(job.folder / "checkpoints" / "sft").latest() is None
    job.run(2, "sft.save_every=4")
