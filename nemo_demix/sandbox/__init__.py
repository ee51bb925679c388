"""Programs that a model wrote, run where they can harm nothing. Imports nothing but the standard library."""

from nemo_demix.sandbox.contract import Isolation, Limits, Outcome
from nemo_demix.sandbox.programs import available_isolation, run_programs

__all__ = ["Isolation", "Limits", "Outcome", "available_isolation", "run_programs"]
