"""The helper of `nemo_demix.merging.folders`: requests as lines of JSON on standard input, answers on standard output.

It ends when its standard input closes, which happens however the process ends that started it.
"""

import json
import logging
import os
import queue
import shutil
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from nemo_demix.checkpoints.store import checkpoint_path

_MAX_WORKERS = 8


def main() -> None:
    """Serve until there are no more requests."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print goes to the log
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()

    from nemo_demix.errors import DemixError

    while True:
        request = requests.get()
        try:
            _make(request)
            answer = {}
        except DemixError as error:
            answer = {"mistake": str(error)}
        except Exception as error:
            traceback.print_exc()
            answer = {"failure": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")


def _read(requests: "queue.SimpleQueue[dict[str, Any]]") -> None:
    # The descriptor itself: a merge forks, and a child would wait for ever for the lock of sys.stdin.
    pending = b""
    while data := os.read(0, 1 << 16):
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            requests.put(json.loads(line))
    os._exit(1)


def _make(request: dict[str, Any]) -> None:
    folder = Path(request["folder"])
    if request["make"] == "merge":
        _merge(request, folder)
    else:
        _export(Path(request["checkpoint"]), request["tokenizer"], folder)


def _merge(request: dict[str, Any], folder: Path) -> None:
    from nemo_demix.merging.merge import MergeOptions, merge
    from nemo_demix.merging.methods import build_method
    from nemo_demix.merging.peers import Peers
    from nemo_demix.merging.plan import make_plan
    from nemo_demix.merging.sources import open_sources

    components = {name: checkpoint_path(path) for name, path in request["components"].items()}
    base, objects_from = request["base"], request["objects_from"]
    method = build_method(request["method"], request["parameters"], request["seed"], len(components), base is not None)
    sources, base_source = open_sources(components, None if base is None else checkpoint_path(base), objects_from)
    mixtures = {folder.name: request["weights"]}
    plan = make_plan(sources, base_source, method, mixtures, objects_from=objects_from)
    options = MergeOptions(min(os.cpu_count() or 1, _MAX_WORKERS), request["memory_gib"])
    folder.parent.mkdir(parents=True, exist_ok=True)
    merge(plan, folder.parent, options, Peers(), lambda phase, count: None)


def _export(checkpoint: Path, tokenizer: str | None, folder: Path) -> None:
    from nemo_demix.runtime.context import read_context
    from nemo_demix.runtime.huggingface import export_checkpoint, tokenizer_beside

    context = read_context(checkpoint)
    beside = tokenizer_beside(checkpoint / "context", context.tokenizer, tokenizer)
    work = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(work, ignore_errors=True)  # of one that was killed
    work.mkdir(parents=True)
    try:
        export_checkpoint(checkpoint, context, beside, work).rename(folder)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115, for the life of this process
    main()
