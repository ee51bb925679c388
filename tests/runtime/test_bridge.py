"""Megatron-Bridge beside NeMo, in its own environment, which `make bridge` makes: one run shows all that is here."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from nemo_demix.artifacts import ModelRecord, load_record, read_json, read_json_lines
from nemo_demix.checkpoints.layouts import detect
from nemo_demix.checkpoints.metadata import read_metadata
from nemo_demix.checkpoints.reader import CheckpointReader
from tests.bridge import Bridge, needs_bridge
from tests.conftest import Once
from tests.helpers import REPOSITORY, losses, run_cli

RECIPE = str(REPOSITORY / "tests/data/two.yaml")
# What NeMo's recipes have, and Bridge's have otherwise.
LIKE_NEMO = (
    "+model.overrides.optimizer.adam_eps=1e-5",
    "+model.overrides.scheduler.start_weight_decay=0.1",
    "+model.overrides.scheduler.end_weight_decay=0.1",
)
pytestmark = needs_bridge


def write_data(folder: Path) -> None:
    """Text of two kinds, and a benchmark of each."""
    draw = random.Random(0)
    words = "the of and to in is that it was for on are as with his they at be this from have or by one had".split()
    names = "self path name value index item list text node size rows left".split()
    texts = [" ".join(draw.choices(words, k=60)) + "." for _ in range(400)]
    lines = [
        "\n".join(f"    {draw.choice(names)} = {draw.choice(names)}.{draw.choice(names)}()" for _ in range(12))
        for _ in range(400)
    ]
    for name, documents in (("general_docs", texts), ("code_docs", lines)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    for name, items in (
        ("general", [("to be", f" {w}") for w in words[:8]]),
        ("code", [("x =", f" {n}") for n in names[:8]]),
    ):
        rows = [
            {"id": str(number), "context": context, "gold": gold, "choices": [gold, " 7"]}
            for number, (context, gold) in enumerate(items)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def runs(once: Once, bridge: Bridge) -> Path:
    """`two`: base and components by NeMo. `bridged`: the same base, and everything after it by Megatron-Bridge."""

    def make(folder: Path) -> None:
        write_data(folder)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DATA", str(folder))
            given = ("--config-name", RECIPE, f"runs_dir={folder}")
            run_cli("prepare", *given)
            run_cli("train", *given, "role=base")
            run_cli("train", *given, "role=component")
            base = folder / "two/models/base/base/checkpoints/step_00000016"
            bridged = (
                "backend=bridge",
                "model=bridge_qwen3_tiny",
                "name=bridged",
                f"base.checkpoint={base}",
                *LIKE_NEMO,
            )
            bridge.run("run", *given, *bridged, "components.keep_tokens=[1024]")

    return once("bridge", make)


@pytest.mark.parametrize("name", ["general", "code_1"])
def test_a_component_of_both_has_the_same_data_and_losses(runs: Path, name: str) -> None:
    nemo, bridge = (losses(runs / run / "models/component" / name) for run in ("two", "bridged"))
    assert set(nemo) == set(bridge) == set(range(1, 9))
    assert nemo[1] == pytest.approx(bridge[1], abs=1e-6), "the same weights, and the same first batch"
    assert max(abs(nemo[step] - bridge[step]) for step in nemo) < 1e-3


def test_its_checkpoints_are_bridges_own_and_kept_at_token_counts(runs: Path) -> None:
    folder = runs / "bridged/models/component/code_1"
    record = load_record(folder / "record.json", ModelRecord)
    assert sorted(path.name for path in (folder / "checkpoints").glob("iter_*")) == ["iter_0000004", "iter_0000008"]
    assert list(record.checkpoints) == ["1024", "2048"]
    assert record.delta is not None
    assert 0 < record.delta < 0.5
    assert detect(Path(record.checkpoint)).kind == "megatron_bridge"
    assert not any(name.startswith("optimizer") for name in read_metadata(Path(record.checkpoint)).tensors)


def test_a_live_search_ends_in_a_mixture_and_a_final_model(runs: Path) -> None:
    rows = read_json_lines(runs / "bridged/search/scores.jsonl")
    assert [row["status"] for row in rows] == ["OK"] * 12
    shares = read_json(runs / "bridged/search/mixture.json")["data_shares"]
    assert sum(shares.values()) == pytest.approx(1)
    assert losses(runs / "bridged/models/final/mixture")[8] > 0
    assert read_json(runs / "bridged/final/result.json")


def test_its_checkpoints_merge_bit_for_bit(runs: Path) -> None:
    components = {
        name: runs / f"bridged/models/component/{name}/checkpoints/iter_0000008" for name in ("general", "code_1")
    }
    mixtures = runs / "one.json"
    mixtures.write_text(json.dumps({"one": {"general": 0.0, "code_1": 1.0}}))
    given = [f"+merge.components.{name}={path}" for name, path in components.items()]
    run_cli(
        "merge", f"runs_dir={runs}", "name=merged", *given, f"merge.mixtures={mixtures}", f"merge.output={runs}/merged"
    )
    merged, component = CheckpointReader(runs / "merged/one"), CheckpointReader(components["code_1"])
    assert list(merged) == list(component)
    for name in merged:
        assert torch.equal(merged.read_tensor(name), component.read_tensor(name)), name


def test_its_probabilities_and_texts_are_those_of_the_plain_forward_pass(runs: Path, bridge: Bridge) -> None:
    given = ("models/component/code_1/checkpoints/iter_0000008", "1", "1", "1", "300", "4")
    found = bridge.run_program("live_model", str(runs / "bridged"), *given)
    for shared in ("shared_false", "shared_true"):
        np.testing.assert_allclose(found[shared]["logprobs"], found["whole_logprobs"], rtol=2e-6)
        assert found[shared]["greedy"] == found["whole_greedy"]
    assert found["greedy"] == found["plain"], "the cache changes no text"
    assert found["sampled"] != found["greedy"]
    assert any(len(cut) < len(whole) for whole, cut in zip(found["sampled"], found["stopped"], strict=True))
