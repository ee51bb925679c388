"""A site's settings: which account and partition, where nemo-demix comes from. See slurm/site.example.env."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from nemo_demix.errors import ClusterError

_PAIR = ("DEMIX_CONTAINER_IMAGE", "DEMIX_CONTAINER_MOUNTS")
_OURS = ("SBATCH_", "DEMIX_")


@dataclass(frozen=True)
class Site:
    """What the jobs are submitted with.

    Attributes:
        environment: sbatch's whole environment, which it hands on to the jobs.
        origins: Where each SBATCH_ name was set, for messages.
    """

    environment: dict[str, str]
    origins: dict[str, str]


def load_site(path: str | None, scripts: Path) -> Site:
    """Return the environment with a site file read into it, as `source` does.

    Without a container and without DEMIX_SETUP, the jobs find nemo-demix where this process has it.

    Args:
        path: The site file; None: the environment alone.
        scripts: The folder of the sbatch files.

    Raises:
        ClusterError: if the file cannot be read, leaves a name empty, or sets one of two that belong together.
    """
    # What an allocation around this process set is meant for its own steps.
    kept = ("SLURM_CONF", "SLURM_JWT")
    outer = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_") or name in kept}
    environment = outer if path is None else _sourced(Path(path), outer)
    where = path or "the environment"
    if empty := sorted(name for name, value in environment.items() if name.startswith(_OURS) and not value.strip()):
        raise ClusterError(f"{where}: {', '.join(empty)} empty; fill in, or delete the line for the cluster's default")
    for name, other in (_PAIR, _PAIR[::-1]):
        if name in environment and other not in environment:
            raise ClusterError(f"{where}: {other} is missing; {name} is set, and neither is of use without the other")
    environment["DEMIX_SLURM"] = str(scripts)
    if not {"DEMIX_SETUP", _PAIR[0]} & set(environment):
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment.get('PATH', '')}"
    origins = {
        name: where if outer.get(name) != value else "the environment"
        for name, value in environment.items()
        if name.startswith("SBATCH_")
    }
    return Site(environment, origins)


def _sourced(path: Path, environment: dict[str, str]) -> dict[str, str]:
    if not path.is_file():
        raise ClusterError(f"launch.site={path}: no such file; copy slurm/site.example.env and fill it in")
    command = ["bash", "-c", 'set -ea; source "$1" >&2; env --null', "bash", str(path.resolve())]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    if result.returncode:
        raise ClusterError(
            f"launch.site={path}: not a shell file of NAME=VALUE lines: {' '.join(result.stderr.split())}"
        )
    pairs = (entry.partition("=") for entry in result.stdout.split("\0") if entry)
    return {name: value for name, _, value in pairs if name not in ("_", "SHLVL")}
