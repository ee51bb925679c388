import numpy as np
import pytest

from nemo_demix.scoring.harness import at_chance
from nemo_demix.scoring.harness.items import unit_of


@pytest.mark.parametrize(
    ("score", "chance", "expected"),
    [(0.26, 0.25, True), (0.24, 0.25, True), (0.30, 0.25, False), (0.2, 0.25, False), (0.26, None, False)],
)
def test_guessing_lies_within_the_interval(score: float, chance: float | None, expected: bool) -> None:
    assert at_chance(score, 0.01, chance) is expected


def test_what_nobody_solves_is_at_the_level_of_guessing() -> None:
    assert at_chance(0.0, 0.0, 0.0)
    assert not at_chance(float(np.float64(0.01)), 0.002, 0.0)


def test_units() -> None:
    assert [unit_of(name) for name in ("bpb", "bits_per_byte", "acc_norm", "pass@1", "exact_match", "rouge1")] == [
        *("bits/byte", "bits/byte", "share", "share", "share", "rouge1")
    ]
