"""Units and directions of what is shown, as the records have them."""

from collections.abc import Iterable
from dataclasses import dataclass

from nemo_demix.report.blocks import only
from nemo_demix.report.records import RunRecords

MIXED = "mixed units"
UNKNOWN = "the scores' unit"  # of imported ones


@dataclass(frozen=True)
class Scale:
    """Unit and direction of the mean over capabilities; a sign of None: there is none."""

    unit: str
    sign: float | None  # that turns a difference so that negative is better


def macro_unit(units: Iterable[str | None]) -> str:
    """Return the unit of a mean over capabilities, given each one's."""
    return str(only(list(units), MIXED))


def directions(run: RunRecords) -> dict[str, bool]:
    """Return whether higher is better, by score name and by capability, as far as the records say."""
    found: dict[str, bool] = {}
    for row in run.scored_mixtures:
        for scores in (row.scores, row.capabilities):
            found |= {name: one.higher_is_better for name, one in scores.items()}
    measured = (run.mixture or {}).get("measured") or {}
    found |= {name: one["higher_is_better"] for name, one in measured.items()}
    for model in (run.result or {}).get("models", {}).values():
        for scores in (model["scores"], model["capabilities"]):
            found |= {name: one["higher_is_better"] for name, one in scores.items()}
    owners = imported_owners(run)
    return found | {owner: found[name] for name, owner in owners.items() if name in found}


def units(run: RunRecords) -> dict[str, str]:
    """Return the unit, by score name and by capability, as far as the records say."""
    found: dict[str, str] = {}
    for row in run.scored_mixtures:
        for scores in (row.scores, row.capabilities):
            found |= {name: one.unit for name, one in scores.items() if one.unit is not None}
    measured = (run.mixture or {}).get("measured") or {}
    found |= {name: one["unit"] for name, one in measured.items()}
    return found | {owner: found[name] for name, owner in imported_owners(run).items() if name in found}


def imported_owners(run: RunRecords) -> dict[str, str]:
    """Return the capability of each imported benchmark; empty where scores are the run's own."""
    if (run.mixture or {}).get("proxy") != "imported" or not run.scored:
        return {}
    from nemo_demix.search.imported import imported_capabilities

    return imported_capabilities(run.config, run.scored[0].scores)


def spread_of_mean(run: RunRecords) -> Scale:
    """Find the unit and direction of the mean over the predicted capabilities, where it has them."""
    if run.mixture is None:
        return Scale(UNKNOWN, None)
    predicted = run.mixture["predicted"]
    ways, known = directions(run), units(run)
    higher = {ways.get(name) for name in predicted}
    unit = str(only([known.get(name, UNKNOWN) for name in predicted], MIXED))
    has_mean = unit != MIXED and (unit != UNKNOWN or run.mixture["objective"] == "mean")
    if len(higher) != 1 or None in higher or not has_mean:
        return Scale(unit, None)
    return Scale(unit, -1.0 if higher.pop() else 1.0)
