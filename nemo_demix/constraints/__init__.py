"""What a mixture has to satisfy, and which mixtures do."""

from nemo_demix.constraints.constraints import Constraints
from nemo_demix.constraints.rules import Budget, constraint_errors

__all__ = ["Budget", "Constraints", "constraint_errors"]
