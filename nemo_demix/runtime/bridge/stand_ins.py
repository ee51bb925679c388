"""What lets Megatron-Bridge import and train on a machine without CUDA, or from its wheel.

Nothing of Bridge is edited. `prepare` comes before its first import; each piece was found necessary:

- Bridge's LoRA modules subclass Transformer Engine's layers when they are imported. A stand-in of that package exists
  only while those two modules are executed: seen by megatron-core, it would be taken for the real one.
- Bridge's `pretrain` imports a type of nvidia-resiliency-ext, whose releases on package indexes megatron-core refuses.
- It asks torch.cuda for random state, and asserts CUDA where `allow_no_cuda` is not passed.
- The wheel of megatron-core has its helpers compiled, and no Makefile to compile them again, which Bridge asks for.
"""

import functools
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nemo_demix.runtime.cpu_alias import alias_cuda

_LORA = ("megatron.bridge.peft.lora_layers", "megatron.bridge.peft.lora")
_prepared: list[str] = []


def prepare() -> None:
    """Let `megatron.bridge` be imported in this process; a second call does nothing."""
    if _prepared:
        return
    _prepared.append("done")
    if importlib.util.find_spec("nvidia_resiliency_ext") is None:
        _stand_in("nvidia_resiliency_ext", __path__=[], __version__="0.0.0")
        _stand_in("nvidia_resiliency_ext.inprocess", CallWrapper=type("CallWrapper", (), {}))
    if importlib.util.find_spec("transformer_engine") is None:
        sys.meta_path.insert(0, _WhileLora())  # type: ignore[arg-type]
    from megatron.bridge.training import initialize, setup

    helpers = Path(sys.modules["megatron.core.datasets"].__path__[0])
    if not (helpers / "Makefile").exists() and any(helpers.glob("helpers_cpp*.so")):
        initialize.compile_helpers = lambda: None
    if not torch.cuda.is_available():
        alias_cuda()
        torch.cuda.current_stream = torch.cuda.Stream  # type: ignore[assignment]
        torch.cuda.get_rng_state = lambda *args, **kwargs: torch.zeros(0, dtype=torch.uint8)
        torch.cuda.set_rng_state = lambda *args, **kwargs: None  # type: ignore[assignment]
        setup.initialize_megatron = functools.partial(setup.initialize_megatron, allow_no_cuda=True)


def _stand_in(name: str, **content: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    for key, value in content.items():
        setattr(module, key, value)
    sys.modules[name] = module
    parent, _, last = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], last, module)
    return module


class _WhileLora:
    """Finds Bridge's LoRA modules, and lets a stand-in of Transformer Engine exist while these are executed."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find one of Bridge's LoRA modules, which is executed beside the stand-in; None for any other module."""
        if name not in _LORA:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None
        assert spec.loader is not None
        run = spec.loader.exec_module

        def exec_module(module: types.ModuleType) -> None:
            import megatron.core.extensions.transformer_engine
            import megatron.core.fp8_utils  # noqa: F401  # both look for the real one

            layers = {one: type(one, (), {}) for one in ("Linear", "LayerNormLinear", "GroupedLinear")}
            operations = types.SimpleNamespace(Sequential=type("Sequential", (), {}))
            _stand_in("transformer_engine", __version__="0.0.0")
            _stand_in("transformer_engine.pytorch", ops=operations, **layers)
            try:
                run(module)
            finally:
                for one in ("transformer_engine", "transformer_engine.pytorch"):
                    del sys.modules[one]

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
