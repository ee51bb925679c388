"""Live proxies against the components' own full tensors."""

from pathlib import Path

import pytest

from tests.helpers import run_program


@pytest.mark.parametrize(("tensor", "pipeline"), [(2, 1), (1, 2)])
def test_a_live_merge_is_exact_to_fp32_at_any_layout(smoke_run: Path, tensor: int, pipeline: int) -> None:
    found = run_program("live_merge", str(smoke_run), str(tensor), str(pipeline), ranks=tensor * pipeline)
    assert found["num_shards"] >= found["num_parameters"]
    assert found["one_hot_mismatches"] == 0
    # Seven products and six sums, each rounded once: at most a few units in the last place of the terms' magnitude.
    assert found["worst_ulp"] < 4
