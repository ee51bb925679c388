"""What is searched: the components, their blends and prior, the benchmarks that count, and the identity of it all."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from nemo_demix.artifacts import DataManifest, fingerprint
from nemo_demix.config import DemixConfig
from nemo_demix.mixture import BlendMatrix, token_proportional
from nemo_demix.scoring.suite import suite_fingerprint
from nemo_demix.training.jobs import TrainJob, blend_matrix


@dataclass(frozen=True)
class SearchSpace:
    """What may be mixed."""

    blend: BlendMatrix
    prior: dict[str, float]  # token-count shares, by component
    capabilities: dict[str, str]  # of each benchmark that counts, by score name

    @property
    def names(self) -> list[str]:
        """The components, in order."""
        return list(self.blend.components)

    def as_weights(self, weights_C: np.ndarray) -> dict[str, float]:
        """A row of weights, by component name."""
        return {name: float(weight) for name, weight in zip(self.names, weights_C, strict=True)}

    def as_array(self, weights: Mapping[str, float]) -> np.ndarray:
        """Named weights as a row, in the components' order."""
        return np.array([weights[name] for name in self.names])


def proxies_fingerprint(config: DemixConfig, manifest: DataManifest, components: Sequence[TrainJob]) -> str:
    """Of the components, how they are merged, and the suite: a score belongs to merge weights and to this."""
    return fingerprint(
        components={job.name: job.fingerprint for job in components},
        suite=suite_fingerprint(config.suite, manifest),
        precision=config.train.precision,
        merge=(config.merge.method, config.merge.parameters, config.merge.seed, config.merge.base),
    )


def search_folder(config: DemixConfig) -> Path:
    """`runs/<name>/search`."""
    return config.run_dir / "search"


def search_fingerprint(config: DemixConfig, manifest: DataManifest, components: Sequence[TrainJob]) -> str:
    """Of everything that can change the mixture."""
    return fingerprint(
        proxies=proxies_fingerprint(config, manifest, components),
        search={**asdict(config.search), "merge_batch": None},  # no part of the result
        seed=config.seed,
        final_tokens=config.final.num_tokens,
        tokens={name: record.num_train_tokens for name, record in manifest.datasets.items()},
    )


def search_space(config: DemixConfig, manifest: DataManifest) -> SearchSpace:
    """Components, their prior, and the benchmarks that count."""
    prior = token_proportional({name: record.num_train_tokens for name, record in manifest.datasets.items()})
    capabilities = {f"benchmark/{name}": record.capability for name, record in manifest.benchmarks.items()}
    return SearchSpace(blend_matrix(config), prior, capabilities)


def baseline_shares(config: DemixConfig, manifest: DataManifest) -> dict[str, dict[str, float]]:
    """Data shares of the plain alternatives: in proportion to tokens, and equal."""
    tokens = {name: record.num_train_tokens for name, record in manifest.datasets.items()}
    return {"proportional": token_proportional(tokens), "equal": dict.fromkeys(tokens, 1.0 / len(tokens))}
