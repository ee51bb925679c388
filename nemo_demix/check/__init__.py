"""`nemo-demix check`: every static rule of every stage, all that is wrong in one list, before anything is spent.

The rules are not here: each is where the stage is that needs it, as a function that yields its errors. `rules` says
which there are; `table` shows what was understood. Nothing here imports torch or NeMo.
"""

from nemo_demix.check.rules import mistakes, warnings_of
from nemo_demix.check.table import print_understood

__all__ = ["mistakes", "print_understood", "warnings_of"]
