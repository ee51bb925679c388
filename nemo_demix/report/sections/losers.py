"""Who loses: each capability's and each benchmark's difference to the baseline."""

import math
from collections.abc import Mapping
from typing import Any

from nemo_demix.report.blocks import BETTER, WORSE, Cell, Figure, Section, Table, interval, number, only, sentence
from nemo_demix.report.figures import Mark, forest
from nemo_demix.report.records import RunRecords
from nemo_demix.report.sections.verdict import comparisons, leading
from nemo_demix.report.units import UNKNOWN, directions, units
from nemo_demix.scoring.identity import averaged_scores, judged_scores, shares_of
from nemo_demix.scoring.items import NORMAL
from nemo_demix.scoring.scores import gap
from nemo_demix.search.baselines import CHOSEN

_KEY, _TITLE, _QUESTION = "losers", "By capability and benchmark", "Who loses?"


def losing(run: RunRecords) -> dict[str, Cell | str]:
    """Return the capabilities that lose, as a fact of the verdict: of trained models, else of predictions."""
    name = None if run.mixture is None else leading(comparisons(run)) or next(iter(run.mixture["baselines"]), None)
    if name is None:
        return {}
    is_trained = run.result is not None and name in run.result["models"]
    marks = [mark for mark, *_ in _differences(run, name) if mark.is_heading] if is_trained else _forecast(run, name)
    if not marks:
        return {}
    worse = [mark.label for mark in marks if mark.low is not None and mark.low > 0]
    what = f"capabilities that lose against {name}" if is_trained else f"capabilities predicted to lose against {name}"
    behind = [mark.label for mark in marks if mark.value > 0 and mark.label not in worse]
    text = sentence(worse) or "none beyond the noise"
    if behind:
        text += f"; behind, within the noise: {sentence(behind)}"
    return {what: Cell(text, WORSE if worse else "")}


def losers_section(run: RunRecords) -> Section:
    """Return paired differences of the trained models; before there are any, predicted ones by capability."""
    if run.mixture is None:
        return Section(_KEY, _TITLE, _QUESTION, missing="No mixture has been chosen yet: `nemo-demix search` does.")
    name = leading(comparisons(run)) or next(iter(run.mixture["baselines"]), None)
    if name is None:
        return Section(_KEY, _TITLE, _QUESTION, missing="There is no baseline to compare with.")
    if run.result is not None and name in run.result["models"]:
        return _trained(run, name)
    return _predicted(run, name)


def _differences(run: RunRecords, name: str) -> list[tuple[Mark, str, Mapping[str, Any], Mapping[str, Any]]]:
    """Compare each capability and its scores: the difference, the name, and both trained models' scores."""
    assert run.result is not None
    models = run.result["models"]
    rows = []
    for capability, shares in _members(run, models[CHOSEN]).items():
        gaps = {score: _gap(run, name, score) for score in shares}
        mean = sum(share * gaps[score][0] for score, share in shares.items())
        errors = [gaps[score][1] for score in shares]
        stderr = None
        if None not in errors:
            stderr = math.hypot(*(share * (error or 0.0) for share, error in zip(shares.values(), errors, strict=True)))
        of_capability = models[CHOSEN]["capabilities"][capability]
        sign = -1.0 if of_capability["higher_is_better"] else 1.0
        found = [(capability, True, mean, stderr, of_capability, models[name]["capabilities"][capability])]
        found += [
            (score, False, *gaps[score], models[CHOSEN]["scores"][score], models[name]["scores"][score])
            for score in shares
        ]
        for label, is_heading, value, error, chosen, other in found:
            low, high = (
                (None, None) if error is None else (sign * value - NORMAL * error, sign * value + NORMAL * error)
            )
            rows.append((Mark(_plain(label), sign * value, low, high, is_heading), label, chosen, other))
    return rows


def _trained(run: RunRecords, name: str) -> Section:
    assert run.result is not None
    models = run.result["models"]
    differences = _differences(run, name)
    marks = [mark for mark, *_ in differences]
    rows = [_row(label, mark.is_heading, mark, chosen, other) for mark, label, chosen, other in differences]
    unit = only([score["unit"] for score in models[CHOSEN]["capabilities"].values()], "each score's own unit")
    paired = CHOSEN in run.items and name in run.items
    title = f"Chosen minus {name}, {unit}; negative is better"
    figure = Figure(
        title,
        forest("losers", title, {"chosen": marks}, f"difference, {unit} (← chosen is better)", 0.0),
        "Bold: capabilities, with their benchmarks below. Lines: 95 % intervals over benchmark items"
        + (", paired by item" if paired else ", not paired: the items of the models are not here")
        + (
            ". Training seeds are not in them. Filled: the interval leaves 0 out; of 20 such intervals "
            "one does by chance."
        ),
    )
    columns = ["score", "chosen is", f"difference, {unit}", "95 % interval", "chosen", name]
    table = Table(f"{title} (turned so where higher is better)", columns, rows, num_text=2)
    heldout = run.result["chosen_minus"][name].get("heldout")  # earlier releases did not write it
    notes = [] if heldout is None else [_heldout(heldout)]
    return Section(_KEY, _TITLE, _QUESTION, answer=_answer(marks, name), figures=[figure], tables=[table], notes=notes)


def _heldout(comparison: Mapping[str, Any]) -> str:
    """Say what held-out text of the datasets gains or pays, which no benchmark tells."""
    text = f"Held-out text, macro over capabilities: {number(comparison['difference'], signed=True)} bits/byte"
    if comparison["low"] is not None:
        text += f" ({interval(comparison['low'], comparison['high'], signed=True)})"
    return f"{text}, {comparison['verdict']}."


def _members(run: RunRecords, model: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return what each score counts in its capability's average, by capability."""
    if run.manifest is None:
        return {}
    shares = shares_of(averaged_scores(judged_scores(run.config.suite, run.manifest)))
    return {
        capability: {score: share for score, share in members.items() if score in model["scores"]}
        for capability, members in shares.items()
        if capability in model["capabilities"]
    }


def _gap(run: RunRecords, name: str, score: str) -> tuple[float, float | None]:
    """Return the chosen model's score minus the baseline's, and its standard error."""
    assert run.result is not None
    if CHOSEN in run.items and name in run.items:
        return gap(run.items[CHOSEN][score], run.items[name][score])
    one, other = (run.result["models"][model]["scores"][score] for model in (CHOSEN, name))
    known = one["stderr"] is not None and other["stderr"] is not None
    return one["score"] - other["score"], math.hypot(one["stderr"], other["stderr"]) if known else None


def _row(
    label: str, is_heading: bool, mark: Mark, chosen: Mapping[str, Any], other: Mapping[str, Any]
) -> list[Cell | str]:
    said = "not distinguishable"
    if mark.low is not None and mark.high is not None:
        said = "better" if mark.high < 0 else "worse" if mark.low > 0 else said
    return [
        Cell(_plain(label) if not is_heading else f"{label} (capability)"),
        Cell(said, BETTER if said == "better" else WORSE if said == "worse" else ""),
        number(mark.value, signed=True),
        interval(mark.low, mark.high, signed=True),
        number(chosen["score"]),
        number(other["score"]),
    ]


def _plain(score: str) -> str:
    """Return a score's name without its kind: the page says what it is of."""
    return score.removeprefix("benchmark/").removeprefix("task/").removeprefix("external/").removesuffix(":judged")


def _answer(marks: list[Mark], name: str) -> str:
    worse = [mark.label for mark in marks if mark.is_heading and mark.low is not None and mark.low > 0]
    single = [mark.label for mark in marks if not mark.is_heading and mark.low is not None and mark.low > 0]
    better = [mark.label for mark in marks if mark.high is not None and mark.high < 0]
    if worse:
        text = f"Worse than under the {name} mixture, beyond the noise of items: {sentence(worse)}."
    else:
        text = f"No capability is worse than under the {name} mixture beyond the noise of items."
    if single:
        text += f" Single benchmarks that are: {sentence(single)}."
    return text + (f" Better: {sentence(better)}." if better else "")


def _forecast(run: RunRecords, name: str) -> list[Mark]:
    """Return the predicted difference of each capability; empty where not both mixtures were predicted."""
    assert run.mixture is not None
    chosen, other = run.mixture["predicted"], run.mixture["baselines"][name]["predicted"]
    ways, marks = directions(run), []
    for capability in chosen:
        if capability not in other:
            continue
        value = (-1.0 if ways.get(capability, False) else 1.0) * (chosen[capability]["score"] - other[capability])
        std = chosen[capability]["std"]
        reach = None if std is None else NORMAL * math.sqrt(2) * std
        low, high = (None, None) if reach is None else (value - reach, value + reach)
        marks.append(Mark(capability, value, low, high))
    return marks


def _predicted(run: RunRecords, name: str) -> Section:
    """Show what proxies or the predictor say of the chosen mixture and the baseline's nearest merge, by capability."""
    assert run.mixture is not None
    chosen, other = run.mixture["predicted"], run.mixture["baselines"][name]["predicted"]
    marks = _forecast(run, name)
    if not marks:
        why = "Nothing was predicted of both mixtures: `nemo-demix final` trains and compares them."
        return Section(_KEY, _TITLE, _QUESTION, missing=why)
    ways, known = directions(run), units(run)
    rows = []
    for mark in marks:
        capability = mark.label
        rows.append(
            [
                capability,
                f"{known.get(capability, UNKNOWN)}, {'higher' if ways.get(capability, False) else 'lower'} is better",
                number(mark.value, signed=True),
                interval(mark.low, mark.high, signed=True),
                number(chosen[capability]["score"]),
                number(other[capability]),
            ]
        )
    unit = only([known.get(capability, UNKNOWN) for capability in chosen], "each capability's own unit")
    title = f"Predicted: chosen minus {name}, {unit}; negative is better"
    figures = []
    if all(mark.low is not None for mark in marks):
        note = (
            "Lines: 95 % intervals, of what the predictor is off by at both mixtures. Filled: the "
            "interval leaves 0 out."
        )
        svg = forest("losers", title, {"chosen": marks}, f"predicted difference, {unit} (← chosen is better)", 0.0)
        figures.append(Figure(title, svg, note))
    notes = [
        "No model was trained on the chosen mixture yet; `nemo-demix final` does, and then each benchmark is compared."
    ]
    if not figures:
        notes.append(
            "These predictions have no standard deviation, so there is no plot: a difference without one misleads."
        )
    worse = [mark.label for mark in marks if mark.value > 0]
    answer = (
        f"Predicted to be worse than the {name} mixture: {sentence(worse)}."
        if worse
        else "No capability is predicted to lose."
    )
    columns = ["capability", "unit", "difference", "95 % interval", "chosen", name]
    table = Table(f"{title} (turned so where higher is better)", columns, rows, num_text=2)
    return Section(_KEY, _TITLE, _QUESTION, answer=answer, figures=figures, tables=[table], notes=notes)
