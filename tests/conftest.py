"""The slow things, made once and shared by the session's workers: a whole run of the smoke recipe, and checkpoints.

With `-n`, modules are spread over workers, long ones first. What is made once stands in a folder that they share.
"""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from tests.bridge import Bridge, write_hub
from tests.helpers import merge_checkpoints, other, run_fresh, run_program

# Longest first. The first two go to different workers, and only one of them needs the smoke run.
LONGEST = """
tests/cluster/test_end_to_end.py
tests/bridge
tests/merging/test_interrupt.py
tests/cluster
tests/prediction/test_contract.py
tests/datasets/test_tasks.py
tests/stages/test_pipeline.py
tests/scoring/test_external.py
tests/stages/test_reuse.py
tests/stages/test_verify.py
tests/training/test_train.py
tests/ranks/test_stopping.py
tests/ranks/test_fork_server.py
tests/merging/test_object_store.py
""".split()

# One Slurm serves the first, one import of Megatron-Bridge the second, one of NeMo in the test's own process that too.
TOGETHER = {
    "tests/cluster": [
        f"tests/cluster/test_{name}.py" for name in ("executors", "launch", "nemo_run", "sbatch", "status")
    ],
    "tests/bridge": [
        *("tests/stages/test_bridge_pipeline.py", "tests/stages/test_families.py", "tests/runtime/test_bridge.py"),
        *("tests/runtime/test_bridge_parts.py", "tests/test_memory_check.py", "tests/test_recipes.py"),
    ],
}

# A shell that starts pytest in the background lets it ignore SIGINT, and all that it starts; tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No test here is about time, and the machines that run them may be busy.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


TEMPORARIES = "t" * 100  # beside the smoke run, where it has them; no socket's path is as long


class ModulesApart(LoadScopeScheduling):  # type: ignore[misc]
    """A module's tests stay in one worker, for its fixtures; so do modules that share what takes long to start."""

    def _split_scope(self, nodeid: str) -> str:
        return _scope(nodeid)


def _scope(nodeid: str) -> str:
    module = nodeid.partition("::")[0]
    return next((scope for scope, modules in TOGETHER.items() if module in modules), module)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ModulesApart:
    """How `-n` spreads the tests."""
    return ModulesApart(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long modules first: the last to end is then a short one."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(_scope(item.nodeid), len(place)))


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Make a folder once for all workers: `once(name, make)` gives the folder that `make` has filled."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base

    def folder(name: str, make: Callable[[Path], None]) -> Path:
        path, done = shared / name, shared / f"{name}.done"
        with FileLock(shared / f"{name}.lock"):
            if not done.exists():
                path.mkdir()  # where it failed before, it fails again
                make(path)
                done.touch()
        return path

    return folder


Once = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def bridge(once: Once) -> Iterator[Bridge]:
    """Megatron-Bridge's environment, in a process that has imported it, with a hub of its own."""
    served = Bridge(once("hub", write_hub))
    yield served
    served.close()


@pytest.fixture(scope="session")
def smoke_run(once: Once) -> Path:
    """`runs/smoke`, finished. Tests must not change it: `fork_run` makes a copy."""

    def make(runs: Path) -> None:
        (runs / TEMPORARIES).mkdir()
        run_fresh("run", "--config-name", "smoke", f"runs_dir={runs}", timeout=580, TMPDIR=str(runs / TEMPORARIES))

    return once("runs", make) / "smoke"


@pytest.fixture(scope="session")
def layouts(smoke_run: Path, once: Once) -> dict[str, Path]:
    """The smoke run's base model, trained at tensor 2, saved by megatron-core at pipeline 2 in every layout, by kind.

    `megatron_lm` is in bf16 and has optimizer state; `release` is Megatron-LM's layout too. Beside each stands the
    component code_1, saved in the same way: `other` finds it. Tests must not change them.
    """
    kinds: dict[str, dict[str, object]] = {
        "nemo2": {"layout": "nemo2"},
        "megatron_lm": {"layout": "megatron_lm", "optimizer": True, "bf16": True},
        "release": {"layout": "megatron_lm", "release": True},
        "megatron_bridge": {"layout": "megatron_bridge"},
        "torch_dcp": {"layout": "torch_dcp"},
    }
    models = {"": "base/base/checkpoints/step_00000040", "_other": "component/code_1/checkpoints/step_00000016"}

    def make(folder: Path) -> None:
        jobs = [
            {**job, "checkpoint": str(smoke_run / "models" / model), "output": str(folder / (name + suffix))}
            for name, job in kinds.items()
            for suffix, model in models.items()
        ]
        (folder / "jobs.json").write_text(json.dumps(jobs))
        run_program("reshard", str(smoke_run), "1", "2", str(folder / "jobs.json"), ranks=2)

    folder = once("layouts", make)
    return {name: folder / name for name in kinds}


@pytest.fixture(scope="session")
def merges(smoke_run: Path, layouts: dict[str, Path], once: Once) -> dict[str, Path]:
    """A merge of 0.25 base and 0.75 code_1 in every layout; `mixed` is of two grids. Tests must not change them."""
    pairs = {name: (path, other(path)) for name, path in layouts.items()}
    code = smoke_run / "models/component/code_1/checkpoints/step_00000016"
    pairs["mixed"] = (layouts["nemo2"], code)  # one saved at pipeline 2, one at tensor 2

    def make(folder: Path) -> None:
        for name, (one, two) in pairs.items():
            merge_checkpoints({"one": one, "two": two}, folder / name, {"mix": {"one": 0.25, "two": 0.75}})

    folder = once("merges", make)
    return {name: folder / name / "mix" for name in pairs}
