"""All kinds of proxies on real ranks: what their scores have to agree on, at every layout; stored, resumed, damaged."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nemo_demix.artifacts import DataManifest
from nemo_demix.config import load_resolved
from nemo_demix.errors import ConfigError, ScoreError
from nemo_demix.prepared import PreparedRun
from nemo_demix.scoring.suite import build_suite
from nemo_demix.search.proxies import PredictionProxies, open_proxies
from nemo_demix.search.proxies.groups import Reply, Request
from tests.helpers import fork_run, run_program


@pytest.fixture(scope="module")
def runs(smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    """The run and what was found on it, by layout."""
    found = {}
    for name, ranks, arguments in (("one", 1, ["1", "1", "1"]), ("tensor", 2, ["2", "1", "1", "train"])):
        run = fork_run(smoke_run, tmp_path_factory.mktemp(name), "search", "final") / "smoke"
        found[name] = (run, run_program("proxies", str(run), *arguments, ranks=ranks, timeout=500))
    return found


@pytest.mark.slow
def test_the_tokens_of_a_request_sum_to_its_bits(runs: dict[str, tuple[Path, dict[str, Any]]]) -> None:
    for run, found in runs.values():
        folder = next((run / "search/predictions").iterdir())
        assert found["num_tokens"] == len(np.load(folder / "general.npy", allow_pickle=False)) > 1000
        assert found["sum_of_tokens"] < 1e-4  # fp32 log-probabilities, of requests of hundreds of bits


def test_one_component_alone_is_the_same_merged_and_mixed(runs: dict[str, tuple[Path, dict[str, Any]]]) -> None:
    for _, found in runs.values():
        assert found["one_hot"] < 1e-4


def test_a_mixture_has_the_same_scores_alone_in_a_batch_and_at_every_layout(
    runs: dict[str, tuple[Path, dict[str, Any]]],
) -> None:
    one, tensor = runs["one"][1], runs["tensor"][1]
    assert one["batch_and_single"] < 1e-5
    assert one["mixture_R"] == pytest.approx(tensor["mixture_R"], rel=1e-4)


def test_the_optimum_is_no_worse_than_any_drawn_mixture(runs: dict[str, tuple[Path, dict[str, Any]]]) -> None:
    for _, found in runs.values():
        optimum = found["optimum"]
        assert 0 <= optimum["gap"] <= 1e-6 * optimum["value"]
        assert optimum["scored"] == pytest.approx(optimum["value"], rel=1e-6)
        assert optimum["value"] < optimum["best_drawn"] + 1e-6


def test_other_scores_are_refused(runs: dict[str, tuple[Path, dict[str, Any]]]) -> None:
    for _, found in runs.values():
        assert found["refused"].startswith("code/pass@1: search.proxy=predictions serves scores in bits per byte only")


def test_trained_proxies_are_trained_once_and_one_that_diverges_is_no_end(
    runs: dict[str, tuple[Path, dict[str, Any]]],
) -> None:
    run, found = runs["tensor"]
    assert "the loss is nan at step" in found["diverged"]
    assert "lower max_lr" in found["diverged"]
    trained = found["trained"]
    assert trained["num_tokens"] == 3 * 8 * 128
    assert trained["train_time_s"] > 0
    assert (trained["repeats"], trained["differ"], trained["finite"]) == (True, True, True)
    records = [json.loads(path.read_text()) for path in (run / "models/proxy").glob("p_*/record.json")]
    assert sorted(record["blend"].popitem() for record in records) == [("code_1", 0.75), ("math_1", 0.5)]


def test_only_what_is_missing_is_scored_and_damage_is_refused(
    runs: dict[str, tuple[Path, dict[str, Any]]], tmp_path: Path
) -> None:
    """Half of the components scored, as after a kill; then one array with a flipped bit."""
    run = fork_run(runs["one"][0], tmp_path) / "smoke"
    folder = next((run / "search/predictions").iterdir())
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in ("math_3", "code_3"):
        (folder / f"{name}.json").unlink()  # the record is written last
    (folder / "code_3.npy").unlink()
    stamps = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npy")}
    run_program("predictions", str(run))
    assert {path.name: path.read_bytes() for path in folder.glob("*.npy")} == {
        name: data for name, data in before.items() if name.endswith(".npy")
    }
    changed = {path.name for path in folder.glob("*.npy") if stamps.get(path.name) != path.stat().st_mtime_ns}
    assert changed == {"math_3.npy", "code_3.npy"}

    config, manifest = load_resolved(run / "config.yaml"), DataManifest.load(run / "datasets/manifest.json")
    config.runs_dir, config.parallel.tensor = str(run.parent), 1
    prepared, suite = PreparedRun(config, manifest), build_suite(config.suite, manifest, None)
    PredictionProxies(prepared, suite, None)
    data = bytearray((folder / "code_1.npy").read_bytes())
    data[-2] ^= 1
    (folder / "code_1.npy").write_bytes(data)
    with pytest.raises(ScoreError, match=r"code_1.npy: damaged: its SHA-256 is not the recorded"):
        PredictionProxies(prepared, suite, None)


class NoGroups:
    """Must not be asked for anything."""

    def run(self, chunks: Sequence[Sequence[Request]]) -> Iterator[tuple[int, int, Reply]]:
        raise AssertionError("ranks were asked")


def test_predictions_stand_for_linear_merges_only(smoke_run: Path) -> None:
    config, manifest = load_resolved(smoke_run / "config.yaml"), DataManifest.load(smoke_run / "datasets/manifest.json")
    config.merge.method = "ties"
    refused = pytest.raises(ConfigError, match=r"merge.method=ties with search.proxy=\w+: .* linear merge only")
    with refused, open_proxies(PreparedRun(config, manifest), NoGroups(), ("predictions",)):
        pass


@pytest.mark.parametrize(
    ("num_tokens", "num_proxies", "expected"), [(0, 7, 16_384), (0, 28, 4_096), (8_192, 28, 8_192), (0, 0, None)]
)
def test_proxies_share_the_tokens_of_all_components(
    smoke_run: Path, num_tokens: int, num_proxies: int, expected: int | None
) -> None:
    config, manifest = load_resolved(smoke_run / "config.yaml"), DataManifest.load(smoke_run / "datasets/manifest.json")
    config.search.trained.num_tokens = num_tokens
    run = PreparedRun(config, manifest)
    if expected is None:
        with pytest.raises(ConfigError, match="expected at least one trained proxy"):
            run.proxy({"general": 1.0}, num_proxies)
        return
    job = run.proxy({"general": 1.0, "math_1": 0.0}, num_proxies)
    same, other = run.proxy({"general": 1.0}, num_proxies), run.proxy({"math_1": 1.0}, num_proxies)
    assert (job.num_tokens, job.max_lr) == (expected, config.components.max_lr)
    assert (job.name, job.fingerprint) == (same.name, same.fingerprint)
    assert job.name != other.name
