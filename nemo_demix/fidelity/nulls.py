"""What orders mixtures by their data shares alone: what a proxy has to beat before it is worth a model.

Axes: R mixtures, D datasets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nemo_demix.fidelity.decision import StandIn
from nemo_demix.mixture import Array

LEAST_SHARE = 1e-4  # the logarithm of no data at all counts as this share's: half of a step of the sampler's grid


@dataclass(frozen=True)
class Mixtures:
    """The references' data.

    Attributes:
        shares_RD: Data shares, float64, shape (R, D); rows sum to 1.
        capabilities: Capability of each dataset.
    """

    shares_RD: Array
    capabilities: Sequence[str]


def null_stand_ins(mixtures: Mixtures, weights: Mapping[str, float]) -> dict[str, StandIn]:
    """Build the orders of the mixtures that need no model and no training; lower is better, and they have no unit.

    null_share: the mean over capabilities of minus the logarithm of the share of the data that serves it, so that twice
    the data is worth the same whatever there was. null_entropy: minus the entropy of the data shares, so that the
    most even mixture is the best.

    Args:
        weights: Weights of the capabilities in the objective.
    """
    shares_RD = mixtures.shares_RD
    served = np.array([[owner == capability for owner in mixtures.capabilities] for capability in weights])
    lacking_RK = -log_shares(shares_RD @ served.T.astype(np.float64))
    entropy_R = -(shares_RD * np.log(np.where(shares_RD > 0, shares_RD, 1.0))).sum(axis=1)
    return {
        "null_share": StandIn(lacking_RK @ np.array(list(weights.values())), has_unit=False),
        "null_entropy": StandIn(-entropy_R, has_unit=False),
    }


def log_shares(shares: Array) -> Array:
    """Return natural logarithms of shares, of the same shape; finite for a share of 0 (LEAST_SHARE)."""
    return np.log(np.maximum(shares, LEAST_SHARE))
