"""Whether this process is one of several that torchrun or srun started, and where they meet."""

import os
import subprocess

from nemo_demix.errors import ConfigError
from nemo_demix.merging.peers import Peers


def find_peers() -> Peers:
    """Read which of torchrun's or a Slurm step's processes this is, and how many there are; without either it is one.

    Raises:
        ConfigError: if Slurm's list of hosts cannot be read.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return Peers(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    size = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))  # set by srun, not in the batch script around it
    if size == 1:
        return Peers()
    rank = int(os.environ["SLURM_PROCID"])
    hosts = os.environ.get("SLURM_STEP_NODELIST", "")
    try:
        listed = subprocess.run(["scontrol", "show", "hostnames", hosts], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigError(f"SLURM_STEP_NODELIST={hosts}: `scontrol show hostnames` failed ({error})") from None
    step = int(os.environ["SLURM_JOB_ID"]) + int(os.environ.get("SLURM_STEP_ID", "0"))
    meeting = {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": listed.stdout.split()[0],
        "MASTER_PORT": str(meeting_port(step)),
    }
    for name, value in meeting.items():
        os.environ.setdefault(name, value)
    return Peers(rank, size)


def meeting_port(step: int) -> int:
    """Return the port where the processes of a Slurm step meet, by its number: below those that the kernel gives to
    outgoing connections (from 32768 on Linux), any of which may be in use.
    """
    return 10_000 + step % 10_000
