"""What is searched: what may be mixed within which constraints, the scores that count, and the identity of it all.

A point of the space is a row of weights over "components". For merged proxies these are the component models.
Strategies that train their proxies, and plain baselines, mix datasets themselves: their components are the datasets,
the blend matrix is the identity, and the weights are data shares.

Importing this does not import torch: imported scores are searched where there is none.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nemo_demix.artifacts import DataManifest
from nemo_demix.config import DemixConfig
from nemo_demix.constraints import Budget, Constraints
from nemo_demix.errors import ConfigError, DemixError, ScoreError
from nemo_demix.mixture import Array, BlendMatrix, token_proportional
from nemo_demix.scoring.external.settings import external_scores
from nemo_demix.scoring.harness.directions import task_directions
from nemo_demix.scoring.identity import PROXY_USES, heldout_scores, judged_scores, shares_by
from nemo_demix.search.baselines import baseline_shares, given_heuristic
from nemo_demix.search.sample import max_prior_weights

NOTHING_TO_SEE = "the search may see no benchmark; add one to suite.benchmarks or suite.tasks with use=search"


@dataclass(frozen=True)
class SearchSpace:
    """What may be mixed, and the scores it is judged by.

    Attributes:
        blend: What each component was trained on; its rows' names are the components.
        prior: Token-count shares, by component; they sum to 1.
        capabilities: Capability of each benchmark that is predicted, by score name.
        higher_is_better: Direction of each of these scores.
        use: search (in the objective) or fit (predicted only), of each of these scores.
        weights: Weight of each of these scores in its capability's average.
        constraints: What a mixture has to satisfy.
        baselines: Data shares of the plain alternatives, by name.
        heldout: Capability of each dataset whose held-out text is scored, by the score's name.
    """

    blend: BlendMatrix
    prior: dict[str, float]
    capabilities: dict[str, str]
    higher_is_better: dict[str, bool]
    use: dict[str, str]
    constraints: Constraints
    baselines: dict[str, dict[str, float]]
    weights: dict[str, float] = field(default_factory=dict)
    heldout: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, known in (("direction", self.higher_is_better), ("use", self.use)):
            if absent := [name for name in self.capabilities if name not in known]:
                raise ScoreError(f"search: no {what} for {', '.join(absent)}; give one for each score")
        self.capability_directions()

    @property
    def names(self) -> list[str]:
        """The components, in order."""
        return list(self.blend.components)

    @property
    def objective_capabilities(self) -> dict[str, str]:
        """The capability of each benchmark that is in the objective, by score name."""
        return {name: owner for name, owner in self.capabilities.items() if self.use[name] == "search"}

    def capability_directions(self) -> dict[str, bool]:
        """Return whether higher is better, by capability of the objective.

        Raises:
            ScoreError: if a capability averages scores of both directions.
        """
        directions: dict[str, bool] = {}
        for name, owner in self.objective_capabilities.items():
            if directions.setdefault(owner, self.higher_is_better[name]) != self.higher_is_better[name]:
                raise ScoreError(
                    f"capability {owner}: {name} is of another direction than its other scores, so they have no "
                    "average; put scores where higher is better and where lower is into different capabilities"
                )
        return directions

    def heldout_weights(self) -> dict[str, float]:
        """Return what each held-out set counts in the macro score over capabilities, by its score's name; sums to 1."""
        shares = shares_by(self.heldout, {})
        return {name: share / len(shares) for scores in shares.values() for name, share in scores.items()}

    def as_weights(self, weights_C: Array) -> dict[str, float]:
        """Return a row of weights, by component name."""
        return {name: float(weight) for name, weight in zip(self.names, weights_C, strict=True)}

    def as_array(self, weights: Mapping[str, float]) -> Array:
        """Return named weights as a row, float64, shape (C,), in the components' order; a name left out weighs 0."""
        return np.array([weights.get(name, 0.0) for name in self.names])


def can_mix_predictions(config: DemixConfig) -> bool:
    """Return whether the objective can be had from mixed predictions: merges are linear, scores are likelihoods of
    text.
    """
    return config.merge.method == "linear" and not model_scores(config)


def model_scores(config: DemixConfig) -> list[str]:
    """Return the keys of what is searched and only a model can be asked for: tasks, and programs of the user."""
    suite = config.suite
    found = [f"suite.tasks.{name}" for name, task in suite.tasks.items() if task.use == "search"]
    for name, command in suite.external.items():
        scores = [score for score, one in command.scores.items() if one.use == "search"]
        found += [f"suite.external.{name}.scores.{score}" for score in scores]
    return found


def linear_errors(config: DemixConfig) -> Iterator[DemixError]:
    """Yield errors for mixtures of predictions that would stand for nothing: merges of this run are not linear."""
    if config.merge.method != "linear":
        yield ConfigError(
            f"merge.method={config.merge.method} with search.proxy={config.search.proxy}: a mixture of predictions "
            "stands for a linear merge only; set merge.method=linear or search.proxy=merge"
        )


def search_folder(config: DemixConfig) -> Path:
    """Return `runs/<name>/search`."""
    return config.run_dir / "search"


def token_counts(manifest: DataManifest) -> dict[str, int]:
    """Return training tokens of each dataset."""
    return {name: record.num_train_tokens for name, record in manifest.datasets.items()}


def search_settings(config: DemixConfig) -> dict[str, Any]:
    """Return `search.*` without what is no part of the result."""
    layout = ("merge_batch", "tensor", "groups")
    settings = {key: value for key, value in asdict(config.search).items() if key not in layout}
    del settings["heuristic_from"]  # what that file says decides, not where it is
    if not settings["parameters"]:  # as in records that were written before there were any
        del settings["parameters"]
    if settings["heldout_floor"] is None:  # as above
        del settings["heldout_floor"]
    return settings | {"heuristic": given_heuristic(config)}


def search_space(
    config: DemixConfig, manifest: DataManifest, mixes: Literal["components", "datasets"] = "components"
) -> SearchSpace:
    """Return the space of merge weights over the component models, or of data shares.

    Raises:
        MixtureError: if no mixture satisfies the constraints.
    """
    from nemo_demix.training.jobs import blend_matrix

    blend = blend_matrix(config) if mixes == "components" else BlendMatrix.unmixed(list(manifest.datasets))
    tokens = token_counts(manifest)
    prior = token_proportional(tokens)
    max_weights = max_prior_weights(config.search.sampler, prior)
    budget = Budget(config.final.num_tokens, tokens)
    judged = judged_scores(config.suite, manifest, PROXY_USES)
    directions = dict.fromkeys(judged, False) | task_directions(config.suite, manifest, PROXY_USES)
    directions |= {name: one.higher_is_better for name, one in external_scores(config.suite, PROXY_USES).items()}
    return SearchSpace(
        blend=blend,
        prior=prior,
        capabilities={name: score.capability for name, score in judged.items()},
        higher_is_better=directions,
        use={name: score.use for name, score in judged.items()},
        weights={name: score.weight for name, score in judged.items()},
        constraints=Constraints.build(config.search.constraints, blend, budget, prior, max_weights),
        baselines=baseline_shares(config, manifest),
        heldout=heldout_scores(config.suite, manifest),
    )
