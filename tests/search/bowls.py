"""Searches over evaluations with a known optimum, for tests of what finds it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from nemo_demix.config import PredictorConfig, SearchConfig
from nemo_demix.constraints import Constraints
from nemo_demix.errors import ScoreError
from nemo_demix.mixture import Array, BlendMatrix
from nemo_demix.scoring.identity import JudgedScore
from nemo_demix.scoring.items import UNIT, Score, items_of_summary
from nemo_demix.scoring.result import ModelResult
from nemo_demix.scoring.suite import Suite
from nemo_demix.search.loop import SearchResult, run_loop
from nemo_demix.search.proxies.base import Evaluation
from nemo_demix.search.proxy_row import ProxyRow
from nemo_demix.search.score_log import ProxyIdentity, ScoreLog
from nemo_demix.search.space import SearchSpace
from nemo_demix.search.strategies import Problem, build_strategy

NAMES = ["general", "math", "code"]
BEST = {"general": 0.5, "math": 0.2, "code": 0.3}
BLEND = BlendMatrix.demix(NAMES, "general", 0.5)
# Small, so that a fit takes milliseconds; what is tested is the search, not the predictor.
FAST = PredictorConfig(num_rounds=80, num_leaves=7, min_data_in_leaf=3, folds=2, repeats=1, num_bootstrap=2)


def space_of(
    constraints: Constraints | None = None, use: Mapping[str, str] | None = None, blend: BlendMatrix = BLEND
) -> SearchSpace:
    """Three components, one benchmark a capability."""
    capabilities = {f"benchmark/{name}": name for name in NAMES}
    return SearchSpace(
        blend=blend,
        prior={"general": 0.6, "math": 0.2, "code": 0.2},
        capabilities=capabilities,
        higher_is_better=dict.fromkeys(capabilities, False),
        use={**dict.fromkeys(capabilities, "search"), **(use or {})},
        constraints=constraints or Constraints.none(blend),
        baselines={
            "proportional": {"general": 0.6, "math": 0.2, "code": 0.2},
            "equal": dict.fromkeys(NAMES, 1 / 3),
        },
    )


def identity(version: str = "1") -> ProxyIdentity:
    """What rows of the bowl depend on; another version's rows do not hold."""
    groups = {f"benchmark/{name}": "text" for name in NAMES}
    return ProxyIdentity("merge", dict.fromkeys(NAMES, version), "linear", groups, tuple(groups), uses_all=False)


class Bowl:
    """Proxies of which every benchmark is a quadratic bowl around BEST.

    They count their calls, and fail from one on or at one.
    """

    kind = "merge"
    suite = Suite([], {f"benchmark/{name}": JudgedScore(name) for name in NAMES}, {}, "bowl")

    def __init__(self, fail_from: int | None = None, fail_at: int | None = None) -> None:
        self.calls = 0
        self.order = 1  # -1: the proxies of a step are finished last to first
        self.fail_from, self.fail_at = fail_from, fail_at

    def evaluate(self, mixtures: Sequence[Mapping[str, float]]) -> Iterator[tuple[int, Evaluation | ScoreError]]:
        for place, weights in list(enumerate(mixtures))[:: self.order]:
            self.calls += 1
            if self.calls == self.fail_at or (self.fail_from is not None and self.calls >= self.fail_from):
                yield place, ScoreError("benchmark/math: the model gives nan bits")
                continue
            items = {
                name: items_of_summary(value, None, None, UNIT, False, None) for name, value in values(weights).items()
            }
            yield place, Evaluation(ModelResult(items), 0.0, 0.0)


def values(weights: Mapping[str, float]) -> dict[str, float]:
    """What the bowl gives: the score of every benchmark, lower is better."""
    value = 1.0 + sum((weights[name] - BEST[name]) ** 2 for name in NAMES)
    return {f"benchmark/{name}": value for name in NAMES}


def search(
    settings: SearchConfig,
    path: Path,
    bowl: Bowl | None = None,
    space: SearchSpace | None = None,
    seed: int = 0,
    version: str = "1",
    order: int = 1,
) -> SearchResult:
    """Run a whole search over a bowl, with its log at `path`.

    Args:
        order: -1: the proxies of a step are finished last to first.
    """
    problem = Problem(settings, space or space_of(), seed)
    bowl = bowl or Bowl()
    bowl.order = order
    return run_loop(problem, build_strategy(problem), ScoreLog(path, identity(version)), bowl)


def distance(weights: Mapping[str, float]) -> float:
    """Largest error of a weight."""
    return max(abs(weights[name] - BEST[name]) for name in NAMES)


def row(
    weights_C: Array,
    scores: Mapping[str, float] | None = None,
    units: Mapping[str, str] | None = None,
) -> ProxyRow:
    """A scored mixture, by the bowl where no scores are given."""
    weights = dict(zip(NAMES, np.asarray(weights_C).tolist(), strict=True))
    scores, units = scores or values(weights), units or {}
    return ProxyRow(
        "mix", weights, scores={name: Score(value, unit=units.get(name, UNIT)) for name, value in scores.items()}
    )
