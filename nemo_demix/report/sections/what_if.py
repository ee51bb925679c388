"""What if: sliders for the shares, and what the run's own predictor says of them."""

from collections.abc import Mapping
from typing import Any

from nemo_demix.report.blocks import Section
from nemo_demix.report.records import RunRecords
from nemo_demix.report.sections.inputs import heuristic_override
from nemo_demix.report.units import UNKNOWN, units

_KEY, _TITLE, _QUESTION = "whatif", "Try another mixture", "What if?"
_BY = {
    "tokens": "Predictions are mixed predictions of the components, worked out token by token in this page; intervals "
    "are the 5th to the 95th percentile over resampled items.",
    "fitted": "Predictions are those of the search's own regressors, worked out in this page; intervals are the 5th to "
    "the 95th percentile over refits on resampled mixtures.",
    "forest": "Predictions are those of the search's own forests, worked out in this page; intervals are 1.96 times "
    "the root mean square error out of fold of both mixtures, the same for all.",
}


def what_if_section(run: RunRecords) -> Section:
    """Return the sliders' data; they are made by `template/what_if.js`."""
    if run.mixture is None:
        why = "No mixture has been chosen yet: `nemo-demix search` does."
        return Section(_KEY, _TITLE, _QUESTION, missing=why)
    if run.what_if is None:
        why = "This strategy has no predictor to ask, or an earlier release searched; `nemo-demix search force=true` "
        return Section(_KEY, _TITLE, _QUESTION, missing=f"{why}searches again.")
    if "reason" in run.what_if:
        return Section(_KEY, _TITLE, _QUESTION, missing=f"There are no sliders here: {run.what_if['reason']}.")
    predictor = run.what_if["predictor"]
    kind = predictor["kind"]
    errors = _errors(run.mixture)
    if kind == "fitted" and not predictor["refits"]:
        kind = "forest"
    notes = [
        _BY[kind],
        "Differences are to the mixture chosen under Compare with; negative is better, signs of scores where higher is "
        "better are turned. A prediction is no measurement: `nemo-demix final` trains.",
    ]
    known = units(run)
    live = {
        **run.what_if,
        "units": {name: known.get(name, UNKNOWN) for name in run.what_if["capabilities"]},
        "errors": errors if kind == "forest" else None,
        "mixtures": {
            "chosen": run.mixture["data_shares"],
            **{name: one["data_shares"] for name, one in run.mixture["baselines"].items()},
        },
        "override": _override(list(run.what_if["datasets"])),
    }
    answer = "Move a share; the others give way in proportion, within the run's constraints."
    return Section(_KEY, _TITLE, _QUESTION, answer=answer, notes=notes, live=live)


def _errors(mixture: Mapping[str, Any]) -> dict[str, float] | None:
    """Return root mean square errors out of fold, by capability."""
    checks = mixture["cross_validation"]
    return None if checks is None else dict(checks["capability_rmse"])


def _override(datasets: list[str]) -> dict[str, Any]:
    """Return how a mixture is written: on the command line where its grammar takes the names, else in a recipe.

    The text of a mixture whose shares are 0, 1, ...; the page puts shares in the places of these.
    """
    from nemo_demix.config.grammar import fault

    text = "search.heuristic={" + ",".join(f"{name}:0.5" for name in datasets) + "}"
    if fault(text) is None:
        names = [f"{one}:" for one in datasets]
        return {"before": "'search.heuristic={", "after": "}'", "between": ",", "names": names}
    lines = heuristic_override(dict.fromkeys(datasets, 0.5)).splitlines()
    return {
        "before": "\n".join(lines[:2]) + "\n", "after": "\n", "between": "\n",
        "names": [line.removesuffix("0.5") for line in lines[2:]],
    }  # fmt: skip
