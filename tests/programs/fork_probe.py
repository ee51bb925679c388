"""What a rank that the fork server forked has of its own, and what it does not have of the server's.

fork_probe.py: starts a fork server as an agent does, forks two processes from it, prints what each found as JSON.
"""

import json
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def look(path: str, environment: Mapping[str, str]) -> None:
    """In a forked process, as `become_rank` leaves it when the rank's work begins."""
    from nemo_demix.ranks import preloaded, worker
    from nemo_demix.ranks.environment import renew_after_fork

    found: dict[str, Any] = {"unsafe": preloaded.UNSAFE, "descriptors": descriptors()}
    found["handlers"] = {
        name: str(handler)
        for name, number in [("TERM", signal.SIGTERM), ("USR1", signal.SIGUSR1), ("CHLD", signal.SIGCHLD)]
        if (handler := signal.getsignal(number)) is not signal.SIG_DFL
    }
    sys.modules["__main__"] = worker
    renew_after_fork(int(environment["RANK"]), int(environment["RANK"]))
    import numpy as np
    import torch
    from lightning.pytorch.utilities import rank_zero_only

    found["numpy"] = np.random.random()
    found["torch"] = {"seed": torch.initial_seed(), "drawn": torch.rand(3).tolist()}
    found["rank_zero"] = rank_zero_only(lambda: True)()
    found["threads"] = len(os.listdir("/proc/self/task"))
    found["cuda"] = torch.cuda.is_initialized()
    context = multiprocessing.get_context("spawn")  # as Megatron's checkpoint writer does
    queue = context.Manager().Queue()
    queue.put("through a manager")
    found["manager"] = queue.get()
    found["parent"] = Path(f"/proc/{os.getppid()}/comm").read_text().strip()
    found["session_of_parent"] = os.getsid(os.getppid())
    Path(path).write_text(json.dumps(found))


def descriptors() -> list[str]:
    """What this process has open beyond the standard streams."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            try:
                found.append(os.readlink(f"/proc/self/fd/{name}"))
            except OSError:  # that of the listing
                continue
    return found


def main() -> None:
    from nemo_demix.ranks.processes import start_fork_server

    start_fork_server()
    context = multiprocessing.get_context("forkserver")
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / str(rank) for rank in range(2)]
        processes = [
            context.Process(target=look, args=(str(path), {"RANK": str(rank)})) for rank, path in enumerate(paths)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            assert process.exitcode == 0
        found = [json.loads(path.read_text()) for path in paths]
    import torch

    torch.manual_seed(found[0]["torch"]["seed"])
    print(json.dumps({"ranks": found, "drawn": torch.rand(3).tolist(), "session": os.getsid(0)}))


if __name__ == "__main__":
    main()
