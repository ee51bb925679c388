"""How Megatron's checkpoint writer hands over what it has written."""

import queue


def hand_over_in_process() -> None:
    """Take the process out of a save that training waits for: the writer and who collects its results are one.

    Megatron starts a server process for every rank's first save, so that a writer in the background can reach it. The
    server imports torch to read the first result: 5 s of a core a rank, and the save waits for it. Saves in the
    background (`ckpt_async_save`) do need it.
    Source: megatron.core.dist_checkpointing.strategies.filesystem_async (`_get_write_results_queue`).
    """
    from megatron.core.dist_checkpointing.strategies import filesystem_async

    if getattr(filesystem_async, "_results_queue", "absent") is None:  # a release without it keeps its own way
        filesystem_async._results_queue = queue.Queue()
