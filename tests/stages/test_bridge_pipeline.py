"""The smoke recipe by Megatron-Bridge, as docs/bridge.md prints it: its run, then `merge`, `score` and `export`."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nemo_demix.artifacts import DataManifest, ModelRecord, load_record
from nemo_demix.checkpoints.layouts import detect
from nemo_demix.checkpoints.reader import CheckpointReader
from tests.bridge import PYTHON, Bridge, needs_bridge
from tests.conftest import Once
from tests.helpers import losses, run_fresh

pytestmark = [pytest.mark.slow, needs_bridge]
NAMES = ["general", "math_1", "math_2", "math_3", "code_1", "code_2", "code_3"]
STEPS = {"base/base": 40, **{f"component/{name}": 16 for name in NAMES}, "final/mixture": 16, "final/proportional": 16}


@pytest.fixture(scope="module")
def run(once: Once, bridge: Bridge) -> Path:
    """`runs/smoke` by Megatron-Bridge, with the mixture's merge on disk, its scores and its Hugging Face folder."""

    def make(runs: Path) -> None:
        given = ("--config-name", "smoke", "backend=bridge", "model=bridge_qwen3_tiny", f"runs_dir={runs}")
        run_fresh("run", *given, python=PYTHON)
        mixture = read(runs / "smoke/search/mixture.json")["merge_weights"]
        (runs / "mixtures.json").write_text(json.dumps({"chosen": mixture, "one_hot": {"code_1": 1.0}}))
        bridge.run("merge", *given, f"merge.mixtures={runs / 'mixtures.json'}", f"merge.output={runs / 'merged'}")
        bridge.run("score", *given, f"score.checkpoint={runs / 'merged/chosen'}", "score.name=merged")
        bridge.run("export", *given, f"convert.source={runs / 'merged/chosen'}", f"convert.output={runs / 'hf'}")

    return once("bridge_smoke", make) / "smoke"


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def record(run: Path, model: str) -> ModelRecord:
    return load_record(run / "models" / model / "record.json", ModelRecord)


@pytest.mark.parametrize("model", STEPS)
def test_every_model_has_its_losses_and_a_checkpoint_of_bridges_own(run: Path, model: str) -> None:
    found, trained = record(run, model), losses(run / "models" / model)
    assert list(trained) == list(range(1, STEPS[model] + 1))
    assert found.final_loss == trained[STEPS[model]] < trained[1]
    assert detect(Path(found.checkpoint)).kind == "megatron_bridge"
    assert Path(found.checkpoint).name == f"iter_{STEPS[model]:07d}"
    assert (found.delta is None) == (model == "base/base")


def test_proxies_are_scored_and_end_in_a_mixture(run: Path) -> None:
    manifest, mixture = DataManifest.load(run / "datasets/manifest.json"), read(run / "search/mixture.json")
    assert (list(manifest.datasets), len(manifest.benchmarks)) == (NAMES, 9)
    rows = [json.loads(line) for line in (run / "search/scores.jsonl").read_text().splitlines()]
    assert [(row["iteration"], row["status"]) for row in rows] == [(n, "OK") for n in [0] * 16 + [1] * 8 + [2] * 4]
    assert len({json.dumps(row["scores"]) for row in rows}) == 28, "each has weights of its own"
    assert sum(mixture["data_shares"].values()) == pytest.approx(1)
    words = (run / "final/blend.txt").read_text().split()
    blend = {Path(prefix).parent.name: float(share) for share, prefix in zip(words[::2], words[1::2], strict=True)}
    assert blend == {name: share for name, share in mixture["data_shares"].items() if share > 0}
    assert record(run, "final/mixture").blend == blend


def test_the_comparison_and_the_page_are_there(run: Path) -> None:
    result, models = read(run / "final/result.json"), {"mixture", "proportional"}
    assert set(result["models"]) == models
    comparison = result["chosen_minus"]["proportional"]
    difference = result["models"]["mixture"]["macro"] - result["models"]["proportional"]["macro"]
    assert comparison["difference"] == pytest.approx(difference)
    assert comparison["low"] < difference < comparison["high"]
    assert read(run / "cost.json")["stages"]["components"]["num_tokens"] == 7 * 16_384
    page = (run / "report.html").read_text()
    assert all(name in page for name in NAMES)


def test_the_mixtures_merge_on_disk_scores_as_it_did_in_memory(run: Path) -> None:
    measured, merged = read(run / "search/mixture.json")["measured"], read(run / "scores/merged.json")["capabilities"]
    assert set(measured) == {"general", "math", "code"}
    for name in measured:
        assert merged[name]["score"] == pytest.approx(measured[name]["score"], rel=1e-6), name
    proxies = [json.loads(line)["capabilities"] for line in (run / "search/scores.jsonl").read_text().splitlines()]
    assert all(proxy["math"]["score"] != merged["math"]["score"] for proxy in proxies), "and as no other does"


def test_a_merge_of_one_is_that_one_bit_for_bit(run: Path) -> None:
    merged = CheckpointReader(run.parent / "merged/one_hot")
    component = CheckpointReader(Path(record(run, "component/code_1").checkpoint))
    assert list(merged) == list(component)
    for name in merged:
        assert torch.equal(merged.read_tensor(name), component.read_tensor(name)), name


def test_the_merge_is_a_hugging_face_folder(run: Path) -> None:
    folder, stored = run.parent / "hf", CheckpointReader(run.parent / "merged/chosen")
    tensors, config = load_file(folder / "model.safetensors"), read(folder / "config.json")
    assert torch.equal(tensors["model.embed_tokens.weight"], stored.read_tensor("embedding.word_embeddings.weight"))
    assert sum(tensor.numel() for tensor in tensors.values()) == sum(
        stored.read_tensor(name).numel() for name in stored
    )
    assert (config["model_type"], config["num_hidden_layers"], config["hidden_size"]) == ("qwen3", 2, 64)
    assert (folder / "tokenizer.json").is_file()
