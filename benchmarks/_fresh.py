"""What studies of other proxies share that start from `fidelity.py --fresh SEED`: mixtures, references, command."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _decision import DecisionStudy
from _provenance import RESULTS, finish
from _study import RECIPE
from fidelity import CONFIDENCE, FRESH, SETS, Proxies, committed, deciding_of, study_of

from nemo_demix.artifacts import read_json

SEED = 7  # of the study, where it is not said


def of_study(seed: int = SEED) -> list[dict[str, Any]]:
    """The study's committed rows."""
    return committed(FRESH.format(seed))


def mixtures_of(runs: Path, seed: int = SEED) -> dict[str, dict[str, Any]]:
    """The study's references, each mixture once, by name."""
    references = read_json(runs / RECIPE / "verify" / "references.json")
    mixtures = {row["name"]: row for row in references if row["name"] == row["mixture"]}
    known = of_study(seed)
    assert all({"kind": "mixture", **row} in known for row in mixtures.values()), f"{runs}: another study's references"
    return mixtures


def decided(rows: list[dict[str, Any]], proxies: Proxies, label: str, seed: int, draw: int = 0) -> DecisionStudy:
    """The decision by proxies in these rows and in the study's.

    Args:
        label: The set of scores, of `SETS`.
        draw: Seed of the resamples.
    """
    given = [*of_study(seed), *rows]
    return deciding_of(given, study_of(given, label, draw), proxies)


def figures(rows: list[dict[str, Any]], proxies: Proxies, seed: int = SEED, of: str = "") -> dict[str, Any]:
    """The figures of the decision, and linear correlations, of proxies in these rows and in the study's.

    Args:
        of: What is put before a proxy's name in those of its figures.
    """
    summary: dict[str, Any] = {}
    for label, (_, set_tail) in SETS.items():
        tail, deciding = f"{set_tail}{of}", decided(rows, proxies, label, seed)
        summary |= {key: value for key, value in deciding.summary(CONFIDENCE, tail, {}).items() if "null" not in key}
        study = study_of([*of_study(seed), *rows], label, 0)
        for key, each in proxies.items():
            correlations = [np.corrcoef(study.macro(**one), study.reference_macro)[0, 1] for one in each]
            summary[f"correlation{tail}_{key}"] = float(np.mean(correlations))
    return summary


def study_command(
    doc: str | None,
    result: str,
    collect: Callable[[Path], list[dict[str, Any]]],
    proxies: dict[str, dict[str, Any]],
) -> None:
    """Collect rows, or with --quick take the committed ones, and write them with their figures.

    Args:
        doc: What the command says of itself.
        result: Name of the file.
        collect: Gives the rows, from the folder of the study's runs.
        proxies: What to judge, by name: the rows of the one set of components, as `Study.macro` wants them.
    """
    quick, rows = given_rows(doc, result, collect)
    finish(result, quick, [SEED], rows, figures(rows, {key: [one] for key, one in proxies.items()}))


def given_rows(
    doc: str | None, result: str, collect: Callable[[Path], list[dict[str, Any]]]
) -> tuple[bool, list[dict[str, Any]]]:
    """Whether the command line has --quick; and the rows: the committed ones there, else collected; see
    `study_command`.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the study's runs are")
    parser.add_argument("--quick", action="store_true", help="the figures again, from the committed scores")
    arguments = parser.parse_args()
    if arguments.quick:
        return True, json.loads((RESULTS / f"{result}.json").read_text())["rows"]
    return False, collect(arguments.runs.resolve())
