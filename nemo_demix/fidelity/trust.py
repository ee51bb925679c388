"""Trust gates: what has to hold before a mixture that came from merged proxies is trained on."""

from collections.abc import Mapping
from typing import Any

from nemo_demix.config import DemixConfig
from nemo_demix.prediction.cross_validation import CrossValidation
from nemo_demix.search.strategies import proxy_plan


def trust_report(
    config: DemixConfig,
    deltas: Mapping[str, float],
    cross_validation: CrossValidation | Mapping[str, Any] | None,
    fidelity: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return whether every gate that was measured holds.

    Args:
        config: `trust` has the thresholds, `search.proxy` the kind of proxy that `fidelity` is asked about.
        deltas: How far each component moved from the base; empty where no component took part.
        cross_validation: The predictor's cross-validation, or its record; None where nothing was predicted.
        fidelity: `verify/fidelity.json` of these components; None where `verify` has not run, {} where the mixture
            rests on no merge, so that there is nothing to verify.

    Returns:
        `trusted`, and `gates`: name, value, threshold, passed (null: not measured) and the reason.
    """
    gates = [
        _delta_gate(deltas, config.trust.max_delta),
        _prediction_gate(cross_validation, config.trust.min_cv_rho),
        _rank_gate(config, fidelity),
    ]
    return {"trusted": all(gate["passed"] is not False for gate in gates), "gates": gates}


def _gate(name: str, value: float | None, threshold: float, passed: bool | None, reason: str) -> dict[str, Any]:
    return {"name": name, "value": value, "threshold": threshold, "passed": passed, "reason": reason}


def _delta_gate(deltas: Mapping[str, float], limit: float) -> dict[str, Any]:
    name = "delta of the components"
    if not deltas:
        return _gate(name, None, limit, None, "the mixture does not rest on components")
    worst = max(deltas, key=lambda component: deltas[component])
    value = deltas[worst]
    if value <= limit:
        return _gate(name, value, limit, True, f"{worst} moved most from the base")
    far = f"{worst} moved {value:.3f} from the base, more than trust.max_delta={limit}"
    return _gate(name, value, limit, False, f"{far}: use a base trained longer, or fewer tokens or a lower rate")


def _prediction_gate(found: CrossValidation | Mapping[str, Any] | None, limit: float) -> dict[str, Any]:
    name = "cross-validated rho of the predictor"
    if not found:
        return _gate(name, None, limit, None, "nothing was predicted")
    rho = found["rho_macro"] if isinstance(found, Mapping) else found.rho_macro
    if rho is None:
        return _gate(name, None, limit, False, "undefined: a capability's scores or predictions are constant")
    if rho >= limit:
        return _gate(name, rho, limit, True, "macro, on proxies that it was not fitted to")
    return _gate(name, rho, limit, False, f"{rho:.2f} is below trust.min_cv_rho={limit}: score more proxies")


def _rank_gate(config: DemixConfig, fidelity: Mapping[str, Any] | None) -> dict[str, Any]:
    name, limit, required = (
        "rho of the proxies with trained references",
        config.trust.min_rho,
        config.trust.require_verify,
    )
    if fidelity is not None and not fidelity:
        return _gate(name, None, limit, None, "the mixture does not rest on merged proxies")
    if fidelity is None:
        reason = "not measured: run `nemo-demix verify`" + (", which trust.require_verify asks for" if required else "")
        return _gate(name, None, limit, False if required else None, reason)
    kind = "predictions" if proxy_plan(config).chosen_by == "predictions" else "merge"
    scores = fidelity.get("benchmarks") or fidelity["heldout"]
    if kind not in scores["proxies"]:
        reason = f"`verify` has not looked at {kind} proxies: run it again"
        return _gate(name, None, limit, False if required else None, reason)
    rho, what = _rank_estimate(scores, kind)
    if rho["low"] is None:
        return _gate(name, None, limit, False, f"{what}: undefined: {rho['reason']}")
    interval = f"{what} {rho['value']:.2f}, {fidelity['confidence']:.0%} interval {rho['low']:.2f} to {rho['high']:.2f}"
    interval += f" over {fidelity['num_references']} references"
    if rho["low"] > limit:
        return _gate(name, rho["low"], limit, True, interval)
    reason = f"{interval}: not above trust.min_rho={limit}; raise verify.references, or see delta"
    return _gate(name, rho["low"], limit, False, reason)


def _rank_estimate(scores: Mapping[str, Any], kind: str) -> tuple[Mapping[str, Any], str]:
    """Return rho of the macro score, which a search minimises; where it is undefined, the capabilities' mean,
    and why.
    """
    objective = scores.get("objective")
    mean = scores["proxies"][kind]["rho"]["macro"]
    if objective is None:
        return mean, "mean over capabilities (the macro score was not measured: run `nemo-demix verify` again)"
    reason = objective["reason"]
    if reason is None:
        rho = objective["proxies"][kind]["rho"]
        if rho["low"] is not None:
            return rho, "macro score"
        reason = rho["reason"]
    return mean, f"mean over capabilities (of the macro score undefined: {reason})"
