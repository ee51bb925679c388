"""Locks between processes of one machine, and between nodes whose file system keeps none."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nemo_demix.errors import ConfigError
from nemo_demix.ranks.lock import folder_lock


@contextmanager
def held_elsewhere(folder: Path, part: str | None = None) -> Iterator[int]:
    """A process of its own holds the lock meanwhile."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        with folder_lock(folder, "name=", part):
            os.write(writer, b"x")
            signal.pause()
    os.read(reader, 1)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def record(path: Path, host: str = "node7", job: str | None = "4711", restarts: int = 0) -> None:
    """What a process on another node wrote, whose lock this node's kernel does not know of."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"host": host, "process": 99, "job": job, "restarts": restarts}))


@pytest.mark.parametrize(
    ("held", "wanted", "refused"),
    [
        (None, None, True),
        (None, "component_1", True),
        ("component_1", None, True),
        ("component_1", "component_1", True),
        ("component_1", "component_2", False),
    ],
)
def test_the_whole_excludes_all_and_a_part_only_itself(
    tmp_path: Path, held: str | None, wanted: str | None, refused: bool
) -> None:
    with held_elsewhere(tmp_path, held) as pid:
        if not refused:
            with folder_lock(tmp_path, "name=", wanted):
                return
        with (
            pytest.raises(ConfigError, match=rf"in use by (process {pid} on|another process).*; .*set another name="),
            folder_lock(tmp_path, "name=", wanted),
        ):
            pass


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path):
        pass
    with folder_lock(tmp_path, "name="):
        pass


def test_a_holder_on_another_node_is_believed_while_it_touches_its_record(tmp_path: Path) -> None:
    record(tmp_path / ".lock")
    ended = threading.Event()

    def touch() -> None:
        while not ended.wait(0.3):
            os.utime(tmp_path / ".lock")

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        expected = r"in use by process 99 on node7, Slurm job 4711; wait for it"
        with pytest.raises(ConfigError, match=expected), folder_lock(tmp_path, "name="):
            pass
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("name", [".lock", ".lock.component_1"])
def test_a_record_no_longer_touched_is_a_dead_holders(tmp_path: Path, name: str) -> None:
    record(tmp_path / name)
    long_ago = time.time() - 600
    os.utime(tmp_path / name, (long_ago, long_ago))
    with folder_lock(tmp_path, "name="):
        pass


def test_a_requeued_job_does_not_wait_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path / ".lock", job="17_3", restarts=0)
    for name, value in {"SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "3", "SLURM_RESTART_COUNT": "1"}.items():
        monkeypatch.setenv(name, value)
    started = time.monotonic()
    with folder_lock(tmp_path, "name="):
        assert time.monotonic() - started < 5
        written = json.loads((tmp_path / ".lock").read_text())
        assert (written["job"], written["restarts"]) == ("17_3", 1)
    assert (tmp_path / ".lock").read_text() == ""
