"""One measured process with all it starts: wall and processor time, memory, bytes read and written.

Memory is polled every 50 ms and summed over the process tree: resident, and anonymous + shared (what does not go back
to the page cache). A page that two processes share after a fork counts twice, so both are upper bounds. Bytes are the
kernel's count of read and write calls; what is read through a memory map is not in it.
"""

import ctypes
import os
import resource
import select
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

_POLL_MS = 50
_PR_SET_CHILD_SUBREAPER = 36
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def measure(command: Sequence[str | Path], log: Path, sync: Path | None = None) -> dict[str, float]:
    """Run a command to its end and measure it; its output goes to `log`.

    Args:
        command: The command line.
        log: Where its standard output and error go.
        sync: A folder whose files are fsynced afterwards, within the time measured: for programs that do not do it.
    Returns:
        wall_s, cpu_s, others_cpu_s (what everything else on the machine used meanwhile: near 0 in a quiet run, apart
        from the kernel's writing to the disk), peak_rss_gib, peak_anonymous_gib, read_call_bytes, written_call_bytes,
        disk_read_bytes.
    Raises:
        RuntimeError: if the command fails; with the end of its output.
    """
    # Orphans come to us, so that what they read is in our account and none of them outlives the measurement.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    peaks = [0, 0]
    io_before, cpu_before, machine_before = _io(), _cpu_s(), _machine_cpu_s()
    with open(log, "w", encoding="utf-8") as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command],
            env={**os.environ, **_ENVIRONMENT},
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        handle = os.pidfd_open(process.pid)
        ended = select.poll()
        ended.register(handle, select.POLLIN)
        try:
            while not ended.poll(_POLL_MS):
                peaks = [max(pair) for pair in zip(peaks, _memory(process.pid), strict=True)]
        except BaseException:
            process.terminate()  # we were interrupted; it does not go on alone
            raise
        finally:
            process.wait()
            os.close(handle)
        if sync is not None and process.returncode == 0:
            _sync(sync)
        wall_s = time.perf_counter() - start
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        pass  # none is left
    cpu_s, machine_cpu_s = _cpu_s() - cpu_before, _machine_cpu_s() - machine_before
    if process.returncode != 0:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
        raise RuntimeError(f"{' '.join(map(str, command))}: exit code {process.returncode}\n{tail}")
    io_after = _io()
    return {
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "others_cpu_s": max(machine_cpu_s - cpu_s, 0.0),
        "peak_rss_gib": peaks[0] / 2**20,
        "peak_anonymous_gib": peaks[1] / 2**20,
        "read_call_bytes": io_after["rchar"] - io_before["rchar"],
        "written_call_bytes": io_after["wchar"] - io_before["wchar"],
        "disk_read_bytes": io_after["read_bytes"] - io_before["read_bytes"],
    }


def _memory(pid: int) -> tuple[int, int]:
    """Resident, and anonymous + shared memory of a process and its descendants, KiB."""
    try:
        pids = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return 0, 0
    resident = anonymous = 0
    for each in pids:
        try:
            lines = Path(f"/proc/{each}/status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        fields = {name: value for name, _, value in (line.partition(":") for line in lines)}
        if "VmRSS" in fields:  # a zombie has none
            resident += int(fields["VmRSS"].split()[0])
            anonymous += int(fields["RssAnon"].split()[0]) + int(fields["RssShmem"].split()[0])
    return resident, anonymous


def _io() -> dict[str, int]:
    """Our account, in which the kernel adds that of every descendant once it has ended."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return {name: int(value) for name, _, value in (line.partition(": ") for line in lines)}


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _machine_cpu_s() -> float:
    """Processor time that the whole machine has used, and that its host kept from it."""
    user, nice, system, _, _, irq, softirq, steal, *_ = map(int, Path("/proc/stat").read_text().split()[1:11])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _sync(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def warm(paths: Sequence[Path]) -> None:
    """Read files once, so that they are in the page cache as far as it holds them."""
    buffer = memoryview(bytearray(16 << 20))
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def cool(paths: Sequence[Path]) -> None:
    """Drop files from the page cache."""
    os.sync()  # pages that are not on the disk yet would stay
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)
