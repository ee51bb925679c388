"""A mixture before the trust gates: by today's thresholds, components and references."""

from collections.abc import Mapping
from typing import Any

from nemo_demix.fidelity.trust import trust_report
from nemo_demix.prediction.cross_validation import CrossValidation
from nemo_demix.prepared import PreparedRun
from nemo_demix.training.jobs import load_model


def judge(
    run: PreparedRun,
    proxy: str | None,
    cross_validation: CrossValidation | Mapping[str, Any] | None,
    fidelity: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return the report of `trust_report`; a mixture that rests on no component is not asked about them.

    Args:
        proxy: What the mixture was chosen by, as in `mixture.json`.
    """
    merged = proxy in ("merge", "predictions", "both")
    records = [load_model(job) for job in run.components] if merged else []
    deltas = {record.name: record.delta for record in records if record.delta is not None}
    return trust_report(run.config, deltas, cross_validation, fidelity if merged else {})
