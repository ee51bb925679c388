"""Scores of mixtures from elsewhere: no model is needed, and none is touched.

`tables` reads what is written as a table, `metrics` knows metrics by name, `mixtures` and `dialects` say what the
shapes of files mean, `join` puts both together by name.
"""

from nemo_demix.scoring.imported.dialects import Value
from nemo_demix.scoring.imported.join import ImportedRow, ImportedScores, by_pattern, read_imported
from nemo_demix.scoring.imported.tables import Table, table_of

__all__ = ["ImportedRow", "ImportedScores", "Table", "Value", "by_pattern", "read_imported", "table_of"]
