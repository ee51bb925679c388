"""One rank of a stage: `python -m nemo_demix.launch.worker CONFIG LOGS RANK GROUP`, started by an agent.

RANK counts over all groups; in the environment are the rank and the world size within the group.

Keep the top of this module light: Megatron's checkpoint writer spawns processes that import it again.
"""

import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from nemo_demix.runtime.lifetime import StoppedEarly, block_jobs_signals, die_with_parent


def main() -> None:
    """Join the ranks, do the task, leave."""
    config_path, logs, rank, group = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    # Ranks must not outlive a launcher that was killed: they would train on into the next run's folder. Nor may the
    # processes that Megatron's checkpoint writer forks outlive their rank; a fork does not inherit the setting.
    die_with_parent()
    os.register_at_fork(after_in_child=die_with_parent)
    _redirect_output(logs / f"rank_{rank}.log", speak=rank == 0)  # before any process is started that would inherit it
    block_jobs_signals()

    from nemo_demix.errors import DemixError

    try:
        _work(config_path, json.loads((logs / "task.json").read_text(encoding="utf-8")), group)
    except StoppedEarly as stopped:
        logging.getLogger("nemo_demix.launch").info("%s", stopped)  # this module runs as __main__
        _leave(128 + signal.SIGTERM)
    except DemixError as error:
        logging.getLogger(__name__).debug("user's mistake", exc_info=True)
        (logs / f"error_{rank}.txt").write_text(str(error), encoding="utf-8")
        _leave(2)
    _leave(0)


def _leave(code: int) -> NoReturn:
    """End at once: a clean exit would join collectives that others wait in, and take seconds for NeMo's modules."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _work(config_path: Path, task: dict[str, Any], group: int) -> None:
    from nemo_demix.artifacts import DataManifest
    from nemo_demix.config import load_resolved
    from nemo_demix.runtime.ranks import start_ranks, stop_ranks

    config = load_resolved(config_path)
    manifest = DataManifest.load(config.run_dir / "datasets" / "manifest.json")
    ranks = start_ranks(config.parallel)
    from nemo_demix.launch import tasks

    tasks.TASKS[task["task"]](config, manifest, {**task, "group": group}, ranks)
    stop_ranks()


def _redirect_output(path: Path, speak: bool) -> None:
    """Send everything this process and its libraries print to a log; rank 0's own progress also to the terminal."""
    terminal = os.fdopen(os.dup(2), "w", buffering=1)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    package_logger = logging.getLogger("nemo_demix")
    package_logger.setLevel(logging.INFO)
    package_logger.propagate = False
    formatter = logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S")
    for stream in (terminal, sys.stderr) if speak else (sys.stderr,):
        handler = logging.StreamHandler(stream)
        handler.setFormatter(formatter)
        package_logger.addHandler(handler)


if __name__ == "__main__":
    main()
elif __name__ == "__mp_main__":  # spawned by a rank
    die_with_parent()
