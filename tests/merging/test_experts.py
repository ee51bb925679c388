"""A mixture of experts: merged live and scored, with the experts in one place and divided between ranks."""

from pathlib import Path

import pytest

from nemo_demix.config import ParallelConfig
from nemo_demix.errors import ConfigError
from nemo_demix.runtime.ranks import world_size
from tests.helpers import run_program


def test_experts_and_routers_merge_and_score_alike_wherever_they_are(smoke_run: Path, tmp_path: Path) -> None:
    alone = run_program("experts", str(smoke_run), "1", "1", "1", str(tmp_path / "components"))
    divided = run_program("experts", str(smoke_run), "1", "2", "2", str(tmp_path / "components"), ranks=2)
    for found in (alone, divided):
        assert found["error"] < 1e-6  # of a weighted average, routers' and experts' too, in float64
        assert found["held"] == found["counted"]
        assert found["resident"] == 3 * 4 * found["held"]
    assert divided["held"] < alone["held"]
    assert divided["bits"] == alone["bits"]


@pytest.mark.parametrize(
    "layout",
    [
        ParallelConfig(data=8, expert=8),
        ParallelConfig(tensor=4, expert=2),
        ParallelConfig(tensor=4, data=2, expert=8),
        ParallelConfig(tensor=4, pipeline=2, expert=4),
    ],
)
def test_experts_add_no_ranks(layout: ParallelConfig) -> None:
    assert world_size(layout) == layout.tensor * layout.pipeline * layout.data


@pytest.mark.parametrize(
    "layout",
    [ParallelConfig(data=2, expert=4), ParallelConfig(tensor=4, data=3, expert=6), ParallelConfig(data=6, expert=4)],
)
def test_experts_that_the_ranks_cannot_share_are_refused_with_the_arithmetic(layout: ParallelConfig) -> None:
    ranks = layout.tensor * layout.data
    message = f"parallel.expert={layout.expert}: expected a divisor of tensor {layout.tensor}, .* = {ranks} ranks"
    with pytest.raises(ConfigError, match=message):
        world_size(layout)
