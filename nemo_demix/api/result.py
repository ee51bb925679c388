"""What a search has found, as the command records it in `search/mixture.json`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Prediction:
    """What a capability is predicted to score.

    Attributes:
        std: One standard deviation; None: nothing was fitted, so that it is not known.
    """

    score: float
    std: float | None = None


@dataclass(frozen=True)
class Result:
    """The mixture that a search has found.

    Attributes:
        data_shares: Shares by dataset; they sum to 1.
        weights: Merge weights by component; empty where the mixtures are data shares.
        predicted: What is predicted, by capability of the objective, in its scores' unit.
        intervals: The 5th and the 95th percentile of each dataset's share over what resampled scores would have chosen
            (over the best of the pool where nothing was resampled), by dataset.
        baselines: Data shares of the plain alternatives, by name.
        predicted_baselines: What is predicted of each of these, by capability.
        num_scored: Mixtures with scores.
        num_failed: Mixtures that could not be scored.
        notes: What the user should know.
        record: All that `search/mixture.json` holds.
    """

    data_shares: dict[str, float]
    weights: dict[str, float]
    predicted: dict[str, Prediction]
    intervals: dict[str, tuple[float, float]]
    baselines: dict[str, dict[str, float]]
    predicted_baselines: dict[str, dict[str, float]]
    num_scored: int
    num_failed: int
    notes: tuple[str, ...]
    record: Mapping[str, Any]

    @classmethod
    def of(cls, record: Mapping[str, Any], notes: tuple[str, ...] = ()) -> "Result":
        """Make it from the content of `search/mixture.json`, of this release or an earlier one."""
        intervals = {name: one.get("refits") or one["top"] for name, one in record.get("intervals", {}).items()}
        return cls(
            data_shares=dict(record["data_shares"]),
            weights=dict(record["merge_weights"]),
            predicted={name: Prediction(one["score"], one["std"]) for name, one in record["predicted"].items()},
            intervals={name: (low, high) for name, (low, high) in intervals.items()},
            baselines={name: dict(one["data_shares"]) for name, one in record["baselines"].items()},
            predicted_baselines={name: dict(one["predicted"]) for name, one in record["baselines"].items()},
            num_scored=record["num_proxies"],
            num_failed=record["num_failed"],
            notes=notes,
            record=record,
        )

    def table(self) -> list[dict[str, Any]]:
        """Return a row a dataset: its share, the interval's ends, its share in each baseline; `pandas.DataFrame` takes
        it.
        """
        return [
            {
                "dataset": name,
                "share": share,
                "low": self.intervals.get(name, (None, None))[0],
                "high": self.intervals.get(name, (None, None))[1],
                **{baseline: shares.get(name) for baseline, shares in self.baselines.items()},
            }
            for name, share in self.data_shares.items()
        ]
