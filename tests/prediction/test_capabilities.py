"""Capability averages."""

import numpy as np
import pytest

from nemo_demix.errors import ScoreError
from nemo_demix.prediction.capabilities import capability_averages


def test_averages_are_over_each_capabilitys_benchmarks():
    scores = {"gsm8k": np.array([1.0, 2.0]), "piqa": np.array([5.0, 7.0]), "math": np.array([3.0, 4.0])}
    averages = capability_averages(scores, {"gsm8k": "math", "math": "math", "piqa": "general"})
    assert list(averages) == ["math", "general"]
    assert averages["math"].tolist() == [2.0, 3.0]
    assert averages["general"].tolist() == [5.0, 7.0]


def test_a_benchmark_without_a_capability_is_refused():
    with pytest.raises(ScoreError, match="no capability for benchmark piqa; known: \\['math'\\]"):
        capability_averages({"piqa": np.ones(2)}, {"math": "math"})
