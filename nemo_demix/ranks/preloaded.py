"""What every rank needs, imported once a node: the node's fork server imports this module, and ranks are its forks.

The fork server is Python's own (`multiprocessing.forkserver`), started by `nemo_demix.ranks.processes`. When it has
imported this module it has one thread, no CUDA, and no signal handler, socket or open file of a library. Where that is
not so, `UNSAFE` says why, and each rank starts a Python of its own instead.

Importing this module changes the process: nothing but the fork server does it.
"""

import gc
import importlib
import os
import signal
import sys
import tempfile

from nemo_demix.ranks.environment import OFF, STEP_VARIABLES, TEMPORARIES, load_torch, why_not_forkable
from nemo_demix.runtime.backend import PRELOADED
from nemo_demix.runtime.lifetime import JOB_SIGNALS, die_with_parent, name_process
from nemo_demix.stack import installed_backend

# What ranks run; these bring torch, megatron-core and the framework that is installed.
_MODULES = (
    *PRELOADED[installed_backend()],
    "nemo_demix.ranks.groups",
    "nemo_demix.ranks.tasks",
    "nemo_demix.scoring.store",
    "nemo_demix.search.proxies.serve",
    "nemo_demix.training.train",
)


def settle() -> None:
    """Tie this process to the agent that started it, and keep from it what is meant for the agent."""
    die_with_parent()
    os.setsid()  # what is sent to the agent's process group is the agent's to pass on
    signal.pthread_sigmask(signal.SIG_BLOCK, JOB_SIGNALS)
    name_process("demix-fork")


def _load() -> tuple[str | None, str]:
    """Import everything; returns why ranks cannot be forked, or None, and what was printed on the way."""
    if os.environ.get(OFF) == "0":
        return f"{OFF}=0", ""
    for name in STEP_VARIABLES:
        os.environ.pop(name, None)
    terminal, printed = (os.dup(1), os.dup(2)), os.memfd_create("printed")
    for descriptor in (1, 2):
        os.dup2(printed, descriptor)
    tempfile.tempdir = os.environ.pop(TEMPORARIES, None)  # this process is killed, so nothing it makes is removed by it
    gc.disable()  # a fifth of the imports' time, and nothing of theirs is garbage
    try:
        load_torch()
        for name in _MODULES:
            importlib.import_module(name)
        unsafe = why_not_forkable()
    except Exception as error:  # the ranks meet it again, each with its trace in its log
        unsafe = f"{type(error).__name__}: {error}"
    sys.stdout.flush()
    sys.stderr.flush()
    for descriptor, kept in zip((1, 2), terminal, strict=True):
        os.dup2(kept, descriptor)
        os.close(kept)
    os.lseek(printed, 0, os.SEEK_SET)
    with os.fdopen(printed, encoding="utf-8", errors="replace") as file:
        output = file.read()
    tempfile.tempdir = None  # what ranks make is theirs
    gc.freeze()  # a collection in a rank would write to the pages that all ranks share
    return unsafe, output


settle()
UNSAFE, OUTPUT = _load()
