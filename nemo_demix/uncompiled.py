"""megatron-core imported without compiling anything, by a compiler of C++ or torch's own.

Release 0.15 compiles the memory allocator of its inference engine then, under a lock file in the user's home. A process
that is killed meanwhile leaves the lock there, and whoever imports megatron-core after it waits for ever: torch's lock
knows no owner. Nothing here uses that allocator, and from release 0.16 on it is compiled when it is asked for.
"""

import importlib.machinery
import sys
import types
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

_ALLOCATOR = "megatron.core.inference.unified_memory"


def install() -> None:
    """Have this process import megatron-core without compiling anything; a second call does nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())  # type: ignore[arg-type]


def uncompiled(model: Any = None, **options: object) -> Any:
    """Do what `torch.compile` does where it is turned off, without loading the compiler, which takes seconds."""
    return (lambda function: function) if model is None else model


def _refuse(*args: Any, **options: Any) -> NoReturn:
    raise RuntimeError("not compiled as it is imported")  # which the module takes for a machine that cannot


class _Finder:
    """Finds the allocator's module, whose own code cannot compile while it is executed, and can afterwards."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find the allocator's module; None for any other."""
        spec = importlib.machinery.PathFinder.find_spec(name, path) if name == _ALLOCATOR else None
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def exec_module(module: types.ModuleType) -> None:
            from torch.utils import cpp_extension

            compile_, cpp_extension.load_inline = cpp_extension.load_inline, _refuse
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # it says that there will be no such memory
                    run(module)
            finally:
                cpp_extension.load_inline = compile_
            if getattr(module, "load_inline", None) is _refuse:
                module.load_inline = compile_  # type: ignore[attr-defined]

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
