"""Finds the data mixture for a large pretraining run by merging component models (DeMix) on Megatron-LM / NeMo.

From Python: `Study` searches over any evaluator, `Study.from_scores` over scores that are there, `merge` merges
checkpoints, `Run.load` reads a run's folder; see docs/python.md. Each is imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nemo_demix import uncompiled

if TYPE_CHECKING:
    from nemo_demix.api.merging import merge
    from nemo_demix.api.result import Prediction, Result
    from nemo_demix.api.run import Run
    from nemo_demix.api.study import Study, Trial

__version__ = "0.1.0"
__all__ = ["Prediction", "Result", "Run", "Study", "Trial", "merge"]

uncompiled.install()
_PLACES = {"Prediction": "result", "Result": "result", "Run": "run", "Study": "study", "Trial": "study"}


def __getattr__(name: str) -> Any:
    """Return one of `__all__`, from its module."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"nemo_demix.api.{_PLACES.get(name, 'merging')}"), name)


def __dir__() -> list[str]:
    """Return the names of this package, with those that are not imported yet."""
    return sorted({*globals(), *__all__})
