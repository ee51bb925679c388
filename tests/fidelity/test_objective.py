import numpy as np
import pytest

from nemo_demix.fidelity.objective import Macro, kind_of_score, macro, macro_losses
from nemo_demix.scoring.items import Score

SHARES = {"general": {"a": 0.75, "b": 0.25}, "math": {"c": 1.0}}
NONE = "nothing is scored"


def scores(a: float, b: float, c: float, unit: str = "accuracy", higher_is_better: bool = True) -> dict[str, Score]:
    found = {name: Score(value, unit="accuracy", higher_is_better=True) for name, value in (("a", a), ("b", b))}
    return found | {"c": Score(c, unit=unit, higher_is_better=higher_is_better)}


def test_weights_of_scores_and_of_capabilities_multiply() -> None:
    found = macro(SHARES, {"general": 1, "math": 3}, NONE)
    assert found == Macro({"general": 0.25, "math": 0.75}, {"a": 0.1875, "b": 0.0625, "c": 0.75})
    rows = {"x": scores(1, 0, 0), "y": scores(0, 1, 1)}
    assert macro_losses(found, rows, higher_is_better=True) == pytest.approx(-np.array([0.1875, 0.8125]))
    assert macro_losses(found, rows, higher_is_better=False) == pytest.approx(np.array([0.1875, 0.8125]))


def test_a_capability_of_weight_0_does_not_count() -> None:
    found = macro(SHARES, {"general": 2, "math": 0}, NONE)
    assert found.score_weights == {"a": 0.75, "b": 0.25}
    assert kind_of_score(found, scores(1, 1, 1, unit="bits/byte", higher_is_better=False)) == ("accuracy", True)


def test_what_has_no_mean_says_why() -> None:
    found = macro(SHARES, {"general": 1, "math": 1}, NONE)
    with pytest.raises(ValueError, match=r"different units \(accuracy, bits/byte\)"):
        kind_of_score(found, scores(1, 1, 1, unit="bits/byte"))
    with pytest.raises(ValueError, match="higher is better for some"):
        kind_of_score(found, scores(1, 1, 1, higher_is_better=False))
    with pytest.raises(ValueError, match="gives 0 to all"):
        kind_of_score(macro(SHARES, {"general": 0, "math": 0}, NONE), scores(1, 1, 1))
    with pytest.raises(ValueError, match=NONE):
        kind_of_score(macro({}, {}, NONE), scores(1, 1, 1))
