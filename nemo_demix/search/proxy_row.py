"""What is known of one proxy: from when it is scored, in `scores.jsonl`, and for all who read that file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_demix.artifacts import canonical_json, json_value
from nemo_demix.errors import DemixError
from nemo_demix.scoring.items import Score, scores_from_json

VERSION = 1  # of a row's JSON: raised when an earlier reader would take it for something else
_COSTS = ("merge_time_s", "score_time_s", "external_time_s", "train_time_s", "num_tokens")


@dataclass(frozen=True)
class ProxyRow:
    """A proxy: its merge weights, and its scores or why it has none.

    A row of a log also says what its scores depend on besides the weights; imported mixtures have no such parts.

    Attributes:
        merge_weights: Shares over components, by name; over datasets where proxies are trained or scores imported.
        iteration: Step of the search that asked for it. None: no step did.
        reason: Why there are no scores. None: there are.
        scores: Scores by name; empty where it failed.
        capabilities: Average score of each capability, by name; empty where nobody has worked it out.
        merge_time_s: Seconds to merge it. None, as of the four below: not of this kind of proxy.
        score_time_s: Seconds to score it on ranks.
        external_time_s: Seconds of external commands, and of writing what they are given.
        train_time_s: Seconds of its own training run.
        num_tokens: Tokens of that training run.
        proxy: Kind of proxy: merge, predictions, trained or study. None: of the first releases, or imported.
        components: Fingerprint of each component, by name. None: as for `proxy`.
        merge: Fingerprint of how the proxy is made of components.
        score_fingerprints: Fingerprint of what each score is of, by score name.
        fingerprint: Fingerprint of all of these.
    """

    name: str
    merge_weights: dict[str, float]
    iteration: int | None = None
    reason: str | None = None
    scores: dict[str, Score] = field(default_factory=dict)
    capabilities: dict[str, Score] = field(default_factory=dict)
    merge_time_s: float | None = None
    score_time_s: float | None = None
    external_time_s: float | None = None
    train_time_s: float | None = None
    num_tokens: int | None = None
    proxy: str | None = None
    components: dict[str, str] | None = None
    merge: str | None = None
    score_fingerprints: dict[str, str] = field(default_factory=dict)
    fingerprint: str = ""

    @property
    def is_ok(self) -> bool:
        """Whether it could be made and scored."""
        return self.reason is None

    @property
    def status(self) -> str:
        """OK or FAILED."""
        return "OK" if self.is_ok else "FAILED"

    @property
    def ranks_time_s(self) -> float:
        """Seconds of the ranks: to merge or train, and to score."""
        return sum(known or 0.0 for known in (self.merge_time_s, self.score_time_s, self.train_time_s))

    @property
    def wall_time_s(self) -> float:
        """Seconds of all of it, one after another."""
        return self.ranks_time_s + (self.external_time_s or 0.0)

    @property
    def key(self) -> str:
        """What rows of the same merge weights have in common; a component left out weighs 0."""
        return weights_key(self.merge_weights)

    def to_json(self) -> dict[str, Any]:
        """Give what a line of `scores.jsonl` holds; what does not apply to the row is left out."""
        found: dict[str, Any] = {
            "version": VERSION,
            "iteration": self.iteration,
            "name": self.name,
            "merge_weights": self.merge_weights,
            "status": self.status,
            "reason": self.reason,
        }
        if self.is_ok:
            found["scores"] = {name: score.to_json() for name, score in self.scores.items()}
        if self.capabilities:
            found["capabilities"] = {name: score.to_json() for name, score in self.capabilities.items()}
        found |= {name: value for name in _COSTS if (value := getattr(self, name)) is not None}
        if self.components is not None:
            found |= {"proxy": self.proxy, "components": self.components, "merge": self.merge}
            found |= {"groups": self.score_fingerprints, "fingerprint": self.fingerprint}
        return found

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "ProxyRow":
        """Read a row of this release, or of an earlier one, which gave no version.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: if it is no row, or one of a later version.
        """
        if (version := value.get("version", VERSION)) != VERSION:
            raise ValueError(f"version {version!r}, where this release reads {VERSION}")
        status = value["status"]
        if status not in ("OK", "FAILED"):
            raise ValueError(f"status {status!r}, where it is OK or FAILED")
        components = value.get("components")
        return cls(
            name=value["name"],
            merge_weights={name: float(weight) for name, weight in value["merge_weights"].items()},
            iteration=value.get("iteration"),
            reason=None if status == "OK" else str(value["reason"]),
            scores=scores_from_json(value.get("scores", {})),
            capabilities=scores_from_json(value.get("capabilities", {})),
            **{name: value[name] for name in _COSTS if name in value},
            proxy=value.get("proxy"),
            components=None if components is None else dict(components.items()),
            merge=None if components is None else value["merge"],
            score_fingerprints={} if components is None else dict(value["groups"].items()),
            fingerprint=value.get("fingerprint", ""),
        )


def weights_key(merge_weights: Mapping[str, float]) -> str:
    """Give what all rows of these merge weights have as their `key`."""
    return canonical_json({name: float(weight) for name, weight in merge_weights.items() if weight})


def read_rows(path: Path) -> list[ProxyRow]:
    """Return the rows of a file in their order, none where there is no file; a last line that is not whole yet is left
    out.

    Raises:
        DemixError: if a whole line is no row.
    """
    return parse_rows(path.read_bytes(), path) if path.exists() else []


def parse_rows(data: bytes, path: Path) -> list[ProxyRow]:
    """Read rows as `read_rows` does, from the bytes of a file.

    Raises:
        DemixError: if a whole line is no row.
    """
    rows = []
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            rows.append(ProxyRow.from_json(json_value(line)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DemixError(
                f"{path}:{number}: expected a row of scores, found {type(error).__name__}: {error}; "
                "move the file away to score everything again"
            ) from None
    return rows


def of_last_search(rows: Sequence[ProxyRow]) -> list[ProxyRow]:
    """Keep those that were scored under the same configuration as the last one."""
    return [row for row in rows if row.fingerprint == rows[-1].fingerprint]
