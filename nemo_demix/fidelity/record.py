"""What `verify` left for other stages to go by."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemo_demix.artifacts import read_json
from nemo_demix.config import DemixConfig
from nemo_demix.prepared import PreparedRun

FORMAT = 3  # raise when a report has figures, or means something by them, that earlier ones lack
_NAMES = {
    "merge": "merged",
    "null": "null: own data share",
    "null_share": "null: log data shares",
    "null_entropy": "null: even data shares",
    "ridge_equal_cost": "ridge on {count} references",
    "log_linear_equal_cost": "mixing law on {count} references",
}


def fidelity_path(config: DemixConfig) -> Path:
    """Return `runs/<name>/verify/fidelity.json`."""
    return config.run_dir / "verify" / "fidelity.json"


def load_fidelity(run: PreparedRun) -> dict[str, Any] | None:
    """Return what `verify` found of exactly this run's components; None where it has not run, or looked at others."""
    path = fidelity_path(run.config)
    if not path.exists():
        return None
    found: dict[str, Any] = read_json(path)
    return found if found.get("components") == {job.name: job.fingerprint for job in run.components} else None


def macro_seeds_std(fidelity: Mapping[str, Any] | None) -> float | None:
    """Return the standard deviation of the benchmarks' macro score between data orders, in its unit; None where not
    measured.
    """
    if fidelity is None or "benchmarks" not in fidelity:
        return None
    std: float | None = fidelity["benchmarks"]["seed_noise"]["std"]["macro"]
    return std


def stand_in_name(key: str, num_fitted: int = 0) -> str:
    """Return what people call a stand-in of the references, by its key in the report.

    Args:
        num_fitted: References that a regression of equal cost was fitted to.
    """
    if key.startswith("trained_"):
        return f"trained, {int(key.removeprefix('trained_')):,} tokens"
    return _NAMES.get(key, key).format(count=num_fitted)
