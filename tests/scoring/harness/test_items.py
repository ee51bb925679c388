import numpy as np
import pytest

from nemo_demix.scoring.harness.items import unit_of
from nemo_demix.scoring.items import Score, is_guessed


@pytest.mark.parametrize(
    ("score", "chance", "expected"),
    [(0.26, 0.25, True), (0.24, 0.25, True), (0.30, 0.25, False), (0.2, 0.25, False), (0.26, None, False)],
)
def test_guessing_lies_within_the_interval(score: float, chance: float | None, expected: bool) -> None:
    assert is_guessed(Score(score, 0.01, 50, chance=chance)) is expected


def test_what_nobody_solves_is_at_the_level_of_guessing() -> None:
    assert is_guessed(Score(0.0, 0.0, 50, chance=0.0))
    assert not is_guessed(Score(float(np.float64(0.01)), 0.002, 50, chance=0.0))


def test_units() -> None:
    assert [unit_of(name) for name in ("bpb", "bits_per_byte", "acc_norm", "pass@1", "exact_match", "rouge1")] == [
        *("bits/byte", "bits/byte", "share", "share", "share", "rouge1")
    ]
