"""Functions that the definitions of our tasks name."""

import importlib
import importlib.metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from nemo_demix.tasks.judging import verdict

_NO_ANSWER = "[invalidanswer]"  # of minerva's get_unnormalized_answer


def gsm8k_shots() -> list[dict[str, Any]]:
    """Return the eight worked examples of the harness's `gsm8k_cot`."""
    import lm_eval.tasks
    from lm_eval.tasks._yaml_loader import load_yaml

    folder = Path(lm_eval.tasks.__file__).parent
    return load_yaml(folder / "gsm8k" / "gsm8k-cot.yaml")["fewshot_config"]["samples"]


def math_shots() -> list[dict[str, Any]]:
    """Return the four worked examples of the harness's `minerva_math_*`."""
    return _minerva().list_fewshot_samples()


def math_answer(solution: str) -> str:
    """Return the normalised content of a solution's last box.

    Raises:
        ValueError: if it has none.
    """
    minerva = _minerva()
    boxed = minerva.last_boxed_only_string(solution)
    if boxed is None:
        raise ValueError(f"expected \\boxed{{...}} in the solution, found none: {solution[:80]!r}")
    return minerva.normalize_final_answer(minerva.remove_boxed(boxed))


def math_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Compute both metrics of one response; the judge asks math-verify, which an expression may keep busy for ever."""
    minerva = _minerva()
    response = results[0]
    answer = minerva.get_unnormalized_answer(response)
    if answer == _NO_ANSWER and (boxed := minerva.last_boxed_only_string(response)) is not None:
        answer = boxed
    same = answer != _NO_ANSWER and minerva.normalize_final_answer(answer) == doc["answer"]
    return {"math_verify": float(verdict("math", doc["solution"], response)), "exact_match": float(same)}


def _minerva() -> ModuleType:
    """Return the harness's functions for MATH.

    They ask at import for the release of antlr that sympy's own reader of LaTeX needs, which is not used here:
    math-verify brings another one, that reads with the release that omegaconf needs too.
    """
    from unittest.mock import patch

    import math_verify  # noqa: F401 it looks for its antlr itself, when it is imported

    version = importlib.metadata.version

    def claimed(name: str) -> str:
        return "4.11" if name == "antlr4-python3-runtime" else version(name)

    with patch.object(importlib.metadata, "version", claimed):
        return importlib.import_module("lm_eval.tasks.minerva_math.utils")
