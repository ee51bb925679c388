"""One rank of a stage, as a fork of its node's fork server or, where that cannot be, a Python of its own:
`python -m nemo_demix.ranks.worker CONFIG LOGS RANK GROUP`.

RANK counts over all groups; in the environment are the rank and the world size within the group.

Keep the top of this module light: Megatron's checkpoint writer spawns processes that import it again.
"""

import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from nemo_demix.progress import is_line
from nemo_demix.ranks.environment import OFF, load_torch, renew_after_fork, why_not_a_fork
from nemo_demix.ranks.said import Said
from nemo_demix.runtime.lifetime import StoppedEarly, block_jobs_signals, die_with_parent, name_process

logger = logging.getLogger("nemo_demix.ranks")  # this module may run as __main__
_WHY = "NEMO_DEMIX_NOT_FORKED"  # why a rank started a Python of its own


def become_rank(arguments: Sequence[str], environment: Mapping[str, str], folder: str) -> NoReturn:
    """Make a rank of a process that the fork server has just forked.

    Args:
        arguments: The rank's arguments, as on a command line.
        environment: All of the rank's environment.
        folder: The working directory.
    """
    from nemo_demix.ranks import preloaded  # the server has imported it

    os.setsid()  # a signal to the agent's process group is the agent's to pass on
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    why = preloaded.UNSAFE or why_not_a_fork()
    if why is not None:
        os.execve(sys.executable, [sys.executable, "-m", __name__, *arguments], {**environment, _WHY: why})
    sys.modules["__main__"] = sys.modules[__name__]  # what is spawned from here imports the main module again
    renew_after_fork(int(environment["RANK"]), int(environment["LOCAL_RANK"]))
    _run(arguments, preloaded.OUTPUT)


def _run(arguments: Sequence[str], printed: str = "") -> NoReturn:
    """Join the ranks, do the task, leave.

    Args:
        printed: What the imports have printed already, for the log.
    """
    config_path, logs, rank, group = Path(arguments[0]), Path(arguments[1]), int(arguments[2]), int(arguments[3])
    name_process(f"demix-rank-{rank}")
    # Ranks must not outlive a launcher that was killed: they would train on into the next run's folder. Nor may the
    # processes that Megatron's checkpoint writer forks outlive their rank; a fork does not inherit the setting.
    die_with_parent()
    os.register_at_fork(after_in_child=die_with_parent)
    _redirect_output(logs / f"rank_{rank}.log", speak=rank == 0)  # before any process is started that would inherit it
    sys.stderr.write(printed)
    block_jobs_signals()
    why = os.environ.get(_WHY)
    if rank == 0 and why not in (None, f"{OFF}=0"):
        logger.warning("each rank imports its framework by itself, which takes longer: %s", why)

    from nemo_demix.errors import DemixError

    try:
        _work(config_path, logs, group)
    except StoppedEarly as stopped:
        logger.info("%s", stopped)
        _leave(128 + signal.SIGTERM)
    except DemixError as error:
        logger.debug("user's mistake", exc_info=True)
        (logs / f"error_{rank}.txt").write_text(str(error), encoding="utf-8")
        _leave(2)
    except Exception:
        traceback.print_exc()
        _leave(1)
    _leave(0)


def _leave(code: int) -> NoReturn:
    """End at once: a clean exit would join collectives that others wait in, and take seconds for NeMo's modules."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _work(config_path: Path, logs: Path, group: int) -> None:
    load_torch()
    from nemo_demix.artifacts import DataManifest
    from nemo_demix.config import load_resolved
    from nemo_demix.prepared import PreparedRun
    from nemo_demix.runtime.ranks import start_ranks, stop_ranks

    config = load_resolved(config_path)
    manifest = DataManifest.load(config.run_dir / "datasets" / "manifest.json")
    ranks = start_ranks(config.parallel, config.backend)
    from nemo_demix.ranks import tasks

    task: dict[str, Any] = json.loads((logs / "task.json").read_text(encoding="utf-8"))
    wanted = task.pop("wanted")
    if ranks.is_main and group == 0:
        _say_ready(logs, wanted, config.backend)
    tasks.TASKS[task["task"]](PreparedRun(config, manifest), {**task, "group": group}, ranks)
    stop_ranks()


def _say_ready(logs: Path, wanted: float, backend: str) -> None:
    """Record how long the command has waited for its ranks, and what they are made of."""
    from nemo_demix.artifacts import write_json
    from nemo_demix.stack import releases

    ready = time.time()
    logger.info("ready %.1f s after they were wanted", ready - wanted)
    launched = {"wanted": wanted, "ready": ready, "forked": _WHY not in os.environ, "releases": releases(backend)}
    write_json(logs / "launch.json", launched)


def _redirect_output(path: Path, speak: bool) -> None:
    """Send everything this process and its libraries print to a log; what rank 0 says also to the command."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    package_logger = logging.getLogger("nemo_demix")
    package_logger.setLevel(logging.INFO)
    package_logger.propagate = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    handler.addFilter(is_line)
    package_logger.handlers = [handler, Said(path.parent)] if speak else [handler]


if __name__ == "__main__":
    _run(sys.argv[1:])
elif __name__ == "__mp_main__":  # spawned by a rank
    die_with_parent()
