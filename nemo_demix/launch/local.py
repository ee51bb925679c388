"""Starts a stage's ranks on this machine, through torchrun's own API, and reports what became of them."""

import logging
import os
import sys
import uuid
from pathlib import Path
from typing import Any

from nemo_demix.artifacts import write_json
from nemo_demix.config import DemixConfig, save_resolved
from nemo_demix.errors import ConfigError, DemixError
from nemo_demix.runtime.ranks import world_size

logger = logging.getLogger(__name__)


class RankFailure(RuntimeError):
    """A rank ended with an error that is not the user's mistake; its trace is in its log."""


def launch(config: DemixConfig, stage: str, task: dict[str, Any]) -> None:
    """Run a task on all ranks and wait for it.

    The resolved configuration is saved once; the ranks read that file. Rank 0 speaks to the terminal; everything else
    that the ranks print goes to `logs/<stage>/rank_<n>.log`. The ranks die with this process.

    Raises:
        DemixError: the user's mistake that a rank found.
        RankFailure: any other failure of a rank.
    """
    from torch.distributed.elastic.agent.server.api import logger as agent_logger
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if config.parallel.nodes > 1:
        raise ConfigError(
            f"parallel.nodes={config.parallel.nodes}: one machine starts one node; run this stage under Slurm"
        )
    logs = config.run_dir / "logs" / stage
    logs.mkdir(parents=True, exist_ok=True)
    for old in logs.glob("error_*.txt"):
        old.unlink()
    config_path = config.run_dir / "config.yaml"
    save_resolved(config, config_path)
    write_json(logs / "task.json", task)

    _set_environment()
    agent_logger.setLevel(logging.CRITICAL)
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=world_size(config.parallel),
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.2,
        logs_specs=DefaultLogsSpecs(),
    )
    command = [sys.executable, "-m", "nemo_demix.launch.worker", str(config_path), str(logs)]
    try:
        elastic_launch(settings, command[0])(*command[1:])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        _report(logs, rank, failure.exitcode)


def _set_environment() -> None:
    import torch

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if torch.cuda.is_available():
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")  # Megatron's overlap of communication needs the order
    else:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core a rank
        os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")  # megatron-core's fused helpers would each be compiled


def _report(logs: Path, rank: int, exit_code: int) -> None:
    messages = sorted(logs.glob("error_*.txt"))
    if messages and exit_code == 2:
        raise DemixError(messages[0].read_text(encoding="utf-8"))
    log = logs / f"rank_{rank}.log"
    tail = (
        "".join(log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)[-30:])
        if log.exists()
        else ""
    )
    raise RankFailure(f"rank {rank} ended with exit code {exit_code}; the end of {log}:\n{tail}")
