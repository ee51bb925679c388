"""NeMo-Run's executors other than Slurm's: their fields, what is refused, and every one built that can be here."""

import copy
import dataclasses
import importlib.util
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemo_demix.cluster.executors import EXECUTORS, LOCAL, executor_errors
from nemo_demix.cluster.experiments import _add, _surroundings, _waves, run_waiting
from nemo_demix.cluster.site import Site
from nemo_demix.cluster.submit import PlannedJob
from nemo_demix.config import DemixConfig, LaunchConfig
from nemo_demix.config.limits import LIMITS
from nemo_demix.errors import ClusterError, StackError
from nemo_demix.stages.launch import launch_stage
from tests.cluster.test_launch import configuration
from tests.cluster.test_sbatch import calls
from tests.helpers import REPOSITORY

# What each has to be given, and a place that its jobs share with this machine; {} is that place.
GIVEN: dict[str, dict[str, Any]] = {
    "docker": {"container_image": "nemo:26.08", "volumes": ["{}:{}"]},
    "lepton": {
        "container_image": "nemo:26.08", "nemo_run_dir": "/shared/nemo_run", "gpus_per_node": 8,
        "mounts": [{"path": "/", "mount_path": "{}", "from": "node-nfs:shared"}],
    },
    "dgx_cloud": {
        "base_url": "http://127.0.0.1:9/api/v1", "kube_apiserver_url": "http://127.0.0.1:9", "client_id": "demix",
        "client_secret": "env:DGX_SECRET", "project_name": "demix", "container_image": "nemo:26.08",
        "pvc_nemo_run_dir": "{}/nemo_run", "pvcs": [{"path": "{}", "name": "shared", "claimName": "shared"}],
    },
    "kubeflow": {"volume_mounts": [{"name": "shared", "mountPath": "{}"}]},
    "skypilot": {"storage_mounts": {"{}": {"name": "shared", "store": "s3", "mode": "MOUNT"}}},
    "skypilot_jobs": {
        "cluster_config_overrides": {
            "kubernetes": {"pod_config": {"spec": {"containers": [{"volumeMounts": [{"mountPath": "{}"}]}]}}}
        }
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> DemixConfig:
    return configuration(tmp_path_factory.mktemp("runs"), recipe=REPOSITORY / "recipes/quickstart.yaml")


Launched = Callable[..., DemixConfig]


@pytest.fixture
def launched(quickstart: DemixConfig, tmp_path: Path) -> Launched:
    """The quickstart, launched from a folder that all its jobs have; with more options, and keys of `launch`."""

    def make(executor: str, options: dict[str, Any] | None = None, **keys: Any) -> DemixConfig:
        config = copy.deepcopy(quickstart)
        config.runs_dir = str(tmp_path / "runs")
        given = json.loads(json.dumps(GIVEN[executor]).replace("{}", str(tmp_path)))
        launch = {"through": "nemo_run", "executor": executor, "options": {**given, **(options or {})}, **keys}
        config.launch = dataclasses.replace(config.launch, **launch)
        return config

    return make


def said(config: DemixConfig) -> list[str]:
    return [str(error) for error in executor_errors(config)]


@pytest.fixture(autouse=True)
def _in_a_shared_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEMORUN_HOME", str(tmp_path / "home"))


def test_the_key_takes_every_executor() -> None:
    assert LIMITS[LaunchConfig]["executor"].choices == ("slurm", *EXECUTORS)


@pytest.mark.parametrize("name", [*EXECUTORS, "local"])
def test_fields_are_read_as_nemo_run_has_them(name: str) -> None:
    import nemo_run

    executor = LOCAL if name == "local" else EXECUTORS[name]
    fields = [field for field in dataclasses.fields(getattr(nemo_run, executor.class_name)) if field.init]
    unset = dataclasses.MISSING
    assert executor.fields == {
        field.name: field.default is unset and field.default_factory is unset for field in fields
    }
    assert executor.nodes is None or executor.nodes in executor.fields
    assert set(executor.secrets) <= set(executor.fields)


@pytest.mark.parametrize("name", EXECUTORS)
def test_what_is_given_as_it_should_be_is_taken(name: str, launched: Launched) -> None:
    assert said(launched(name)) == []


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("docker", {"contaner_image": "a"}, "launch.options.contaner_image: no field of DockerExecutor; did you mean "
         "container_image?"),
        ("lepton", {"nodes": 2}, "launch.options.nodes: `launch` sets it itself"),
        ("docker", {"packager": "git"}, "launch.options.packager: `launch` sets it itself"),
        ("dgx_cloud", {"client_secret": "hunter2"}, "launch.options.client_secret: expected env:NAME"),
        ("docker", {"volumes": ["/tmp/x:/elsewhere"]}, "its jobs do not find"),
        ("docker", {"volumes": "/tmp"}, "its jobs do not find"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_by_its_key(
    name: str, options: dict[str, Any], message: str, launched: Launched
) -> None:
    found = said(launched(name, options))
    assert any(message in line for line in found), found
    assert "hunter2" not in " ".join(found)


def test_what_is_wrong_in_other_keys_is_named_by_them_too(launched: Launched) -> None:
    config = launched("lepton")
    config.launch.jobs.search.options = {"gpu_per_node": 4}
    (message,) = said(config)
    assert message.startswith(
        "launch.jobs.search.options.gpu_per_node: no field of LeptonExecutor; did you mean gpus_per"
    )
    config = launched("dgx_cloud")
    del config.launch.options["client_id"]
    assert said(config)[0].startswith("launch.options: DGXCloudExecutor has to be given client_id, which nothing sets")
    config = launched("docker")
    config.parallel = dataclasses.replace(config.parallel, nodes=2, data=2)
    assert "parallel.nodes=2 of base: DockerExecutor has one machine; set parallel.nodes=1" in said(config)
    config = launched("kubeflow")
    config.parallel = dataclasses.replace(config.parallel, nodes=2, data=2)
    assert "KubeflowExecutor needs launch.options.workdir_pvc for several" in said(config)[0]
    config.launch.options["workdir_pvc"] = "claim"
    assert said(config) == []
    (message,) = said(launched("docker", through="slurm"))
    assert message.startswith("launch.executor=docker: an executor of NeMo-Run, but launch.through is slurm")


@pytest.mark.parametrize("name", ["docker", "lepton", "dgx_cloud"])
def test_every_job_is_built_by_nemo_run_and_nothing_is_started(
    name: str, launched: Launched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DGX_SECRET", "hunter2")
    launch_stage(launched(name, dry_run=True))
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if EXECUTORS[name].class_name in line]
    order = [line.partition(f": {EXECUTORS[name].class_name}(")[0] for line in lines]
    assert order == [
        "prepare", "base, after prepare", "components, after base", "search, after components", "final, after search"
    ]  # fmt: skip
    commands = [line.strip() for line in printed.splitlines() if line.startswith("    nemo-demix train role=component")]
    recipe = f"--config-name {tmp_path}/runs/quickstart/launch/recipe.yaml"
    one = [""] if name == "docker" else [f" index={index}" for index in range(7)]
    assert commands == [f"nemo-demix train role=component {recipe}{index}" for index in one]
    assert "nemo:26.08" in lines[0]
    assert "hunter2" not in printed
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["kubeflow", "skypilot", "skypilot_jobs"])
def test_an_absent_client_library_is_named_with_what_installs_it(name: str, launched: Launched) -> None:
    client = EXECUTORS[name].client
    assert client is not None
    if importlib.util.find_spec(client[0]) is not None:
        pytest.skip(f"{client[0]} is installed")
    with pytest.raises(StackError, match=rf"works through {client[0]}, which is not installed here: pip install 'nemo"):
        launch_stage(launched(name, dry_run=True))


def test_a_secret_that_is_not_set_is_named(launched: Launched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DGX_SECRET", raising=False)
    with pytest.raises(ClusterError, match="client_secret: DGX_SECRET is not set in the environment"):
        launch_stage(launched("dgx_cloud", dry_run=True))


def planned(stage: str, after: tuple[str, ...], indices: tuple[int | None, ...], nodes: int = 1) -> PlannedJob:
    return PlannedJob(
        stage=stage, name=f"demix-x-{stage}", script=Path("x.sbatch"), command=(stage,), arguments=("recipe=r.yaml",),
        nodes=nodes, after=after, indices=indices, max_parallel=2, options={}, output=Path("x.out"),
    )  # fmt: skip


PLAN = [
    planned("base", ("prepare",), (None,)),
    planned("components", ("base",), (0, 1, 2, 5)),
    planned("references", ("base",), (0,)),
    planned("verify", ("references",), ()),
    planned("search", ("components", "verify"), (None,)),
]


def test_stages_that_need_nothing_of_each_other_run_at_once_but_on_one_machine() -> None:
    todo = [job for job in PLAN if job.indices]
    waves = [[job.stage for job in wave] for wave in _waves(todo, EXECUTORS["lepton"])]
    assert waves == [["base"], ["components", "references"], ["search"]]
    assert [len(wave) for wave in _waves(todo, EXECUTORS["docker"])] == [1, 1, 1, 1]


def test_models_have_jobs_of_their_own_so_many_at_a_time(tmp_path: Path) -> None:
    import nemo_run

    site = Site({"DEMIX_SETUP": "module load x", "OTHER": "1", "PATH": "/bin"}, {})
    job = dataclasses.replace(PLAN[1], nodes=2, options=_options(container_image="i", nemo_run_dir="/shared"))
    with _surroundings(site, tmp_path), nemo_run.Experiment("x", base_dir=str(tmp_path)) as experiment:
        _add(experiment, [job], EXECUTORS["lepton"], site, tmp_path)
        experiment.dryrun(log=False)
    found = {one.id: (one.dependencies, one.executor) for one in experiment.jobs}
    assert {name: after for name, (after, _) in found.items()} == {
        "components-0": [], "components-1": [], "components-2": ["components-0"], "components-5": ["components-1"]
    }  # fmt: skip
    executor = found["components-5"][1]
    assert (executor.nodes, type(executor.get_launcher()).__name__) == (2, "Torchrun")
    assert executor.env_vars["DEMIX_SETUP"] == "module load x"
    assert "OTHER" not in executor.env_vars
    assert len(executor.env_vars["NEMO_DEMIX_SECRET"]) == 64
    script = tmp_path / "scripts/components-5.sh"
    assert script.read_text().startswith("#!/bin/bash\n")
    assert script.stat().st_mode & 0o111, "torchrun starts it by itself"
    assert "exec nemo-demix components --config-name r.yaml index=5" in script.read_text()


def _options(**values: Any) -> dict[str, Any]:
    from nemo_demix.cluster.submit import Option

    return {name: Option(value, f"launch.options.{name}") for name, value in values.items()}


def test_what_needs_a_stage_that_failed_is_not_started(
    stand_in: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real processes, by the executor that needs no service."""
    ordinary = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}
    site = Site({**ordinary, **stand_in, "STAND_IN_DO": "[[ $1 != components ]]"}, {})
    with pytest.raises(ClusterError, match=r"components: did not succeed.*goes on with what is not done"):
        run_waiting(PLAN, LOCAL, site, tmp_path / "launch")
    assert [call["arguments"].split()[0] for call in calls(stand_in)] == ["base", "components"]
    assert stat.S_IMODE((tmp_path / "launch/experiments").stat().st_mode) == 0o700
