"""NeMo-Run's executors beside Slurm's: what each is called, is given, and wants a configuration to say of it.

Their fields are read from NeMo-Run's source, which is not imported: it takes seconds, and some executors do not import
where their client library is absent.
"""

import ast
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from nemo_demix.cluster.submit import PlannedJob
from nemo_demix.config import DemixConfig, LaunchConfig
from nemo_demix.config.overrides import stage_config
from nemo_demix.config.stages import STAGES
from nemo_demix.errors import ClusterError, ConfigError, DemixError, StackError, near
from nemo_demix.stack import locate

Options = Mapping[str, Any]  # fields of an executor, by name
SLURM = "slurm"
_BASE = ("nemo_run.core.execution.base", "Executor")
# What `launch` itself gives to every executor.
_RESERVED = ("packager", "launcher", "job_dir", "experiment_id")
FROM_ENVIRONMENT = "env:"  # before the name of a variable, in place of a secret


@dataclass(frozen=True)
class Executor:
    """One of NeMo-Run's executors that this process waits for.

    Attributes:
        nodes: Its field for the number of nodes; None: its jobs run on this machine, one after another.
        mounts: The paths that its jobs find by the same path as this machine does.
        mounting: The field that says so, as an example of it.
        client: The module of its client library, and what installs that; None: NeMo-Run brings it.
        secrets: Fields that are not to be written down.
        for_nodes: A field without which NeMo-Run's command for several nodes does not work.
        takes_git: It takes a git archive of the working directory along, as NeMo-Run wants it.
    """

    class_name: str
    module: str
    nodes: str | None
    mounts: Callable[[Options], list[str]]
    mounting: str
    client: tuple[str, str] | None = None
    secrets: tuple[str, ...] = ()
    for_nodes: str | None = None
    takes_git: bool = False

    @property
    def fields(self) -> dict[str, bool] | None:
        """Its fields by name, and whether each has to be given; None where NeMo-Run is not installed."""
        found: dict[str, bool] = {}
        for module, name in (_BASE, (self.module, self.class_name)):
            spec = locate(module)
            if spec is None or spec.origin is None:
                return None
            tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
            classes = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
            for entry in next(classes).body:
                if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name) and _is_given(entry):
                    found[entry.target.id] = entry.value is None
        return found


def _is_given(entry: ast.AnnAssign) -> bool:
    """Return whether a dataclass takes a field as an argument, and means it for others."""
    assert isinstance(entry.target, ast.Name)
    options = entry.value.keywords if isinstance(entry.value, ast.Call) else []
    held_back = any(
        option.arg == "init" and isinstance(option.value, ast.Constant) and not option.value.value for option in options
    )
    return not held_back and not entry.target.id.startswith("_")


def _listed(options: Options, name: str) -> list[Any]:
    value = options.get(name)
    return list(value) if isinstance(value, list | tuple) else []


def _of_each(name: str, key: str) -> Callable[[Options], list[str]]:
    """Give the values of a key in a field that is a list of mappings."""
    return lambda options: [
        str(one[key]) for one in _listed(options, name) if isinstance(one, Mapping) and one.get(key) is not None
    ]


def _docker_mounts(options: Options) -> list[str]:
    """Find which of `volumes` a container has where the host has them."""
    pairs = (str(volume).split(":") for volume in _listed(options, "volumes"))
    return [pair[0] for pair in pairs if len(pair) > 1 and os.path.normpath(pair[0]) == os.path.normpath(pair[1])]


def _sky_mounts(options: Options) -> list[str]:
    """Buckets that are mounted, and what a pod's specification mounts; `file_mounts` are copies."""
    storage = options.get("storage_mounts")
    return [*(storage if isinstance(storage, Mapping) else ()), *_mount_paths(options.get("cluster_config_overrides"))]


def _mount_paths(value: Any) -> Iterator[str]:
    """Yield every `mountPath` in nested values."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key == "mountPath":
                yield str(item)
            else:
                yield from _mount_paths(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _mount_paths(item)


def _execution(name: str) -> str:
    return f"nemo_run.core.execution.{name}"


_SKY = ("sky", "pip install 'nemo_run[skypilot]'")
_STORAGE = "launch.options: {storage_mounts: {/shared: {name: my-bucket, store: s3, mode: MOUNT}}}"
LOCAL = Executor("LocalExecutor", _execution("local"), None, lambda options: ["/"], "")
EXECUTORS = {
    "docker": Executor(
        "DockerExecutor", _execution("docker"), None, _docker_mounts, "launch.options: {volumes: ['/shared:/shared']}",
        ("docker", "pip install docker"),
    ),
    "skypilot": Executor(
        "SkypilotExecutor", _execution("skypilot"), "num_nodes", _sky_mounts, _STORAGE, _SKY, takes_git=True
    ),
    "skypilot_jobs": Executor(
        "SkypilotJobsExecutor", _execution("skypilot_jobs"), "num_nodes", _sky_mounts, _STORAGE, _SKY, takes_git=True
    ),
    "lepton": Executor(
        "LeptonExecutor", _execution("lepton"), "nodes", _of_each("mounts", "mount_path"),
        "launch.options: {mounts: [{path: /, mount_path: /shared, from: node-nfs:shared}]}",
        ("leptonai", "pip install leptonai==0.27.3"),
    ),
    "dgx_cloud": Executor(
        "DGXCloudExecutor", _execution("dgxcloud"), "nodes", _of_each("pvcs", "path"),
        "launch.options: {pvcs: [{path: /shared, name: my-claim}]}", secrets=("client_secret",),
    ),
    "kubeflow": Executor(
        "KubeflowExecutor", _execution("kubeflow"), "num_nodes", _of_each("volume_mounts", "mountPath"),
        "launch.options: {volume_mounts: [{name: shared, mountPath: /shared}]}",
        ("kubernetes", "pip install 'nemo_run[kubeflow]'"),
        for_nodes="workdir_pvc",  # else `$PET_MASTER_ADDR` is an argument that no shell sees
    ),
}  # fmt: skip


def executor_of(launch: LaunchConfig) -> Executor | None:
    """Return the executor that `launch` waits for; None where it submits to Slurm."""
    if launch.through == "local":
        return LOCAL
    return EXECUTORS.get(launch.executor) if launch.through == "nemo_run" else None


def executor_errors(config: DemixConfig) -> Iterator[DemixError]:
    """Yield what is wrong with the fields of the executor that is named; nothing runs, and nobody is asked."""
    launch = config.launch
    if launch.executor == SLURM or launch.executor not in EXECUTORS:  # the latter told by `limit_errors`
        return
    if launch.through != "nemo_run":
        yield ConfigError(
            f"launch.executor={launch.executor}: an executor of NeMo-Run, but launch.through is {launch.through}; set "
            "launch.through=nemo_run, or leave it out"
        )
        return
    executor = EXECUTORS[launch.executor]
    own = {stage.name: getattr(launch.jobs, stage.name).options for stage in fields(launch.jobs)}
    where = {"launch.options": launch.options} | {f"launch.jobs.{stage}.options": own[stage] for stage in own}
    for key, options in where.items():
        yield from _field_errors(launch.executor, executor, key, options)
    if absent := sorted(
        name for name, needed in (executor.fields or {}).items() if needed and name not in launch.options
    ):
        yield ConfigError(
            f"launch.options: {executor.class_name} has to be given {', '.join(absent)}, which nothing sets; add "
            + ", ".join(f"launch.options.{name}" for name in absent)
        )
    for folder in dict.fromkeys((str(config.run_dir.absolute()), os.getcwd())):
        if not any(Path(folder).is_relative_to(os.path.normpath(mount)) for mount in executor.mounts(launch.options)):
            yield ClusterError(
                f"launch.executor={launch.executor}: its jobs do not find {folder} by that path, where the run's "
                f"folder and the recipe's paths are; mount what holds it, as in {executor.mounting}"
            )
    yield from _node_errors(config, executor)


def _node_errors(config: DemixConfig, executor: Executor) -> Iterator[DemixError]:
    """Yield an error for a stage of several nodes, where an executor has one, or lacks what it needs for them."""
    if executor.nodes is not None and (executor.for_nodes is None or executor.for_nodes in config.launch.options):
        return
    for stage in (name for name in STAGES if name != "prepare"):  # which always has one node
        try:
            nodes = stage_config(config, stage).parallel.nodes
        except ConfigError:  # told by `override_errors`
            continue
        if nodes > 1:
            why = (
                "has one machine"
                if executor.nodes is None
                else f"needs launch.options.{executor.for_nodes} for several"
            )
            yield ConfigError(f"parallel.nodes={nodes} of {stage}: {executor.class_name} {why}; set parallel.nodes=1")
            return


def _field_errors(name: str, executor: Executor, key: str, options: Options) -> Iterator[DemixError]:
    known = executor.fields
    if known is None:  # said where it is needed
        return
    ours = {*_RESERVED, executor.nodes}
    for field, value in options.items():
        if field in ours:
            yield ConfigError(
                f"{key}.{field}: `launch` sets it itself; leave it out (nodes come from parallel.nodes, and no code is "
                "packaged: jobs find nemo-demix by DEMIX_SETUP, or in their image)"
            )
        elif field not in known:
            free = [one for one in known if one not in ours]
            yield ConfigError(
                f"{key}.{field}: no field of {executor.class_name}{near(field, free)}; launch.executor={name} has "
                f"{', '.join(sorted(free))}"
            )
        elif field in executor.secrets and not str(value).startswith(FROM_ENVIRONMENT):
            yield ConfigError(
                f"{key}.{field}: expected {FROM_ENVIRONMENT}NAME, the variable that holds it: a configuration is kept "
                "in the run's folder, where a secret has no place"
            )


def check_client(executor: Executor) -> None:
    """Refuse where NeMo-Run, or an executor's own client library, is not installed.

    Raises:
        StackError: saying what to install.
    """
    if locate(executor.module) is None:
        raise StackError("launch.through=nemo_run: nemo_run is not installed here: pip install nemo_run==0.11.1")
    if executor.client is not None and locate(executor.client[0]) is None:
        module, remedy = executor.client
        raise StackError(f"{executor.class_name} works through {module}, which is not installed here: {remedy}")


def values_of(executor: Executor, job: PlannedJob, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of a job's executor as the configuration has them, with secrets taken from the environment.

    Raises:
        ClusterError: if a variable that is named is not set.
    """
    found = {name: option.value for name, option in job.options.items()} if executor is not LOCAL else {}
    for name in executor.secrets:
        variable = str(found.get(name, "")).removeprefix(FROM_ENVIRONMENT)
        if variable not in environment:
            raise ClusterError(f"launch.options.{name}: {variable or name} is not set in the environment")
        found[name] = environment[variable]
    if executor.nodes is not None:
        found[executor.nodes] = job.nodes
    return found
