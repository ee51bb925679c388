"""What a run ends with on the screen."""

from pathlib import Path

import numpy as np
import pytest

from nemo_demix.artifacts import DataManifest, read_json
from nemo_demix.stages.tables import print_result


def test_the_comparison_is_told_by_capability(smoke_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixture, result = read_json(smoke_run / "search/mixture.json"), read_json(smoke_run / "final/result.json")
    manifest, cost = DataManifest.load(smoke_run / "datasets/manifest.json"), read_json(smoke_run / "cost.json")

    def shown() -> str:
        print_result(manifest, mixture, result, cost)
        return " ".join(capsys.readouterr().out.split())

    ours, baseline = (result["models"][name]["capabilities"] for name in ("mixture", "proportional"))
    line = shown().partition("By capability, by the sampled items alone: ")[2]
    for name, score in ours.items():
        gap = score["score"] - baseline[name]["score"]
        words = ("better", "not distinguishable") if gap < 0 else ("worse", "not distinguishable")
        assert any(f"{name} {gap:+.4f}, {word}" in line for word in words), line
    by_owner: dict[str, list[float]] = {}
    for name, record in manifest.datasets.items():
        chosen, other = (result["models"][model]["scores"][f"heldout/{name}"] for model in ("mixture", "proportional"))
        by_owner.setdefault(record.capability, []).append(chosen["score"] - other["score"])
    gap = np.mean([np.mean(gaps) for gaps in by_owner.values()])
    assert result["chosen_minus"]["proportional"]["heldout"]["difference"] == pytest.approx(gap)
    assert f"held-out text {gap:+.4f}, " in line
    del result["chosen_minus"]["proportional"]["heldout"]  # earlier releases did not write it
    assert "held-out text" not in shown()
    del result["chosen_minus"]["proportional"]["capabilities"]  # earlier releases did not write it
    assert "By capability" not in shown()


def test_what_demix_pays_is_told_beside_its_answer(smoke_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixture, result = read_json(smoke_run / "search/mixture.json"), read_json(smoke_run / "final/result.json")
    manifest, cost = DataManifest.load(smoke_run / "datasets/manifest.json"), read_json(smoke_run / "cost.json")
    proportional = mixture["baselines"]["proportional"]
    demix = {**proportional, "predicted": {**proportional["predicted"]}}
    mixture["baselines"]["demix"] = demix

    def shown() -> str:
        print_result(manifest, mixture, result, cost)
        return " ".join(capsys.readouterr().out.split())

    demix["chosen_minus_this"] = {"verdict": "worse", "difference": 0.01}
    assert "DeMix keeps no floor; its answer is trained" in shown()
    demix["predicted"]["general"] += 0.0125
    demix["predicted"]["code"] -= 0.02
    assert (
        "DeMix keeps no floor, and is predicted to be worse than the proportional mixture in general +0.0125;"
        in shown()
    )


def test_what_floors_cost_is_told_and_that_they_leave_nothing(
    smoke_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixture, result = read_json(smoke_run / "search/mixture.json"), read_json(smoke_run / "final/result.json")
    manifest, cost = DataManifest.load(smoke_run / "datasets/manifest.json"), read_json(smoke_run / "cost.json")

    def shown(objective: float) -> str:
        rest = {"capabilities": {"general": 0.0, "math": 0.001, "code": -0.002}, "data_shares": {}}
        floors = [
            {"default_floor": 0.0, "heldout_floor": None, "objective": objective, "heldout": None, **rest},
            {"default_floor": None, "heldout_floor": None, "objective": -0.0181, "heldout": None, **rest},
        ]
        print_result(manifest, {**mixture, "notes": {"floors": floors}}, result, cost)
        return " ".join(capsys.readouterr().out.split())

    gained = shown(-0.0027)
    assert "0 (this run's) │ -0.0027 │ +0.0000 │ +0.0010 │ -0.0020 │ - │" in gained
    assert "none │ -0.0181 │" in gained
    assert "nothing is predicted to be better" not in gained
    assert "nothing is predicted to be better" in shown(-0.00002)
