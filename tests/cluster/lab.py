"""A real Slurm on one machine: slurmctld and one slurmd a "node", each with a hostname of its own, in one folder.

All of it lives in one PID namespace. Killing that namespace's first process ends every daemon, step and job at once,
and it is killed with the process that started it, so nothing outlives a test session however it ends. What it does not
have: cgroups, GPUs that work (eight clones of /dev/null stand for them), and more cores than this machine.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
NODES = 8
PACKAGES = "slurmctld slurmd slurm-client munge slurm-wlm-basic-plugins libslurm-dev gcc libc6-dev shellcheck"
ACCOUNTING_PACKAGES = "slurmdbd slurm-wlm-mysql-plugin mariadb-server-core mariadb-client-core"
_START_S = 60
# Tests say how long things take on an idle machine; another worker's tests may run beside them.
_PATIENCE = 3


def missing(accounting: bool = False) -> str | None:
    """Why a lab cannot be started here, with the remedy; None where it can."""
    programs = ["slurmctld", "slurmd", "munged", "sbatch", "unshare", "setpriv", "gcc"]
    programs += ["slurmdbd", "mariadbd", "mariadb-install-db"] if accounting else []
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    if absent := [name for name in programs if shutil.which(name, path=path) is None]:
        packages = f"{PACKAGES} {ACCOUNTING_PACKAGES}" if accounting else PACKAGES
        return f"{', '.join(absent)} not installed; on Debian: apt-get install -y --no-install-recommends {packages}"
    if os.geteuid() != 0:
        return "daemons of several nodes on one machine need root; run the tests as root"
    trial = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount", "--mount-proc", "--uts", "true"], capture_output=True
    )
    if trial.returncode:
        return f"no namespaces here ({trial.stderr.decode().strip()}); run the tests outside an unprivileged container"
    return None


@dataclass
class Lab:
    """A Slurm that is up.

    Attributes:
        folder: Everything it writes.
        environment: What its clients need: SLURM_CONF.
    """

    folder: Path
    accounting: bool = False
    environment: dict[str, str] = field(init=False)
    _process: subprocess.Popen[bytes] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        ordinary = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        self.environment = {**ordinary, "SLURM_CONF": str(self.folder / "etc" / "slurm.conf")}

    def start(self) -> None:
        """Start every daemon and return when all nodes are idle."""
        _write_files(self.folder, _free_ports(NODES + 2), self.accounting)
        settings = {"LAB": str(self.folder), "NODES": str(NODES), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
        command = "setpriv --pdeathsig KILL unshare --pid --fork --mount --mount-proc --kill-child=KILL bash".split()
        with open(self.folder / "log" / "init.log", "wb") as log:
            self._process = subprocess.Popen(
                [*command, str(HERE / "lab_init.sh")],
                env={**self.environment, **settings}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self.wait(lambda: self.run("sinfo", "-h", "-N", "-p", "batch", "-o", "%T", check=False).split().count("idle")
                  == NODES, _START_S, "the nodes to be idle")  # fmt: skip

    def stop(self) -> None:
        """End every daemon and job, whatever state they are in."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(timeout=30)
            self._process = None

    def run(self, *command: str, check: bool = True, timeout: float = 60) -> str:
        """The output of a Slurm client. One that only asks, and fails without a word, is asked once more."""
        for _ in range(2 if command[0] in ("squeue", "sinfo", "sacct", "scontrol") else 1):
            result = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=timeout)
            if result.returncode == 0 or result.stdout or result.stderr:
                break
        said = f"{' '.join(command)}: exit code {result.returncode}\n{result.stdout}{result.stderr}"
        assert not check or result.returncode == 0, said
        return result.stdout.strip()

    def states(self, job: str) -> list[str]:
        """The state of each task of a job, in order of index; one state where it is no array."""
        # Of a job that it has forgotten, squeue says that there is none: see `wait_until`.
        found = self.run("squeue", "-rht", "all", "-j", job, "-o", "%K|%T", check=not self.accounting)
        rows = [row.split("|") for row in found.splitlines()]
        return [state for _, state in sorted(rows, key=lambda row: int(row[0]) if row[0].isdecimal() else 0)]

    def wait_until(self, job: str, *states: str, timeout: float = 60) -> list[str]:
        """Wait until every task of a job is in one of the states; returns them."""
        found: list[str] = []

        def reached() -> bool:
            found[:] = self.states(job)
            # With accounting squeue forgets a job two seconds after its end, and an hour after it without.
            return set(found) <= set(states) and (bool(found) or self.accounting)

        self.wait(reached, timeout, f"job {job} to be {' or '.join(states)}")
        return found

    def wait(self, condition: Callable[[], bool], timeout: float, what: str) -> None:
        """Wait for a condition; say what was there instead where it does not come true."""
        deadline = time.monotonic() + _PATIENCE * timeout
        while not condition():
            if time.monotonic() > deadline:
                jobs = self.run("squeue", "-rt", "all", "-o", "%i %j %T %r %N", check=False)
                log = (self.folder / "log" / "slurmctld.log").read_text(errors="replace")[-3000:]
                raise AssertionError(f"waited {_PATIENCE * timeout:.0f} s for {what}\n{jobs}\n{log}")
            time.sleep(0.1)

    def cancel_all(self) -> None:
        """Leave no job in the queue."""
        self.run("scancel", "--user=root", check=False)
        self.wait(lambda: not self.run("squeue", "-h"), 90, "the queue to be empty")


def _free_ports(count: int) -> list[int]:
    """So many ports in a row, below those that the kernel gives to outgoing connections; workers look in their own."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for first in range(20_000 + worker % 6 * 2000, 32_000, 50):
        ports = list(range(first, first + count))
        if all(_is_free(port) for port in ports):
            return ports
    raise AssertionError("no free ports between 20000 and 32000")


def _is_free(port: int) -> bool:
    with socket.socket() as trial:
        try:
            trial.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _write_files(folder: Path, ports: Sequence[int], accounting: bool) -> None:
    for name in ("etc", "run", "log", "state", "dev", *(f"spool/node{number}" for number in range(1, NODES + 1))):
        (folder / name).mkdir(parents=True, exist_ok=True)
    key = folder / "etc" / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(1024))
    host = socket.gethostname().partition(".")[0]
    hosts = [f"127.0.0.1 localhost {host}", *(f"127.0.0.1 node{number}" for number in range(1, NODES + 1))]
    (folder / "etc" / "hosts").write_text("\n".join(hosts) + "\n")
    for number in range(8):  # Slurm counts no GPU without a device file
        os.mknod(folder / "dev" / f"gpu{number}", 0o20666, os.makedev(1, 3))
    (folder / "etc" / "gres.conf").write_text(f"NodeName=node[1-{NODES}] Name=gpu File={folder}/dev/gpu[0-7]\n")
    (folder / "etc" / "cgroup.conf").write_text("CgroupAutomount=no\n")
    plugin = folder / "etc" / "pyxis_stand_in.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", plugin, HERE / "pyxis_stand_in.c"], check=True)
    (folder / "etc" / "plugstack.conf").write_text(f"required {plugin}\n")
    controller, database, *nodes = ports
    storage = "AccountingStorageType=accounting_storage/none"
    if accounting:
        storage = (
            f"AccountingStorageType=accounting_storage/slurmdbd\nAccountingStorageHost=127.0.0.1\n"
            f"AccountingStoragePort={database}\nAccountingStoragePass={folder}/run/munge.sock"
        )
        dbd = folder / "etc" / "slurmdbd.conf"
        dbd.write_text(_SLURMDBD_CONF.format(folder=folder, host=host, port=database))
        dbd.chmod(0o600)
    (folder / "etc" / "slurm.conf").write_text(
        _SLURM_CONF.format(folder=folder, host=host, port=controller, storage=storage, nodes=NODES,
                           node_ports=f"[{nodes[0]}-{nodes[-1]}]", first_job=int(time.time()) % 10_000_000 + 1000,
                           remembered_s=2 if accounting else 3600)
    )  # fmt: skip


# Partition `low` can be preempted by `batch`. MaxArraySize is small, so that too many components are not many.
_SLURM_CONF = """\
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={port}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/run/munge.sock,cred_expire=5
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.%n.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=5,sched_min_interval=0,bf_interval=1
DependencyParameters=kill_invalid_depend
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
MaxArraySize=32
FirstJobId={first_job}
KillWait=30
MinJobAge={remembered_s}
InactiveLimit=0
Waittime=0
SlurmctldTimeout=30
SlurmdTimeout=30
BatchStartTimeout=30
MessageTimeout=20
ReturnToService=2
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=5
GresTypes=gpu
DefMemPerCPU=1000
{storage}
NodeName=node[1-{nodes}] NodeAddr=127.0.0.1 Port={node_ports} Sockets=2 CoresPerSocket=56 RealMemory=2000000 \
Gres=gpu:8 State=UNKNOWN
PartitionName=batch Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=low   Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1  PreemptMode=REQUEUE GraceTime=0
"""

_SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.sock
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser=root
PidFile={folder}/run/slurmdbd.pid
LogFile={folder}/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct
"""
