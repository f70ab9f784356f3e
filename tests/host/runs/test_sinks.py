"""Trackers get metrics, config and samples; one that fails is named once and ends no run.

The libraries are not here: modules of their names note what is called. The tests at the end write
with the real ones and read what lies on the disk: `make test-sinks`.
"""

import importlib.util
import json
import math
import sys
import time
from types import ModuleType, SimpleNamespace

import pytest

from rlvr_jax.config import Config, SftStage
from rlvr_jax.host.runs import settings, sinks
from rlvr_jax.host.runs.folder import Run
from rlvr_jax.host.runs.metric_table import METRICS

NAMES = ("wandb", "mlflow", "trackio")
ROW = {
    **{"question": "1 + 1?", "reference": "2", "response": "3", "reward": 0.0},
    **{"advantage": -1.5, "oracle": 0.0, "truncated": False, "pieces": ["3"]},
}
SHOWN = [["1 + 1?", "2", "3", 0.0, -1.5, 0.0, False]]


class Fake(ModuleType):
    """A module that notes its calls; `broken` names a function that raises."""

    def __init__(self, name, broken=""):
        super().__init__(name)
        self.calls, self.broken = [], broken

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args, **options):
            if name == self.broken:
                raise ConnectionError("no\nroute")
            self.calls.append((name, args, options))
            if name == "init":
                parts = ("log", "define_metric", "finish")
                return SimpleNamespace(**{part: getattr(self, part) for part in parts})
            if name == "start_run":
                return SimpleNamespace(info=SimpleNamespace(run_id="run7"))
            return (name, args, options)

        return call

    def named(self, name):
        return [(args, options) for called, args, options in self.calls if called == name]


@pytest.fixture
def fake(monkeypatch):
    """fake(name, broken) -> the module that stands in for a library."""

    def fake(name, broken=""):
        module = Fake(name, broken)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    for variable in (
        "WANDB_MODE",
        "WANDB_PROJECT",
        "MLFLOW_TRACKING_URI",
        "MLFLOW_EXPERIMENT_NAME",
        "MLFLOW_ALLOW_FILE_STORE",
    ):
        monkeypatch.setenv(variable, "")  # so that what the code sets is gone after the test
        monkeypatch.delenv(variable)
    return fake


def use(names, folder, write=True):
    """Write two steps and a table; `write` is what a run does."""
    tracked = sinks.Sinks(names, folder, "demo", {"seed": 3})
    if write:
        tracked.write("rl", 1, {"reward/mean": 0.5, "nothing": None, "list": [1], "n": 2})
        tracked.show("rl", 1, [ROW])
        tracked.write("rl", 2, {"reward/mean": 0.75})
    tracked.close()


def test_nothing_is_opened_before_it_is_needed(fake, tmp_path):
    modules = [fake(name) for name in NAMES]
    use(NAMES, tmp_path, write=False)
    assert [module.calls for module in modules] == [[], [], []]


def test_weights_and_biases_get_everything_and_stay_offline(fake, tmp_path):
    wandb = fake("wandb")
    use(["wandb"], tmp_path)
    ((_, options),) = wandb.named("init")
    assert options["mode"] == "offline" and options["config"] == {"seed": 3}
    assert (options["name"], options["project"], options["dir"]) == (
        "demo",
        "rlvr-jax",
        str(tmp_path),
    )
    notes, *logged = [args[0] for args, _ in wandb.named("log")]
    assert notes["notes"][2] == {"columns": list(sinks.NOTES), "data": sinks._notes()}
    assert wandb.named("define_metric") == [(("rl/*",), {"step_metric": "rl/step"})]
    assert logged[0] == {"rl/step": 1, "rl/reward/mean": 0.5, "rl/n": 2}
    assert logged[2] == {"rl/step": 2, "rl/reward/mean": 0.75}
    assert logged[1]["rl/samples"][2] == {"columns": list(sinks.COLUMNS), "data": SHOWN}
    assert len(wandb.named("finish")) == 1


def test_a_resume_goes_on_in_the_same_run_of_weights_and_biases(fake, tmp_path):
    wandb = fake("wandb")
    use(["wandb"], tmp_path)
    use(["wandb"], tmp_path)
    (tmp_path / "other").mkdir()
    use(["wandb"], tmp_path / "other")
    places = [options["id"] for _, options in wandb.named("init")]
    assert places[0] == places[1] != places[2]


def test_mlflow_gets_everything_in_the_run_folder(fake, tmp_path):
    mlflow = fake("mlflow")
    use(["mlflow"], tmp_path)
    assert mlflow.named("set_tracking_uri") == [(((tmp_path / "mlflow").as_uri(),), {})]
    assert mlflow.named("log_metrics") == [
        (({"rl/reward/mean": 0.5, "rl/n": 2},), {"step": 1}),
        (({"rl/reward/mean": 0.75},), {"step": 2}),
    ]
    config, notes, samples = (args for args, _ in mlflow.named("log_dict"))
    assert notes[1] == "metrics.json" and notes[0]["loss"]["note"] == METRICS["loss"].note
    assert config == ({"seed": 3}, "config.json")
    assert samples[1] == "samples/rl_step_000001.json" and samples[0]["response"] == ["3"]
    assert len(mlflow.named("end_run")) == 1
    use(["mlflow"], tmp_path)
    assert [options["run_id"] for _, options in mlflow.named("start_run")] == [None, "run7"]


def test_trackio_gets_everything(fake, tmp_path):
    trackio = fake("trackio")
    use(["trackio"], tmp_path)
    ((_, options),) = trackio.named("init")
    assert (options["name"], options["config"]) == ("demo", {"seed": 3})
    notes, *logged = [args[0] for args, _ in trackio.named("log")]
    assert logged[0] == {"rl/step": 1, "rl/reward/mean": 0.5, "rl/n": 2}
    tables = [options["data"] for _, options in trackio.named("Table")]
    assert list(notes) == ["notes"] and tables == [sinks._notes(), SHOWN]
    assert len(logged) == 3 and len(trackio.named("finish")) == 1


@pytest.mark.parametrize("broken", ["init", "log", "Table"])
def test_a_tracker_that_fails_is_named_once_and_left(broken, fake, tmp_path, capsys):
    fake("wandb", broken)
    mlflow = fake("mlflow")
    use(["wandb", "mlflow"], tmp_path)
    said = capsys.readouterr().err
    assert (
        said.count("wandb is no longer written, metrics.jsonl is: ConnectionError: no route") == 1
    )
    assert len(mlflow.named("log_metrics")) == 2 and len(mlflow.named("end_run")) == 1


def test_a_tracker_that_cannot_be_closed_ends_no_run(fake, tmp_path, capsys):
    fake("wandb", "finish")
    use(["wandb"], tmp_path)
    assert "wandb is no longer written" in capsys.readouterr().err


def test_a_tracker_that_fails_is_closed(fake, tmp_path, capsys):
    """Or MLflow refuses the next run of the process."""
    mlflow = fake("mlflow", "log_metrics")
    use(["mlflow"], tmp_path)
    assert len(mlflow.named("end_run")) == 1
    assert capsys.readouterr().err.count("mlflow is no longer written") == 1


def test_names_that_mlflow_allows_for_metrics():
    names = ("loss", "eval/accuracy", "eval/accuracy/a/b", "gate/x (y)%", "reward/é: 1-2")
    allowed = ["loss", "eval/accuracy", "eval/accuracy.a.b", "gate/x _y__", "reward/é: 1-2"]
    assert [sinks._mlflow_name(name) for name in names] == allowed


def test_numbers_that_are_not_finite_reach_the_samples_as_nothing(fake, tmp_path):
    wandb = fake("wandb")
    tracked = sinks.Sinks(["wandb"], tmp_path, "demo", {})
    tracked.show("rl", 1, [ROW | {"reward": math.nan}] * 99)
    table = wandb.named("Table")[1][1]["data"]
    assert len(table) == sinks.MOST_ROWS and table[0][3] is None


def test_a_tracker_that_is_not_installed_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    sinks.check_sinks([])
    with pytest.raises(ValueError, match=r"wandb, which is not installed: pip install -e '.\[wa"):
        sinks.check_sinks(["wandb"])


def test_a_run_tells_its_trackers(fake, tmp_path):
    wandb = fake("wandb")
    cfg = Config(name="demo", runs=str(tmp_path), stages=(SftStage(),), log=("wandb",))
    run = Run(cfg)
    run.sinks.write("sft", 1, {"loss": 1.0})
    run.write_samples("sft", 1, [ROW])
    run.close()
    assert len(wandb.named("log")) == 3 and len(wandb.named("finish")) == 1
    config = wandb.named("init")[0][1]["config"]
    assert config["stages"][0]["stage"] == "sft" and json.dumps(config)


def test_a_run_may_go_on_with_other_trackers(tmp_path):
    cfg = {"name": "demo", "stages": [{"stage": "sft"}]}
    one, other = (settings.dump(settings.parse(cfg | {"log": x})) for x in (["wandb"], []))
    assert settings.difference(one, other) is None


NUMBERS = {"eval/accuracy": 0.5, "eval/accuracy/gsm": 0.25, "eval/accuracy/a (b): 90% \u00e9": 1.0}


def use_library(name, folder):
    """Two steps and a table, then a third step as after a resume, by the real library."""
    for step in (1, 3):
        tracked = sinks.Sinks([name], folder, "demo", {"seed": 375, "stages": [{"stage": "rl"}]})
        tracked.write("rl", step, {"reward/mean": step / 4} | NUMBERS)
        tracked.show("rl", step, [ROW])
        tracked.close()


@pytest.fixture
def said(fake, capsys):
    """Nothing was said about a library that is no longer written."""
    yield
    assert "no longer written" not in capsys.readouterr().err


@pytest.mark.sinks
@pytest.mark.usefixtures("said")
def test_the_files_of_weights_and_biases(tmp_path):
    use_library("wandb", tmp_path)
    one, other = sorted((tmp_path / "wandb").glob("offline-run-*"))
    for run in (one, other):
        (log,) = run.glob("*.wandb")
        # The seed is of the config, and rl/* goes by rl/step. A process of its own writes the file.
        wanted = {b"375", b"rl/*", b"rl/step", *(f"rl/{name}".encode() for name in NUMBERS)}
        end = time.monotonic() + 30
        while missing := {word for word in wanted if word not in log.read_bytes()}:
            assert time.monotonic() < end, missing
            time.sleep(0.1)
        notes, shown = sorted(run.rglob("*.table.json"))
        assert json.loads(shown.read_text("utf-8"))["data"] == SHOWN
        assert json.loads(notes.read_text("utf-8"))["data"] == sinks._notes()
    assert one.name.rpartition("-")[2] == other.name.rpartition("-")[2]


@pytest.mark.sinks
@pytest.mark.usefixtures("said")
def test_the_files_of_mlflow(tmp_path):
    use_library("mlflow", tmp_path)
    client = importlib.import_module("mlflow").MlflowClient((tmp_path / "mlflow").as_uri())
    experiment = client.get_experiment_by_name("rlvr-jax")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "demo" and run.info.status == "FINISHED"
    rewards = client.get_metric_history(run.info.run_id, "rl/reward/mean")
    assert [(x.step, x.value) for x in rewards] == [(1, 0.25), (3, 0.75)]
    assert run.data.metrics["rl/eval/accuracy"] == 0.5
    assert run.data.metrics["rl/eval/accuracy.gsm"] == 0.25
    assert run.data.metrics["rl/eval/accuracy.a _b_: 90_ \u00e9"] == 1.0

    def kept(name):
        (path,) = (tmp_path / "mlflow").rglob(name)
        return json.loads(path.read_text("utf-8"))

    assert kept("config.json")["seed"] == 375
    assert kept("metrics.json")["reward/std"]["low"] == METRICS["reward/std"].low
    assert kept("rl_step_000003.json")["response"] == ["3"]


@pytest.mark.sinks
@pytest.mark.usefixtures("said")
def test_the_files_of_trackio(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read by the import
    use_library("trackio", tmp_path)
    storage = importlib.import_module("trackio.sqlite_storage").SQLiteStorage
    rows = storage.get_logs("rlvr-jax", "demo")
    steps = [row for row in rows if "rl/reward/mean" in row]
    assert [(row["rl/step"], row["rl/reward/mean"]) for row in steps] == [(1, 0.25), (3, 0.75)]
    assert all(steps[0][f"rl/{name}"] == value for name, value in NUMBERS.items())
    assert sum("rl/samples" in row for row in rows) == sum("notes" in row for row in rows) == 2
    assert storage.get_run_config("rlvr-jax", "demo")["seed"] == 375
    assert list((tmp_path / "trackio").glob("*.db"))
