"""Act or not: the comparison that decides, what its interval holds, what it could have seen, the cost so far."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nemo_demix.report.blocks import (
    BETTER,
    QUIET,
    WORSE,
    Cell,
    Figure,
    Section,
    Table,
    counted,
    duration,
    interval,
    number,
    sentence,
)
from nemo_demix.report.figures import Mark, forest
from nemo_demix.report.records import RunRecords
from nemo_demix.report.sections.evidence import study_answer
from nemo_demix.report.units import macro_unit, spread_of_mean

POWER = 0.84  # standard errors beyond half the interval: a true difference of so much is called in four runs of five
_THEIRS = "heuristic"  # the mixture that the user has today, where it was given
_SOURCES = {
    "items": "which benchmark items were drawn",
    "seeds": "training seeds",
    "predictor": "the error of proxies and predictor",
}
_BY = {
    "merge": "merged proxies",
    "predictions": "mixed predictions of the components",
    "both": "merged proxies, screened by mixed predictions",
    "trained": "trained proxies",
    "imported": "a predictor fitted to imported scores",
    None: "nothing: its shares were given",
}
_MEANING = {
    "better": "better than",
    "worse": "worse than",
    "not distinguishable": "not distinguishable from",
}


@dataclass(frozen=True)
class Comparisons:
    """The chosen mixture against each baseline, by name, and what they are comparisons of."""

    of: Mapping[str, Mapping[str, Any]]
    stage: str  # final | search | predicted | none
    unit: str


def comparisons(run: RunRecords) -> Comparisons:
    """Return the strongest that there are: of trained models, of proxies, of predictions; all negative where better."""
    if run.result is not None:
        models = run.result["models"]
        unit = macro_unit(one["unit"] for one in next(iter(models.values()))["capabilities"].values())
        return Comparisons(run.result["chosen_minus"], "final", unit)
    if run.mixture is None:
        return Comparisons({}, "none", "")
    baselines = run.mixture["baselines"]
    measured = {name: one["chosen_minus_this"] for name, one in baselines.items() if one.get("chosen_minus_this")}
    if measured:
        unit = macro_unit(one["unit"] for one in (run.mixture["measured"] or {}).values())
        return Comparisons(measured, "search", unit)
    return Comparisons(_predicted(run), "predicted", spread_of_mean(run).unit)


def _predicted(run: RunRecords) -> dict[str, dict[str, Any]]:
    """Compare the predicted macro scores, where these have one unit; the predictor's error counts for both sides."""
    from nemo_demix.scoring.scores import Comparison, combined

    assert run.mixture is not None
    predicted, scale = run.mixture["predicted"], spread_of_mean(run)
    if not predicted or scale.sign is None:
        return {}
    stds = [one["std"] for one in predicted.values()]
    std = None if None in stds else sum(stds) / len(stds)
    found = {}
    for name, baseline in run.mixture["baselines"].items():
        if set(baseline["predicted"]) == set(predicted):
            gaps = [one["score"] - baseline["predicted"][owner] for owner, one in predicted.items()]
            difference = Comparison(scale.sign * sum(gaps) / len(gaps), None, None, None, "not distinguishable")
            found[name] = combined(difference, None, std)
    return found


def leading(found: Comparisons) -> str | None:
    """Return the baseline that the verdict is about: the user's own mixture, else the proportional one, else
    the first.
    """
    for name in (_THEIRS, "proportional", *found.of):
        if name in found.of:
            return name
    return None


def verdict(run: RunRecords) -> Section:
    """Return the first section of the page: act, or not."""
    found = comparisons(run)
    name = leading(found)
    if name is None:
        return Section(
            "verdict", "Verdict", "Act, or not?", answer=_nothing_yet(run), facts=_facts(run, None, found),
            notes=[] if run.mixture is None or _same(run) else [_no_mean(run)],
        )  # fmt: skip
    leader = found.of[name]
    notes = [_meaning(leader, name, found), _in_the_interval(leader)]
    figures = []
    if any(one["low"] is not None for one in found.of.values()):
        marks = [Mark(other, one["difference"], one["low"], one["high"]) for other, one in found.of.items()]
        label = f"chosen minus baseline, {found.unit} (← chosen is better)"
        figures = [
            Figure(
                f"Chosen mixture against each baseline, macro over capabilities, {found.unit}",
                forest("verdict", "Chosen minus each baseline, with 95 % intervals", {"chosen": marks}, label, 0.0),
                "Lines: 95 % intervals. Filled: the interval leaves 0 out.",
            )
        ]
    return Section(
        "verdict", "Verdict", "Act, or not?", answer=_sentence(leader, name, found),
        facts=_facts(run, leader, found), figures=figures, tables=[_table(found)], notes=notes,
    )  # fmt: skip


def tone(run: RunRecords) -> str:
    """Say whether the leading comparison is better, worse or neither."""
    found = comparisons(run)
    name = leading(found)
    said = None if name is None else found.of[name]["verdict"]
    return BETTER if said == "better" else WORSE if said == "worse" else QUIET


def _sentence(leader: Mapping[str, Any], name: str, found: Comparisons) -> str:
    what = {
        "final": (
            f"The model trained on the chosen mixture is {_MEANING[leader['verdict']]} the one trained on the {name}"
        ),
        "search": f"By its proxies the chosen mixture is {_MEANING[leader['verdict']]} the {name}",
        "predicted": f"The chosen mixture is predicted to be {_MEANING[leader['verdict']]} the {name}",
    }[found.stage]
    sure = (
        "no interval is known"
        if leader["low"] is None
        else f"95 % interval {interval(leader['low'], leader['high'], signed=True)}"
    )
    return (
        f"{what} mixture: {number(leader['difference'], signed=True)} {found.unit}, macro over capabilities "
        f"(negative is better; {sure})."
    )


def _same(run: RunRecords) -> list[str]:
    """Return the baselines that are the chosen mixture, so that none of them was trained beside it."""
    return list((run.result or {}).get("same_as_chosen", ()))


def _nothing_yet(run: RunRecords) -> str:
    if run.mixture is not None:
        chosen_by = _BY.get(run.mixture["proxy"], run.mixture["proxy"])
        if same := _same(run):
            return f"Keep the {same[0]} mixture: it is the chosen one, by {chosen_by}; one model was trained for both."
        return f"A mixture is chosen, by {chosen_by}; it was compared with no baseline as one number."
    parts = []
    if run.manifest is not None:
        parts.append(f"{counted(len(run.manifest.datasets), 'dataset')} prepared")
    for role, stage in (("base", "base model"), ("component", "component"), ("reference", "reference")):
        if count := len(run.models.get(role, {}) or (run.references if role == "reference" else ())):
            parts.append(f"{counted(count, stage)} trained")
    if run.scored:
        parts.append(f"{counted(len(run.scored), 'proxy')} scored")
    study = study_answer(run)
    return " ".join(
        filter(None, [study, f"No mixture has been chosen yet. Done so far: {sentence(parts) or 'nothing'}."])
    )


def _no_mean(run: RunRecords) -> str:
    assert run.mixture is not None
    if not run.mixture["predicted"]:
        return "Nothing was predicted of it; train it beside the baselines with `nemo-demix final`."
    return (
        "Capabilities in different units, or of different directions, have no common mean: see the differences by "
        "capability below."
    )


def _meaning(leader: Mapping[str, Any], name: str, found: Comparisons) -> str:
    said = leader["verdict"]
    untrained = (
        ""
        if found.stage == "final"
        else " No model has been trained on it yet: `nemo-demix final` does, beside the baselines."
    )
    if said == "better":
        return f"As far as the noise counted below goes, the evidence is for changing to the chosen mixture.{untrained}"
    if said == "worse":
        return f"Keep the {name} mixture: the chosen one is behind it by more than the noise counted below.{untrained}"
    if leader["stderr"] is None:
        return f"How sure this is is not known, so nothing here is a reason to change.{untrained}"
    seen = f"{number(_detectable(leader))} {found.unit}"
    return (
        f"Nothing here is a reason to change. Nor is it shown that there is no difference: a true one "
        f"below {seen} would often "
        f"go unseen.{untrained}"
    )


def _detectable(leader: Mapping[str, Any]) -> float:
    return float((leader["high"] - leader["low"]) / 2 + POWER * leader["stderr"])


def _in_the_interval(leader: Mapping[str, Any]) -> str:
    errors = leader["standard_errors"]
    counted = [f"{_SOURCES[source]} ({number(error)})" for source, error in errors.items() if error]
    text = (
        f"In the interval, as standard errors: {sentence(counted)}." if counted else "No source of noise was measured."
    )
    missing = [_SOURCES[source] for source in leader["unmeasured"]]
    if missing:
        text += f" Not measured, so the interval is too narrow by {sentence(missing)}"
        text += ": `final.seeds` measures them, and `verify.seeds`." if "seeds" in leader["unmeasured"] else "."
    if len(orders := leader.get("orders", ())) > 1:  # earlier releases trained in one
        text += f" By data order: {', '.join(number(one, signed=True) for one in orders)}."
    return text


def _facts(run: RunRecords, leader: Mapping[str, Any] | None, found: Comparisons) -> dict[str, Cell | str]:
    facts: dict[str, Cell | str] = {}
    if leader is not None:
        facts["95 % interval of the difference"] = (
            f"{interval(leader['low'], leader['high'], signed=True)} {found.unit}"
        )
        facts["smallest true difference that 4 runs of 5 would call"] = (
            "not known" if leader["stderr"] is None else f"{number(_detectable(leader))} {found.unit}"
        )
    if run.mixture is not None:
        facts["chosen by"] = _BY.get(run.mixture["proxy"], str(run.mixture["proxy"]))
        facts["trust gates"] = _trust(run.mixture.get("trust"))
    stages = run.stages
    tokens = sum(stage["num_tokens"] for stage in stages.values())
    seconds = sum(stage["device_s"] for stage in stages.values())
    spent = f"{tokens:,} tokens trained, {duration(seconds)} of devices"
    facts["cost so far"] = spent if stages else "no record of it in this folder"
    return facts


def _trust(trust: Mapping[str, Any] | None) -> Cell:
    if trust is None:
        return Cell("not judged: the mixture rests on no models of this run", QUIET)
    gates = trust["gates"]
    failed = [gate["name"] for gate in gates if gate["passed"] is False]
    unmeasured = [gate["name"] for gate in gates if gate["passed"] is None]
    text = f"{len(gates) - len(failed) - len(unmeasured)} of {len(gates)} passed"
    if failed:
        text += f"; FAILED: {', '.join(failed)}"
    if unmeasured:
        text += f"; not measured: {', '.join(unmeasured)}"
    return Cell(text, WORSE if failed else "")


def _table(found: Comparisons) -> Table:
    rows: list[list[Cell | str]] = []
    for name, one in found.of.items():
        errors = one["standard_errors"]
        rows.append(
            [
                name,
                Cell(
                    one["verdict"], BETTER if one["verdict"] == "better" else WORSE if one["verdict"] == "worse" else ""
                ),
                number(one["difference"], signed=True),
                interval(one["low"], one["high"], signed=True),
                *(number(errors[source]) for source in _SOURCES),
            ]
        )
    headings = ["baseline", "chosen is", f"difference, {found.unit}", "95 % interval"]
    return Table(
        "Chosen minus each baseline, macro over capabilities; negative is better. Last columns: "
        "standard errors by source",
        [*headings, "items", "seeds", "predictor"], rows, num_text=2,
    )  # fmt: skip
