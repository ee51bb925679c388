"""A run's folder from Python: its records, as far as it is."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nemo_demix.api.result import Result
from nemo_demix.artifacts import DataManifest, ModelRecord
from nemo_demix.config import DemixConfig
from nemo_demix.errors import ConfigError
from nemo_demix.report.records import RunRecords, read_run
from nemo_demix.search.proxy_row import ProxyRow

TABLES = ("mixture", "proxies", "models", "losses")


@dataclass(frozen=True)
class Run:
    """What the folder of a run holds; what is not there yet is None or empty. Nothing is worked out anew.

    Attributes:
        records: All records, as the page reads them.
    """

    records: RunRecords

    @classmethod
    def load(cls, folder: str | Path) -> "Run":
        """Read `runs/<name>`, of this release or an earlier one.

        Raises:
            ConfigError: if the folder holds no run.
            DemixError: if a record cannot be read.
        """
        path = Path(folder).absolute()
        if not path.is_dir():
            raise ConfigError(f"{path}: no such folder; expected that of a run, as runs/quickstart")
        return cls(read_run(DemixConfig(name=path.name, runs_dir=str(path.parent))))

    @property
    def config(self) -> DemixConfig:
        """What the run was last started with; the schema's defaults where it saved none."""
        return self.records.config

    @property
    def manifest(self) -> DataManifest | None:
        """The datasets with their tokens, the tokenizer, the benchmarks."""
        return self.records.manifest

    @property
    def models(self) -> Mapping[str, Mapping[str, ModelRecord]]:
        """Trained models, by role (base, component, reference, final) and name."""
        return self.records.models

    @property
    def result(self) -> Result | None:
        """What the search has found."""
        return None if self.records.mixture is None else Result.of(self.records.mixture)

    @property
    def proxies(self) -> Sequence[ProxyRow]:
        """Rows of `search/scores.jsonl` of the last search, FAILED ones too."""
        return self.records.rows

    @property
    def final(self) -> Mapping[str, Any] | None:
        """`final/result.json`: the final models' scores and the verdict."""
        return self.records.result

    @property
    def fidelity(self) -> Mapping[str, Any] | None:
        """`verify/fidelity.json`: how well proxies order trained references."""
        return self.records.fidelity

    def table(self, name: str) -> list[dict[str, Any]]:
        """Return flat rows, as `pandas.DataFrame` takes them.

        Args:
            name: `mixture` (a row a dataset), `proxies` (a row a scored mixture: `weight/<component>`, `<score>`,
                `<score>/stderr`), `models` (a row a trained model), `losses` (a row a logged step).

        Raises:
            ConfigError: if there is no such table.
        """
        if name not in TABLES:
            raise ConfigError(f"table: expected one of {', '.join(TABLES)}, found {name!r}")
        if name == "mixture":
            return [] if (result := self.result) is None else result.table()
        if name == "proxies":
            return [_flat(row) for row in self.proxies]
        if name == "models":
            return [{"role": role, **asdict(one)} for role, models in self.models.items() for one in models.values()]
        return [
            {"role": role, "name": model, "step": step, "loss": loss}
            for (role, model), steps in self.records.losses.items()
            for step, loss in steps
        ]


def _flat(row: ProxyRow) -> dict[str, Any]:
    found: dict[str, Any] = {name: getattr(row, name) for name in ("name", "iteration", "status", "reason")}
    found |= {f"weight/{name}": weight for name, weight in row.merge_weights.items()}
    for name, one in row.scores.items():
        found |= {name: one.score, f"{name}/stderr": one.stderr}
    return found | {name: value for name, value in row.to_json().items() if name.endswith("_time_s")}
