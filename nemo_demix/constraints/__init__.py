"""What a mixture has to satisfy, and which mixtures do."""

from nemo_demix.constraints.constraints import Constraints
from nemo_demix.constraints.rules import Budget

__all__ = ["Budget", "Constraints"]
