"""megatron-core is imported without compiling anything: a lock that a killed process left behind stops nobody."""

import os
import subprocess
import sys
from pathlib import Path

from tests.helpers import REPOSITORY

# What it prints: whether there is the allocator, and whether its module could compile another one afterwards.
PROGRAM = """
import nemo_demix.config
import megatron.core.inference.unified_memory as module
from torch.utils import cpp_extension
print(module.has_unified_memory, module.load_inline is cpp_extension.load_inline)
"""


def test_a_lock_that_was_left_behind_is_not_waited_for(tmp_path: Path) -> None:
    lock = tmp_path / "managed_alloc_runtime/lock"
    lock.parent.mkdir()
    lock.touch()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=REPOSITORY, env={**os.environ, "TORCH_EXTENSIONS_DIR": str(tmp_path), "TORCH_COMPILE_DISABLE": "1"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False True"
    assert list(tmp_path.rglob("*")) == [lock.parent, lock], "nothing was compiled"
