"""When a mixture may be trained on."""

from typing import Any

import pytest

from nemo_demix.config import DemixConfig
from nemo_demix.fidelity.trust import trust_report

CONFIG = DemixConfig(name="t")
GOOD_DELTAS = {"a": 0.05, "b": 0.10}
GOOD_CV = {"rho_macro": 0.8}


def fidelity(low: float | None, high: float | None = 0.9, kind: str = "merge") -> dict[str, Any]:
    """A report whose rho of the macro score is this; the mean of the capabilities' is better, and does not count."""
    rho = {"value": None if low is None else 0.6, "low": low, "high": high, "reason": "the proxies are constant"}
    mean = {"value": 0.8, "low": 0.7, "high": 0.9, "reason": None}
    objective = {"reason": None, "proxies": {kind: {"rho": rho}}}
    scores = {"proxies": {kind: {"rho": {"macro": mean}}}, "objective": objective}
    return {"num_references": 24, "confidence": 0.95, "benchmarks": scores}


def without_macro_score(reason: str | None, low: float | None) -> dict[str, Any]:
    """A report that has no macro score: it says why, or it is of an earlier release."""
    found = fidelity(0.5)
    mean = {"value": None if low is None else 0.6, "low": low, "high": 0.9, "reason": "undefined for math"}
    found["benchmarks"]["proxies"]["merge"]["rho"]["macro"] = mean
    found["benchmarks"]["objective"] = {"reason": reason, "proxies": None}
    if reason is None:
        del found["benchmarks"]["objective"]
    return found


def passed(report: dict[str, Any]) -> list[bool | None]:
    return [gate["passed"] for gate in report["gates"]]


def test_all_gates_hold() -> None:
    report = trust_report(CONFIG, GOOD_DELTAS, GOOD_CV, fidelity(0.2))
    assert report["trusted"]
    assert passed(report) == [True, True, True]


@pytest.mark.parametrize(
    ("deltas", "cross_validation", "found", "failing", "says"),
    [
        ({"a": 0.05, "b": 0.31}, GOOD_CV, fidelity(0.2), 0, "b moved 0.310 from the base"),
        (GOOD_DELTAS, {"rho_macro": 0.1}, fidelity(0.2), 1, "below trust.min_cv_rho=0.3"),
        (GOOD_DELTAS, {"rho_macro": None}, fidelity(0.2), 1, "undefined"),
        (GOOD_DELTAS, GOOD_CV, fidelity(-0.1), 2, "interval -0.10 to 0.90 over 24 references"),
        (GOOD_DELTAS, GOOD_CV, fidelity(0.0), 2, "not above trust.min_rho=0.0"),
        (GOOD_DELTAS, GOOD_CV, without_macro_score("two units", -0.1), 2, "of the macro score undefined: two units"),
        (GOOD_DELTAS, GOOD_CV, without_macro_score("two units", None), 2, "undefined: undefined for math"),
        (GOOD_DELTAS, GOOD_CV, without_macro_score(None, 0.0), 2, "run `nemo-demix verify` again"),
    ],
)
def test_one_failing_gate_is_enough(
    deltas: dict[str, float], cross_validation: dict[str, Any], found: dict[str, Any], failing: int, says: str
) -> None:
    report = trust_report(CONFIG, deltas, cross_validation, found)
    assert not report["trusted"]
    assert passed(report) == [index != failing for index in range(3)]
    assert says in report["gates"][failing]["reason"]


def test_without_a_macro_score_the_mean_over_capabilities_counts_and_the_reason_is_given() -> None:
    for found, says in (
        (without_macro_score("two units", 0.2), "undefined: two units"),
        (without_macro_score(None, 0.2), "not measured"),
        (fidelity(None, None), "undefined: the proxies are constant"),
    ):
        report = trust_report(CONFIG, GOOD_DELTAS, GOOD_CV, found)
        assert passed(report) == [True, True, True]
        assert says in report["gates"][2]["reason"]
        assert "mean over capabilities" in report["gates"][2]["reason"]


def test_what_was_not_measured_fails_only_where_it_is_required() -> None:
    report = trust_report(CONFIG, GOOD_DELTAS, GOOD_CV, None)
    assert report["trusted"]
    assert passed(report) == [True, True, None]
    strict = DemixConfig(name="t")
    strict.trust.require_verify = True
    report = trust_report(strict, GOOD_DELTAS, GOOD_CV, None)
    assert not report["trusted"]
    assert passed(report)[2] is False
    strict.search.proxy = "predictions"
    assert passed(trust_report(strict, GOOD_DELTAS, GOOD_CV, fidelity(0.2)))[2] is False
    assert passed(trust_report(strict, GOOD_DELTAS, GOOD_CV, fidelity(0.2, kind="predictions")))[2] is True


def test_a_mixture_that_rests_on_no_merge_has_nothing_to_fail() -> None:
    strict = DemixConfig(name="t")
    strict.trust.require_verify = True
    report = trust_report(strict, {}, None, {})
    assert report["trusted"]
    assert passed(report) == [None, None, None]
