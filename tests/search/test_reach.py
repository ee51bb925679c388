"""What components cannot stand for, said before they are trained."""

import pytest

from nemo_demix.artifacts import DataManifest, DatasetRecord
from nemo_demix.config import DatasetConfig, DemixConfig
from nemo_demix.prepared import PreparedRun
from nemo_demix.search.reach import reach_warnings

TOKENS = {"general": 100, "math": 440, "code": 460}


def run_of(
    beta: float, blends: dict[str, dict[str, float]] | None = None, baselines: tuple[str, ...] = ()
) -> PreparedRun:
    config = DemixConfig(name="t", datasets={name: DatasetConfig(capability=name) for name in TOKENS})
    config.components.beta, config.components.blends = beta, blends or {}
    config.final.baselines, config.final.num_tokens = list(baselines), 1000
    records = {
        name: DatasetRecord(name, name, name, None, 1, 0, count, 0, 1, 1, [], {}, name)
        for name, count in TOKENS.items()
    }
    return PreparedRun(config, DataManifest({}, records, {}, "manifest"))


def test_a_baseline_with_less_general_data_than_every_component_is_told_with_a_beta_that_reaches_it() -> None:
    (found,) = reach_warnings(run_of(0.25))
    assert "10.0 % of the proportional mixture is general, and no component holds less of it than 25.0 %" in found
    assert "differs by 15.0 % of the data" in found
    assert "Set components.beta=0.05, half of that share, before components are trained" in found
    assert not list(reach_warnings(run_of(0.05)))


def test_other_baselines_count_where_the_final_run_is_compared_with_them() -> None:
    few, equal = reach_warnings(run_of(0.4, baselines=("equal",)))
    assert "10.0 % of the proportional mixture is general" in few
    assert "33.3 % of the equal mixture is general" in equal
    assert "components.beta=0.17" in equal


@pytest.mark.parametrize(
    ("blends", "why"),
    [
        (
            {"code": {"general": 0.7, "code": 0.3}},
            "46.0 % of the proportional mixture is code, and no component holds more",
        ),
        (
            {
                "math": {"math": 0.6, "code": 0.4},
                "code": {"math": 0.1, "code": 0.9},
                "general": {"general": 0.9, "math": 0.1},
            },
            "",
        ),
    ],
)
def test_blends_of_ones_own_are_told_by_what_they_lack(blends: dict[str, dict[str, float]], why: str) -> None:
    found = list(reach_warnings(run_of(0.0, blends)))
    assert len(found) == bool(why)
    assert all(why in line and "Set components.blends before" in line for line in found)
