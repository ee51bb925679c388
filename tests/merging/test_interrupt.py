"""Merges that are killed go on where they were, and end with the bytes of one that was not."""

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nemo_demix.errors import CheckpointError, ConfigError
from nemo_demix.merging.journal import Journal, UnitRecord, read_journals
from nemo_demix.merging.workers import WorkerFailure
from nemo_demix.ranks.lock import folder_lock
from tests.helpers import REPOSITORY
from tests.merging.faults import (
    children,
    contents,
    fork_merge,
    just_before,
    kill_merge,
    plan_of,
    run_merge,
    save_checkpoint,
)

MIXTURES = {"mix_0": {"c0": 0.5, "c1": 0.25, "c2": 0.25}, "mix_1": {"c0": 0.1, "c1": 0.0, "c2": 0.9}}
MANY = MIXTURES | {f"more_{place}": MIXTURES["mix_0"] for place in range(4)}  # to be met at work
Components = dict[str, Path]


@pytest.fixture(scope="module")
def components(tmp_path_factory: pytest.TempPathFactory) -> Components:
    """Three checkpoints of 120 MB, enough for a merge to be met at work."""
    folder = tmp_path_factory.mktemp("components")
    return {f"c{index}": save_checkpoint(folder / f"c{index}", index, 4, 768) for index in range(3)}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Components:
    """Three of 1 MB, for what does not need time."""
    folder = tmp_path_factory.mktemp("small")
    return {f"c{index}": save_checkpoint(folder / f"c{index}", index, 1, 128) for index in range(3)}


@pytest.fixture(scope="module")
def expected(components: Components, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], float]:
    """What the uninterrupted merge gives, and its seconds."""
    folder = tmp_path_factory.mktemp("expected")
    report = run_merge(plan_of(components, MIXTURES), folder / "output", 2)
    found = contents(folder / "output")
    shutil.rmtree(folder / "output")
    return found, report.merge_time_s


def _gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + 20
    while any(_alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _work(output: Path) -> Path:
    (folder,) = output.glob(".merge-*")
    return folder


def _wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.002)


def _units_done(output: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in output.glob(".merge-*/journal-*.jsonl"))


@pytest.mark.slow
def test_killed_at_random_moments_and_gone_on_with(
    components: Components, tmp_path: Path, expected: tuple[dict[str, str], float]
) -> None:
    """Nine kills: of the parent, of a worker, of all at once; with another number of workers each time."""
    rng = np.random.default_rng(0)
    whole, seconds = expected
    killed, rounds = 0, 0
    while killed < 9:
        output = tmp_path / f"output_{rounds}"
        rounds += 1
        for moment in rng.uniform(0, 1, size=2):
            pid = fork_merge(plan_of(components, MIXTURES), output, workers=1 + killed % 3)
            time.sleep(moment * seconds)
            workers = children(pid)
            target = [pid, workers[0] if workers else pid, pid][killed % 3]
            os.kill(target, signal.SIGKILL)
            code = os.waitpid(pid, 0)[1]
            assert _gone([pid, *workers]), "a worker outlived the parent"
            killed += code != 0
            for name in MIXTURES:  # what is there is whole
                if (output / name).exists():
                    found = {path: value for path, value in contents(output).items() if path.startswith(f"{name}/")}
                    assert found == {path: value for path, value in whole.items() if path.startswith(f"{name}/")}
        run_merge(plan_of(components, MIXTURES), output, 2)
        assert contents(output) == whole
        assert sorted(path.name for path in output.iterdir()) == [".lock", "mix_0", "mix_1"]
        shutil.rmtree(output)


@pytest.mark.parametrize("method", ["ties"])
def test_methods_with_statistics_go_on_too(small: Components, tmp_path: Path, method: str) -> None:
    rng = np.random.default_rng(1)
    pair = {name: small[name] for name in ("c0", "c1")}
    mixtures = {"mix": {"c0": 0.5, "c1": 0.5}}
    report = run_merge(plan_of(pair, mixtures, method=method, base=small["c2"]), tmp_path / "expected")
    killed = 0
    for index in range(4):
        output = tmp_path / f"output_{index}"
        pid = fork_merge(plan_of(pair, mixtures, method=method, base=small["c2"]), output)
        time.sleep(rng.uniform(0, 1) * report.merge_time_s)
        os.kill(pid, signal.SIGKILL)
        killed += os.waitpid(pid, 0)[1] != 0
        run_merge(plan_of(pair, mixtures, method=method, base=small["c2"]), output)
        assert contents(output) == contents(tmp_path / "expected")
    assert killed, "every one was done before it could be killed"


def test_only_what_is_missing_or_wrong_is_done_again(
    components: Components, tmp_path: Path, expected: tuple[dict[str, str], float]
) -> None:
    output = tmp_path / "output"
    plan = plan_of(components, MIXTURES)
    pid = fork_merge(plan, output)
    _wait_for(lambda: _units_done(output) >= 4)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    claimed = read_journals(_work(output))
    assert 4 <= len(claimed) < len(plan.units)
    done = sum(plan.units[index].num_elements for index in claimed)
    fraction = 1 - done / plan.num_elements
    # Whole chunks were compared as they were read, and are not claimed.
    left = [(index, run) for record in claimed.values() for index in range(3) for run in record.read[f"c{index}"]]
    assert all(run.count < math.prod(plan.tensors[run.tensor].chunks[index][run.chunk].sizes) for index, run in left)
    # Bytes that went bad before they were published are done again, and no others.
    record = next(iter(claimed.values()))
    written = record.written["mix_1"][0]
    chunk = plan.tensors[written.tensor].chunks[-1][written.chunk]
    shard = _work(output) / "outputs/mix_1/weights" / chunk.file
    with open(shard, "r+b") as file:
        file.seek(chunk.file_offset + chunk.num_bytes // 2)
        file.write(b"damaged")
    damaged = plan.units[record.unit].num_elements / plan.num_elements
    report = run_merge(plan_of(components, MIXTURES), output, 3)
    assert contents(output) == expected[0]
    source_bytes = plan.source_bytes * len(components)
    assert fraction * source_bytes * 0.95 <= report.bytes_read <= (fraction + damaged) * source_bytes * 1.02
    again = run_merge(plan_of(components, MIXTURES), output, 2)
    assert again.done_before == ("mix_0", "mix_1")
    assert (again.merged, again.bytes_read) == ((), 0)


@pytest.mark.parametrize("method", ["linear", "ties"])
def test_an_output_that_is_published_already_costs_nothing_more(small: Components, tmp_path: Path, method: str) -> None:
    """Killed between two publications: the second needs no source to be read again."""
    options = {"method": method, "base": small["c2"] if method == "ties" else None}
    pair = {name: small[name] for name in ("c0", "c1")}
    mixtures = {"first": {"c0": 0.5, "c1": 0.5}, "second": {"c0": 1.0}}
    run_merge(plan_of(pair, mixtures, **options), tmp_path / "expected")
    output = tmp_path / "output"
    kill_merge(plan_of(pair, mixtures, **options), output, just_before("os.rename", output / "second"))
    assert (output / "first").is_dir()
    report = run_merge(plan_of(pair, mixtures, **options), output)
    assert report.done_before == ("first",)
    assert report.merged == ("second",)
    assert report.bytes_read == 0
    assert contents(output) == contents(tmp_path / "expected")
    # Killed between the last publication and the end.
    shutil.copytree(tmp_path / "expected", tmp_path / "copy", copy_function=shutil.copy2)
    work = tmp_path / "copy" / f".merge-{plan_of(pair, mixtures, **options).fingerprint}"
    (work / "outputs").mkdir(parents=True)
    assert run_merge(plan_of(pair, mixtures, **options), tmp_path / "copy").merged == ()
    assert not work.exists()


def test_a_journal_line_that_was_cut_off_is_no_record(tmp_path: Path) -> None:
    record = UnitRecord(3, {"c0": ()}, {"mix": ()}, {})
    for number, data in enumerate((b"", b"[1,{", b"[]\n", b"[1,{},{}]\nnull\n[1,{},{},{}")):
        path = tmp_path / "journal-x.jsonl"
        path.write_bytes(data)
        journal = Journal(path)
        journal.append(record)
        journal.close()
        assert read_journals(tmp_path)[3] == record, number
        assert set(read_journals(tmp_path)) <= {1, 3}


def test_a_unit_written_twice_counts_as_the_later_says(tmp_path: Path) -> None:
    for name, count in (("journal-b.jsonl", 1), ("journal-a.jsonl", 2)):
        journal = Journal(tmp_path / name)
        journal.append(UnitRecord(0, {}, {}, {"x": count}))
        journal.close()
        time.sleep(0.02)
    assert read_journals(tmp_path)[0].nonfinite == {"x": 2}


def test_one_process_at_a_time(components: Components, tmp_path: Path) -> None:
    pid = fork_merge(plan_of(components, MIXTURES), tmp_path / "output")
    try:
        _wait_for(lambda: _units_done(tmp_path / "output") >= 1)
        os.kill(pid, signal.SIGSTOP)  # it stays until we have looked
        with pytest.raises(
            ConfigError, match=rf"output: in use by process {pid} on \S+; wait for it, or set another merge\.output="
        ):
            run_merge(plan_of(components, MIXTURES), tmp_path / "output")
    finally:
        workers = children(pid)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert _gone(workers)
    shutil.rmtree(tmp_path / "output")


def test_what_a_killed_process_leaves_running_for_a_while_is_waited_for(tmp_path: Path) -> None:
    """A worker that is writing to a slow disk ends later than its parent, and keeps the folder locked until then."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        with folder_lock(tmp_path, "merge.output="):
            if not os.fork():
                os.write(writer, b"x")
                time.sleep(2)
                os._exit(0)
            signal.pause()
    os.read(reader, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    started = time.monotonic()
    with folder_lock(tmp_path, "merge.output="):
        assert time.monotonic() - started > 1.2


def test_a_lost_worker_fails_the_merge_and_is_said(components: Components, tmp_path: Path) -> None:
    output = tmp_path / "output"
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            run_merge(plan_of(components, MANY), output, 2)
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.close(writer)
    _wait_for(lambda: _units_done(output) >= 2)
    first, second = children(pid)
    os.kill(second, signal.SIGKILL)
    os.waitpid(pid, 0)
    text = os.read(reader, 10_000).decode()
    os.close(reader)
    assert text.startswith(f"{WorkerFailure.__name__}: a worker was lost (process {second}, exit code -9)")
    assert "the same command goes on" in text
    assert _gone([first, second])
    assert len(read_journals(_work(output))) >= 2
    assert not (output / "mix_0").exists()
    shutil.rmtree(output)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopping_the_command_says_how_to_go_on(
    components: Components, tmp_path: Path, expected: tuple[dict[str, str], float], number: signal.Signals, code: int
) -> None:
    output = tmp_path / "output"
    (tmp_path / "mixtures.json").write_text(json.dumps(MANY))
    arguments = [f"+merge.components.{name}={path}" for name, path in components.items()]
    arguments += [f"merge.mixtures={tmp_path / 'mixtures.json'}", f"merge.output={output}", f"runs_dir={tmp_path}"]
    command = [sys.executable, "-m", "nemo_demix", "merge", *arguments, "merge.workers=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(5):
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        _wait_for(lambda process=process: _units_done(output) >= 1 or process.poll() is not None, 120)
        workers = children(process.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        text = process.communicate(timeout=60)[1]
        if process.returncode:
            break
        shutil.rmtree(output)  # it was done before the signal came
    assert process.returncode == code, text
    assert f"stopped by {number.name}; the same command goes on from here" in text
    assert "Traceback" not in text
    assert _gone(workers)
    run_merge(plan_of(components, MANY), output)
    assert {name: found for name, found in contents(output).items() if not name.startswith("more_")} == expected[0]
    shutil.rmtree(output)


# Outputs that are there.


def _merge(small: Components, output: Path, mixtures: dict[str, dict[str, float]], **options: object) -> None:
    run_merge(plan_of(small, mixtures), output, **options)


ONE, OTHER = {"c0": 1.0}, {"c1": 0.5, "c2": 0.5}


def test_another_merge_of_that_name_is_replaced_only_by_force(small: Components, tmp_path: Path) -> None:
    _merge(small, tmp_path, {"a": ONE})
    before = contents(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"a: was merged from other sources, weights or settings.*force=true to replace"
    ):
        _merge(small, tmp_path, {"a": OTHER, "b": ONE})
    assert contents(tmp_path) == before
    _merge(small, tmp_path, {"a": OTHER, "b": ONE}, force=True)
    assert json.loads((tmp_path / "a/merge.json").read_text())["weights"]["c1"] == 0.5
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "a", "b"]


@pytest.mark.parametrize("moment", ["between the renames", "after the first", "before the end"])
def test_a_replacement_that_is_killed_goes_on(small: Components, tmp_path: Path, moment: str) -> None:
    output, mixtures = tmp_path / "output", {"a": OTHER, "b": OTHER}
    _merge(small, tmp_path / "expected", mixtures)
    _merge(small, output, {"a": ONE, "b": ONE})
    plan = plan_of(small, mixtures)
    work = output / f".merge-{plan.fingerprint}"
    event, path = {
        "between the renames": ("os.rename", output / "a"),
        "after the first": ("os.rename", work / "replaced/b"),
        "before the end": ("shutil.rmtree", work),
    }[moment]
    kill_merge(plan, output, just_before(event, path), force=True)
    assert (output / "a").exists() == (moment != "between the renames")
    assert work.is_dir()
    _merge(small, output, mixtures, force=True)
    assert contents(output) == contents(tmp_path / "expected")
    assert not list(output.glob(".merge-*"))


def test_what_another_interrupted_merge_left_is_said_and_left(
    small: Components, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / ".merge-0123456789abcdef").mkdir()
    _merge(small, tmp_path, {"a": ONE})
    assert ".merge-0123456789abcdef: left by an interrupted merge of other sources" in caplog.text
    assert (tmp_path / ".merge-0123456789abcdef").is_dir()
