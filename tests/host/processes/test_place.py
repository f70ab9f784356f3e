"""A process finds its place by what its launcher put into its environment."""

import importlib

import pytest

from rlvr_jax.config import ProcessesConfig
from rlvr_jax.host.processes import place
from rlvr_jax.host.processes.place import ALONE, Place, PlaceError, find_place, refuse_several

SLURM = {
    "SLURM_JOB_ID": "4097",
    "SLURM_STEP_NODELIST": "node[007-008]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}
GKE = {"TPU_WORKER_HOSTNAMES": "127.0.0.1,127.0.0.2,127.0.0.3", "TPU_WORKER_ID": "2"}
SLICES = {
    "MEGASCALE_COORDINATOR_ADDRESS": "127.0.0.9:8080",
    "MEGASCALE_NUM_SLICES": "2",
    "MEGASCALE_SLICE_ID": "1",
}
OMPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}


@pytest.fixture
def here(monkeypatch):
    """Put variables into the environment; on a TPU host, if the test says so."""
    for name in ("KUBERNETES_SERVICE_HOST", "JAX_LOCAL_DEVICE_IDS", "JAX_COORDINATOR_PORT"):
        monkeypatch.delenv(name, raising=False)

    def put(variables, tpu=False):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        if tpu:
            from jax._src.clusters import cloud_tpu_cluster

            monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
            monkeypatch.setattr(place, "running_in_cloud_tpu_vm", True)
            monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
            for name in ("MEGASCALE_NUM_SLICES", "MEGASCALE_SLICE_ID"):
                monkeypatch.setenv(name, variables.get(name, ""))
            address = variables.get("MEGASCALE_COORDINATOR_ADDRESS")
            monkeypatch.setattr(
                cloud_tpu_cluster, "get_tpu_env_value_from_metadata", lambda key: address
            )

    return put


def test_a_laptop_is_alone(here):
    here({})
    assert find_place(ProcessesConfig()) == ALONE


def test_slurm(here):
    here(SLURM)
    assert find_place(ProcessesConfig()) == Place("node007:61441", 2, 1, [0])
    here({"JAX_LOCAL_DEVICE_IDS": "0,1,2,3"})  # one task for all devices of a node
    assert find_place(ProcessesConfig()).devices is None


def test_a_slurm_job_of_one_task_is_alone(here):
    here(SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"})
    assert find_place(ProcessesConfig()) == ALONE


def test_gke_tpu(here):
    here(GKE, tpu=True)
    assert find_place(ProcessesConfig()) == Place("127.0.0.1:8482", 3, 2)


def test_two_slices(here):
    here(GKE | SLICES, tpu=True)
    assert find_place(ProcessesConfig()) == Place("127.0.0.9:8482", 6, 5)


def test_a_tpu_host_alone(here):
    here({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, tpu=True)
    assert find_place(ProcessesConfig()) == ALONE


def test_open_mpi(here):
    here(OMPI)
    found = find_place(ProcessesConfig())
    assert found.coordinator.startswith("10.96.0.1:")
    assert found == Place(found.coordinator, 4, 3, [1])


def test_a_pod_of_no_job_is_alone(here):
    here({"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    assert find_place(ProcessesConfig()) == ALONE


def test_the_config_comes_first(here):
    here(SLURM)
    cfg = ProcessesConfig(coordinator="host:1234", count=3, index=2)
    assert find_place(cfg) == Place("host:1234", 3, 2)


def test_a_count_that_the_job_has_not_is_refused(here):
    with pytest.raises(PlaceError, match="count is 4 and nothing here tells"):
        find_place(ProcessesConfig(count=4))
    here(SLURM)
    with pytest.raises(PlaceError, match="count is 4 and this job has 2 processes"):
        find_place(ProcessesConfig(count=4))
    assert find_place(ProcessesConfig(count=2)).count == 2


def test_a_job_that_cannot_be_read_is_refused(here):
    here(SLURM | {"SLURM_NTASKS": "two"})
    with pytest.raises(PlaceError, match="cannot be found: ValueError"):
        find_place(ProcessesConfig())


@pytest.mark.parametrize(
    "values, words",
    [
        (dict(coordinator="host"), "not of the form host:port"),
        (dict(coordinator="host:x", count=2), "not of the form host:port"),
        (dict(coordinator="host:1234"), "a coordinator needs count"),
        (dict(coordinator="host:1234", count=2, index=2), "index 2 is not from 0 to count - 1 = 1"),
        (dict(index=1), "index is for a coordinator that is named"),
        (dict(count=-1), "count must be at least 0"),
        (dict(timeout=0), "timeout must be at least 1"),
    ],
)
def test_values_that_fit_no_run_are_refused(values, words):
    with pytest.raises(ValueError, match=words):
        ProcessesConfig(**values)


@pytest.mark.parametrize("job, tpu", [(SLURM, False), (OMPI, False), (GKE, True)])
def test_a_command_for_one_process_is_refused_in_a_job_of_several(here, job, tpu):
    here(job, tpu)
    with pytest.raises(PlaceError, match=r"^evaluate is for one process, and this job has \d: "):
        refuse_several("evaluate")


def test_a_command_for_one_process_runs_alone(here):
    assert find_place(ProcessesConfig()) == ALONE and refuse_several("evaluate") is None
    here(SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"})
    assert find_place(ProcessesConfig()).count == 1 and refuse_several("evaluate") is None


@pytest.mark.parametrize("name", ["audit", "bench", "evaluate", "generate"])
def test_these_commands_are_for_one_process(here, capsys, name):
    """Refused before anything is read: none of the files is there."""
    here(SLURM)
    words = {
        "audit": ["--config", "none.yaml"],
        "bench": ["tiny", "S"],
        "evaluate": ["--model", "none"],
        "generate": ["--model", "none", "--prompt", "a"],
    }
    assert importlib.import_module(f"rlvr_jax.{name}").main(words[name]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{name} is for one process, and this job has 2" in said
