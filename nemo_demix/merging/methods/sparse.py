"""The methods made of one way to thin out task vectors and one way to combine them.

d_k is the thinned-out task vector of component k; sums and elections are those of `combine`, parameters those of
`sparsify`. Defaults are the DeMix authors' (Table 4): density 0.9, gamma 0.01, epsilon 0.01. `scale` is what papers and
mergekit call lambda, 1 by default.
"""

from dataclasses import dataclass
from typing import ClassVar

from nemo_demix.merging.methods.combine import SignElection, WeightedSum
from nemo_demix.merging.methods.sparsify import Crumbs, Dropping, RankedDropping, Trimming


@dataclass(frozen=True)
class Ties(Trimming, SignElection):
    """Trim, elect the sign, average what agrees.

    d_k = theta_k - base where its magnitude is among the largest, a share `density`; else 0.
    Parameters: density=0.9, normalize=True, scale=1.

    Source: Yadav et al., TIES-Merging, arXiv:2306.01708 (density 0.2 there). Departs from it: weighted.
    """

    name: ClassVar[str] = "ties"


@dataclass(frozen=True)
class DareLinear(Dropping, WeightedSum):
    """Drop at random and rescale, then sum.

    d_k = (theta_k - base) / density with probability `density`, else 0.
    Parameters: density=0.9, scale=1. mergekit rescales by the ratio of L1 norms instead of 1 / density.

    Source: Yu et al., Language models are super Mario, arXiv:2311.03099 (DARE).
    """

    name: ClassVar[str] = "dare_linear"


@dataclass(frozen=True)
class DareTies(Dropping, SignElection):
    """Drop at random and rescale, then elect the sign and average what agrees.

    d_k as in `dare_linear`. Parameters: density=0.9, normalize=True (mergekit: False), scale=1.

    Source: Yu et al., arXiv:2311.03099, with the election of TIES, arXiv:2306.01708.
    """

    name: ClassVar[str] = "dare_ties"


@dataclass(frozen=True)
class DellaLinear(RankedDropping, WeightedSum):
    """Drop at random by rank and rescale, then sum.

    d_k = (theta_k - base) / p with probability p, else 0; p grows with the magnitude's rank in its row from
    density - epsilon to density + epsilon. Parameters: density=0.9, epsilon=0.01, scale=1.
    mergekit rescales by the ratio of L1 norms instead of 1 / p, and its epsilon is 0.15.

    Source: Deep et al., DELLA-Merging, arXiv:2406.11617; their epsilon is the whole width, twice this one.
    """

    name: ClassVar[str] = "della_linear"


@dataclass(frozen=True)
class Della(RankedDropping, SignElection):
    """Drop at random by rank and rescale, then elect the sign and average what agrees.

    d_k as in `della_linear`. Parameters: density=0.9, epsilon=0.01, normalize=True, scale=1.

    Source: Deep et al., arXiv:2406.11617.
    """

    name: ClassVar[str] = "della"


@dataclass(frozen=True)
class Breadcrumbs(Crumbs, WeightedSum):
    """Drop the outliers and the smallest, then sum.

    d_k = theta_k - base where its magnitude's rank is below the top `gamma` and within the next `density`; else 0.
    Parameters: density=0.9, gamma=0.01, scale=1. Counts are rounded down: of fewer than 1 / gamma elements
    none is an outlier.

    Source: Davari and Belilovsky, Model Breadcrumbs, arXiv:2312.06795.
    """

    name: ClassVar[str] = "breadcrumbs"


@dataclass(frozen=True)
class BreadcrumbsTies(Crumbs, SignElection):
    """Drop the outliers and the smallest, then elect the sign and average what agrees.

    d_k as in `breadcrumbs`. Parameters: density=0.9, gamma=0.01, normalize=True (mergekit: False), scale=1.

    Source: mergekit's breadcrumbs_ties: arXiv:2312.06795 with the election of arXiv:2306.01708.
    """

    name: ClassVar[str] = "breadcrumbs_ties"
