"""What a component is shown of a dataset, where it is to repeat text as often as the final run will.

Merged proxies cannot know what repetition does unless their components met it: each sees few tokens, once.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from nemo_demix.artifacts import DataManifest, fingerprint
from nemo_demix.config import DemixConfig


@dataclass(frozen=True)
class Part:
    """A part of a dataset: documents drawn at random, so many tokens of them."""

    num_tokens: int
    prefix: str  # where it is, or will be


def dataset_parts(config: DemixConfig, manifest: DataManifest, blend: Mapping[str, float]) -> dict[str, Part]:
    """Return the datasets of a component's blend that it is shown a part of: what `components.epochs` passes over are
    made of.

    A part is named after all that can change it: components that are shown as much of a dataset share one, and
    Megatron, which keeps what it has worked out of a file by the file's name, never meets another text under it.
    """
    settings, parts = config.components, {}
    if settings.epochs is None:
        return {}
    for name, share in blend.items():
        record = manifest.datasets[name]
        wanted = max(1, math.floor(settings.num_tokens * share / settings.epochs))
        if wanted < record.num_train_tokens:
            key = fingerprint(dataset=record.fingerprint, num_tokens=wanted, seed=config.seed)[:12]
            parts[name] = Part(wanted, str(config.run_dir / "datasets" / "parts" / f"{name}_{key}"))
    return parts
