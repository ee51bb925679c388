"""What a proxy is to the search, and the one model and suites that all kinds of proxies share on a set of ranks.

The search imports this where no rank is started: the model and its scorers bring torch only when they are made.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from nemo_demix.errors import ScoreError
from nemo_demix.mixture import Array
from nemo_demix.prepared import PreparedRun
from nemo_demix.runtime.ranks import Ranks
from nemo_demix.scoring.answer_store import AnswerStore
from nemo_demix.scoring.items import pack_items, unpack_items
from nemo_demix.scoring.result import ModelResult
from nemo_demix.scoring.scores import capability_scores, suite_scores
from nemo_demix.scoring.suite import Suite
from nemo_demix.search.proxy_row import ProxyRow

if TYPE_CHECKING:
    import torch

    from nemo_demix.scoring.scorer import Scorer

Uses = tuple[str, ...] | None  # of the benchmarks to score on, see `Scorer`; None: all


@dataclass(frozen=True)
class Evaluation:
    """What one proxy gave, item by item, and cost: what becomes its row."""

    result: ModelResult
    merge_time_s: float
    score_time_s: float
    train_time_s: float | None = None  # these two: None but for proxies that are really trained
    num_tokens: int | None = None
    external_time_s: float = 0.0  # of external commands, and of writing what they are given

    def row(self, suite: Suite, name: str, weights: Mapping[str, float], iteration: int | None) -> ProxyRow:
        """Work out the scores, and give the proxy's row.

        Args:
            suite: What it was scored on.
        """
        scores = suite_scores(self.result.items)
        return ProxyRow(
            name=name,
            merge_weights=dict(weights),
            iteration=iteration,
            scores=scores,
            capabilities=capability_scores(suite, scores),
            merge_time_s=round(self.merge_time_s, 4),
            score_time_s=round(self.score_time_s, 4),
            external_time_s=round(self.external_time_s, 4) if self.external_time_s else None,
            train_time_s=None if self.train_time_s is None else round(self.train_time_s, 1),
            num_tokens=self.num_tokens,
        )

    def pack(self) -> tuple[dict[str, Any], Array]:
        """Give what rank 0 of a group replies: facts for JSON, and the items' array of shape (2, all items).

        Without the time of external commands, which run where the search does.
        """
        facts, packed = pack_items(self.result.items)
        told = {"items": facts, "lm_eval": self.result.lm_eval}
        told |= {name: getattr(self, name) for name in ("merge_time_s", "score_time_s", "train_time_s", "num_tokens")}
        return told, packed

    @classmethod
    def unpack(cls, told: Mapping[str, Any], packed: Array) -> "Evaluation":
        """Give back what was packed; `packed` has shape (2, all items)."""
        costs = {name: value for name, value in told.items() if name not in ("items", "lm_eval")}
        return cls(ModelResult(unpack_items(told["items"], packed), told["lm_eval"]), **costs)


class Proxies(Protocol):
    """Stand-ins for models trained on mixtures: weights in, scores out."""

    kind: str  # merge | predictions | trained
    suite: Suite  # what they are scored on

    def evaluate(self, mixtures: Sequence[Mapping[str, float]]) -> Iterator[tuple[int, Evaluation | ScoreError]]:
        """Make and score the proxies of some mixtures: (place in the list, what it gave), as they are finished.

        A proxy that cannot be made or scored gives the error; the others go on.

        Raises:
            MixtureError: if weights are not on the simplex.
        """


class LiveModel:
    """One model on a set of ranks, and its scorers; kinds of proxies share it, so that no rank holds two models.

    Collective: the first use of `model`.
    Memory: one shard of the model, from the first use of `model` until `release`.
    """

    def __init__(self, run: PreparedRun, ranks: Ranks) -> None:
        self.ranks = ranks
        self.keep = False  # someone has views into the parameters
        self._run = run
        self._model: torch.nn.Module | None = None
        self._scorers: dict[Uses, Scorer] = {}

    @property
    def model(self) -> "torch.nn.Module":
        """This rank's part of the model; what its weights are is up to the one who uses it."""
        from nemo_demix.runtime.model import build_model

        if self._model is None:
            self._model = build_model(self._run.config, self._run.manifest)
        return self._model

    def scorer(self, uses: Collection[str] | None) -> "Scorer":
        """Return the scorer for the benchmarks of some uses, made when it is first asked for."""
        from nemo_demix.scoring.scorer import Scorer

        key = None if uses is None else tuple(uses)
        if key not in self._scorers:
            config = self._run.config
            self._scorers[key] = Scorer(config.suite, self._run.manifest, key, AnswerStore.of(config))
        return self._scorers[key]

    def release(self) -> None:
        """Make room for a training run, unless someone has views into the parameters."""
        if not self.keep:
            self._model = None
