"""Why: what each dataset does to each benchmark; and which scores say more than noise.

Axes: M scored mixtures, C components (datasets, where proxies are trained or imported), B scores.
"""

from collections.abc import Mapping

import numpy as np

from nemo_demix.mixture import Array
from nemo_demix.report.blocks import (
    BETTER,
    QUIET,
    WORSE,
    Cell,
    Figure,
    Section,
    Table,
    interval,
    number,
    percent,
    sentence,
)
from nemo_demix.report.figures import Mark, forest
from nemo_demix.report.records import RunRecords
from nemo_demix.report.units import UNKNOWN, directions, units
from nemo_demix.scoring.items import Score, is_guessed

STEP = 0.1  # of all weights: what an effect is the effect of
CONFIDENCE = 0.95


def effects_section(run: RunRecords) -> Section:
    """Return signed effects of more of each component on each score, with intervals."""
    key, title, question = "effects", "What each dataset does", "Why?"
    rows = run.scored_mixtures
    if not rows:
        return Section(key, title, question, missing=f"No scored mixtures here: {run.rows_reason}.")
    names = _in_order(run, rows[0].merge_weights)
    if len(rows) < len(names) + 3:
        why = f"{len(rows)} scored mixtures are too few to tell {len(names)} datasets apart."
        return Section(key, title, question, missing=why)
    scores = [name for name in rows[0].scores if not name.startswith("heldout/")]
    weights_MC = np.array([[row.merge_weights.get(name, 0.0) for name in names] for row in rows])
    scores_MB = np.array([[row.scores[name].score for name in scores] for row in rows])
    if np.linalg.matrix_rank(weights_MC) < len(names):
        return Section(
            key,
            title,
            question,
            missing="The scored mixtures do not vary in every dataset, so effects cannot be told apart.",
        )
    effects_CB, errors_CB = effects(weights_MC, scores_MB)
    ways, known = directions(run), units(run)
    signs_B = np.array([-1.0 if ways.get(name, False) else 1.0 for name in scores])
    effects_CB = effects_CB * signs_B
    reach_CB = errors_CB * _student(len(rows) - len(names))
    # Colour by what a score's effects come to; scores of several units do not compare.
    scale_B = np.abs(effects_CB).max(axis=0)
    table: list[list[Cell | str]] = [
        [name, *(_effect(effects_CB[c, b], reach_CB[c, b], scale_B[b]) for b in range(len(scores)))]
        for c, name in enumerate(names)
    ]
    headings = [f"{_short(name)}, {known.get(name, UNKNOWN)}" for name in scores]
    trained = not run.scored
    merged = not trained and (run.mixture is None or bool(run.mixture.get("merge_weights")))
    caption = (
        f"Change of each score for {percent(STEP, 0)} more of a {'dataset' if trained else 'component'}'s "
        f"{'share' if trained else 'weight'}, the others less in proportion, ± its 95 % interval; "
        "negative is better (turned so where higher is better)"
    )
    notes = [
        "A straight line through the scored mixtures: where effects saturate or work together, it is "
        "their mean over these.",
        "Bold: the interval leaves 0 out. Of 20 such intervals one does by chance.",
    ]
    if merged:
        notes.append(
            "Weights are merge weights; a component holds general text too, and merges exaggerate what it is good at."
        )
    if trained:
        notes.append(f"By the models that `verify` trained, one on each of {len(rows)} mixtures: no proxy is in this.")
    answer = _strongest(names, scores, effects_CB, reach_CB)
    columns = ["dataset" if trained else "component", *headings]
    return Section(key, title, question, answer, tables=[Table(caption, columns, table)], notes=notes)


def _in_order(run: RunRecords, weights: Mapping[str, float]) -> list[str]:
    """Return the components in the run's order of datasets, as far as they have its names."""
    order = {name: place for place, name in enumerate(run.capability_of)}
    return sorted(weights, key=lambda name: order.get(name, len(order)))


def effects(weights_MC: Array, scores_MB: Array) -> tuple[Array, Array]:
    """Return least-squares effects of STEP more of each component from the mean mixture, and their standard errors.

    Args:
        weights_MC: Weights of the mixtures, of full column rank, rows summing to 1; M > C.

    Returns:
        Both of shape (C, B), in the scores' units.
    """
    num_rows, num_components = weights_MC.shape
    slopes_CB = np.linalg.lstsq(weights_MC, scores_MB, rcond=None)[0]
    left_MB = scores_MB - weights_MC @ slopes_CB
    variance_B = (left_MB**2).sum(axis=0) / (num_rows - num_components)
    mean_C = weights_MC.mean(axis=0)
    # Row c: more of c, all others less in proportion to their mean weights.
    moves_CC = STEP * (np.eye(num_components) - mean_C) / (1 - mean_C)[:, None]
    spread_C = np.einsum("cd,de,ce->c", moves_CC, np.linalg.inv(weights_MC.T @ weights_MC), moves_CC)
    return moves_CC @ slopes_CB, np.sqrt(np.outer(spread_C, variance_B))


def _student(freedom: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.5 + CONFIDENCE / 2))


def _effect(value: float, reach: float, scale: float) -> Cell:
    text = f"{number(value, signed=True)} ± {number(reach)}"
    if abs(value) <= reach or not scale:
        return Cell(text, QUIET)
    return Cell(text, BETTER if value < 0 else WORSE, float(abs(value) / scale))


def _strongest(names: list[str], scores: list[str], effects_CB: Array, reach_CB: Array) -> str:
    """Say for each component which score it helps most, among those whose interval is clear of 0."""
    parts = []
    for c, name in enumerate(names):
        clear = [(effects_CB[c, b], scores[b]) for b in range(len(scores)) if effects_CB[c, b] < -reach_CB[c, b]]
        if clear:
            parts.append(f"{name} helps {_short(min(clear)[1])}")
    return f"Most clearly: {sentence(parts)}." if parts else "No effect is clear of its interval."


def noise_section(run: RunRecords) -> Section:
    """Divide each score's spread between mixtures by its standard error."""
    key, title, question = "noise", "Signal and noise of each score", "Which scores are noise?"
    scored = run.scored_mixtures
    drawn = [row for row in scored if row.iteration in (0, None)]
    rows = drawn if len(drawn) >= 8 else scored
    if len(rows) < 8:
        why = (
            f"{len(rows)} scored mixtures are too few for a spread."
            if rows
            else f"No scored mixtures here: {run.rows_reason}."
        )
        return Section(key, title, question, missing=why)
    known, table, marks = units(run), [], []
    for name in rows[0].scores:
        scores = [row.scores[name] for row in rows]
        spread = float(np.std([score.score for score in scores], ddof=1))
        stderrs = [score.stderr for score in scores if score.stderr is not None]
        stderr = float(np.median(stderrs)) if stderrs else None
        low, high = _of_spread(spread, len(rows))
        ratios = (None, None, None) if not stderr else (spread / stderr, low / stderr, high / stderr)
        if ratios[0] is not None:
            marks.append(Mark(_short(name), ratios[0], ratios[1], ratios[2]))
        table.append(
            [
                _short(name),
                known.get(name, UNKNOWN),
                f"{number(spread)} ({interval(low, high)})",
                number(stderr),
                f"{number(ratios[0], 2)} ({interval(ratios[1], ratios[2], 2)})",
                _chance(scores),
            ]
        )
    seeds = _seeds(run)
    figures = []
    if marks:
        label = "spread between mixtures / standard error of one score (→ better), no unit"
        svg = forest("noise", "Signal to noise of each score", {"ratio": marks}, label, 1.0)
        note = (
            "Lines: 95 % intervals of the spread, as if normal. Filled: clear of 1. Items are the same "
            "for all mixtures, so "
        )
        figures.append(
            Figure(
                "Spread between mixtures over one score's standard error",
                svg,
                note + "differences are less noisy than this.",
            )
        )
    weak = [mark.label for mark in marks if mark.high is not None and mark.high < 1]
    columns = [
        "score",
        "unit",
        "spread between mixtures (95 %)",
        "standard error",
        "ratio (95 %; higher is better)",
        "against guessing",
    ]
    drawn_how = "drawn at random" if rows is drawn and rows[0].iteration == 0 else "scored"
    if not run.scored:
        drawn_how = "drawn at random, a model trained on each"
    return Section(
        key, title, question,
        answer=("No score here has a known error, so its spread between mixtures has nothing to be held against."
                if not marks else f"Less between mixtures than one score's own error: {sentence(weak)}." if weak
                else (
                    "Between mixtures every score with a known error moves at least as much as its own "
                    "error, or cannot be told."
                )),
        figures=figures, tables=[Table(f"{len(rows)} mixtures {drawn_how}", columns, table, num_text=2), *seeds],
    )  # fmt: skip


def _of_spread(spread: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a standard deviation, of normal values."""
    from scipy.special import chdtri

    tail = (1 - CONFIDENCE) / 2
    low, high = (spread * float(np.sqrt((count - 1) / chdtri(count - 1, share))) for share in (tail, 1 - tail))
    return low, high


def _chance(scores: list[Score]) -> str:
    if any(score.chance is None for score in scores):
        return "no such level"
    guessed = sum(is_guessed(score) for score in scores)
    return f"{guessed} of {len(scores)} mixtures guess"


def _seeds(run: RunRecords) -> list[Table]:
    """Return noise between training seeds, where references were trained with several."""
    if run.fidelity is None:
        return []
    rows: list[list[Cell | str]] = []
    for name, called in (("benchmarks", "benchmarks"), ("heldout", "held-out text")):
        stds = run.fidelity.get(name, {}).get("seed_noise", {}).get("std", {})
        rows += [[f"{capability} ({called})", number(std)] for capability, std in stds.items()]
    return (
        [Table("Standard deviation of one trained model between data orders", ["capability", "in its unit"], rows)]
        if rows
        else []
    )


def _short(name: str) -> str:
    return name.removeprefix("benchmark/").removeprefix("task/").removeprefix("external/")
