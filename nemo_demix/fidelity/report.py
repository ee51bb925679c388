"""`verify/fidelity.json`: the run's own Table 2, from the scores of its references and of all that stands for them.

Benchmarks and held-out text are reported apart, each with its own macro average over capabilities.

Axes: R references.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nemo_demix.artifacts import DataManifest, ModelRecord
from nemo_demix.config import DemixConfig
from nemo_demix.errors import ScoreError
from nemo_demix.fidelity.columns import columns, mean_scores, null_columns, score_sets
from nemo_demix.fidelity.consistency import (
    Columns,
    Figures,
    TokensToMatch,
    differences,
    draw_samples,
    estimates,
    figures,
    tokens_to_match,
)
from nemo_demix.fidelity.noise import residual_std, seed_noise
from nemo_demix.fidelity.objective import macro_of_sets
from nemo_demix.fidelity.objective_report import Compared, mixtures_of, objective_report
from nemo_demix.fidelity.references import Reference, shared_orders
from nemo_demix.prediction.correlation import MIN_RANKED
from nemo_demix.scoring.items import Scores
from nemo_demix.search.proxy_row import ProxyRow

NULL = "null"  # orders mixtures by a capability's own data share
_STREAM = 4  # of the resamples, beside the references' own


@dataclass(frozen=True)
class Measured:
    """Scores of the references and of what stands for them."""

    references: Sequence[Reference]
    scores: Mapping[str, Scores]  # by reference name
    trained: Mapping[int, Mapping[str, Scores]]  # tokens of an earlier checkpoint -> scores by mixture
    proxies: Mapping[str, Mapping[str, ProxyRow]]  # kind (merge | predictions) -> rows by mixture, FAILED ones too

    def orders(self, kept: Sequence[Reference]) -> list[dict[str, Scores]]:
        """Take the scores of the kept mixtures' models, in each data order that all were trained in, by mixture."""
        orders = shared_orders(self.references, [reference.mixture for reference in kept])
        return [{mixture: self.scores[name] for mixture, name in models.items()} for models in orders]

    def proxy_scores(self, kept: Sequence[Reference]) -> dict[str, dict[str, Scores]]:
        """Take the scores of the kept mixtures' proxies, by kind and mixture."""
        return {
            kind: {reference.name: rows[reference.name].scores for reference in kept}
            for kind, rows in self.proxies.items()
        }


def fidelity_report(
    config: DemixConfig, manifest: DataManifest, measured: Measured, components: Sequence[ModelRecord]
) -> dict[str, Any]:
    """Return all figures of the study.

    A mixture's reference is the mean of its models, over the data orders that all mixtures were trained in: the luck of
    one order is no error of a proxy's. Further orders of some mixtures measure noise only.

    Raises:
        ScoreError: if a score is missing, too many proxies failed, or fewer than 3 references are left.
    """
    kept, excluded = _usable(config, measured)
    sets = score_sets(config, manifest)
    if not sets:
        raise ScoreError("verify: nothing to compare: set suite.benchmarks, or suite.heldout_tokens above 0")
    deltas = {record.name: record.delta for record in components}
    orders = measured.orders(kept)
    means = {mixture: mean_scores([models[mixture] for models in orders]) for mixture in orders[0]}
    rng = np.random.default_rng([config.seed, _STREAM])
    samples_SR = draw_samples(len(kept), config.verify.num_bootstrap, rng)
    report: dict[str, Any] = {
        "num_references": len(kept),
        "num_models": len(measured.references),
        "num_orders": len(orders),
        "excluded": excluded,
        "confidence": config.verify.confidence,
        "num_bootstrap": config.verify.num_bootstrap,
        "delta": deltas,
    }
    macros, mixtures = macro_of_sets(config, manifest), mixtures_of(kept, manifest)
    compared = _compared(measured, kept, orders)
    for name, capability_of in sets.items():
        report[name] = _set_report(config, manifest, measured, kept, means, capability_of, samples_SR, components)
        report[name]["objective"] = objective_report(config, mixtures, macros[name], compared, samples_SR, components)
    report["spot_checks"] = [_spot_check(measured, reference, means, sets, deltas) for reference in kept]
    return report


def _usable(config: DemixConfig, measured: Measured) -> tuple[list[Reference], dict[str, str]]:
    """Take one reference a mixture, without those of which a proxy failed; and say why the others are left out."""
    first = [reference for reference in measured.references if reference.name == reference.mixture]
    excluded: dict[str, str] = {}
    for kind, rows in measured.proxies.items():
        failed = [reference.name for reference in first if not rows[reference.name].is_ok]
        if len(failed) > config.search.max_failed_share * len(first):
            reason = rows[failed[0]].reason
            raise ScoreError(
                f"verify: {len(failed)} of {len(first)} {kind} proxies failed, more than search.max_failed_share="
                f"{config.search.max_failed_share} of them; the first with: {reason}"
            )
        excluded |= {name: f"its {kind} proxy failed: {rows[name].reason}" for name in failed}
    kept = [reference for reference in first if reference.name not in excluded]
    if len(kept) < MIN_RANKED:
        raise ScoreError(
            f"verify: {len(kept)} references are left, {MIN_RANKED} are needed; raise verify.references={len(first)}"
        )
    return kept, excluded


def _compared(measured: Measured, kept: Sequence[Reference], orders: Sequence[Mapping[str, Scores]]) -> Compared:
    def of(models: Mapping[str, Scores]) -> dict[str, Scores]:
        return {reference.name: models[reference.name] for reference in kept}

    return Compared(
        orders,
        measured.proxy_scores(kept),
        {f"trained_{tokens}": of(models) for tokens, models in measured.trained.items()},
    )


def _set_report(
    config: DemixConfig,
    manifest: DataManifest,
    measured: Measured,
    kept: Sequence[Reference],
    means: Mapping[str, Scores],
    capability_of: Mapping[str, str],
    samples_SR: np.ndarray,
    components: Sequence[ModelRecord],
) -> dict[str, Any]:
    names = [reference.name for reference in kept]

    def of(models: Mapping[str, Scores], what: str) -> Columns:
        return columns({name: models[name] for name in names}, capability_of, what)

    reference = of(means, "reference")
    stand_ins = {kind: of(models, f"{kind} proxy of") for kind, models in measured.proxy_scores(kept).items()}
    trained = {
        f"trained_{tokens}": of(models, f"after {tokens} tokens, reference")
        for tokens, models in measured.trained.items()
    }
    null = null_columns(kept, manifest, list(reference.scores))
    found = {
        name: figures(reference, proxy, samples_SR) for name, proxy in {**stand_ins, **trained, NULL: null}.items()
    }
    confidence = config.verify.confidence
    models = {name: columns({name: one}, capability_of, "reference").scores for name, one in measured.scores.items()}
    return {
        "capabilities": list(reference.scores),
        "higher_is_better": reference.higher_is_better,
        "proxies": {name: estimates(value, confidence) for name, value in found.items()},
        "differences": {
            f"{kind}_minus_{other}": differences(found[kind], found[other], confidence)
            for kind in stand_ins
            for other in (*trained, NULL)
        },
        "tokens_to_match": {
            kind: _price(
                config, found[kind], {tokens: found[f"trained_{tokens}"] for tokens in measured.trained}, components
            )
            for kind in stand_ins
        },
        "residual_std": {kind: residual_std(reference.scores, proxy.scores) for kind, proxy in stand_ins.items()},
        "seed_noise": seed_noise(_by_mixture(measured, models), list(reference.scores)),
    }


def _by_mixture(measured: Measured, models: Mapping[str, Mapping[str, np.ndarray]]) -> list[list[dict[str, float]]]:
    groups: dict[str, list[dict[str, float]]] = {}
    for reference in measured.references:
        scores = {capability: float(values[0]) for capability, values in models[reference.name].items()}
        groups.setdefault(reference.mixture, []).append(scores)
    return list(groups.values())


def _price(
    config: DemixConfig, proxy: Figures, trained: Mapping[int, Figures], components: Sequence[ModelRecord]
) -> dict[str, Any]:
    """Return tokens of a search over trained proxies that order as well, against those of the components."""
    measured = {tokens: _macro_rho(found) for tokens, found in trained.items()}
    match: TokensToMatch = tokens_to_match(_macro_rho(proxy), measured)
    num_proxies = sum(config.search.iterations)
    component_tokens = sum(record.num_tokens for record in components)
    reason = match.reason
    if not component_tokens:
        reason = "the components were brought: their tokens are not known"

    def ratio(tokens: float | None) -> float | None:
        return None if tokens is None or not component_tokens else num_proxies * tokens / component_tokens

    return {
        "tokens_each": match.num_tokens,
        "num_proxies": num_proxies,
        "component_tokens": component_tokens,
        "ratio": ratio(match.num_tokens),
        "ratio_more_than": ratio(match.more_than),
        "ratio_at_most": ratio(match.at_most),
        "reason": reason,
    }


def _macro_rho(found: Figures) -> float | None:
    value = float(found.values["rho"]["macro"][0])
    return None if np.isnan(value) else value


def _spot_check(
    measured: Measured,
    reference: Reference,
    means: Mapping[str, Scores],
    sets: Mapping[str, Mapping[str, str]],
    deltas: Mapping[str, float | None],
) -> dict[str, Any]:
    """Return a mixture's proxies against the models trained on it, and how far the components had moved (DeMix Table
    12).
    """
    recovery: dict[str, Any] = {}
    for kind, rows in measured.proxies.items():
        recovery[kind] = {}
        for name, capability_of in sets.items():
            trained = columns({reference.name: means[reference.name]}, capability_of, "reference").scores
            proxy = columns({reference.name: rows[reference.name].scores}, capability_of, "proxy of").scores
            recovery[kind][name] = {
                capability: float(proxy[capability][0] / trained[capability][0]) if trained[capability][0] else None
                for capability in trained
            }
    known = {name: delta for name, delta in deltas.items() if delta is not None}
    used = {name: weight for name, weight in reference.merge_weights.items() if weight > 0}
    mean_delta = sum(weight * known[name] for name, weight in used.items()) if set(used) <= set(known) else None
    return {"reference": reference.name, "mean_delta": mean_delta, "recovery": recovery}
