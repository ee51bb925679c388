"""Requests are what the benchmarks say, and every proxy gets the same ones."""

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nemo_demix.artifacts import DataManifest
from nemo_demix.config import DemixConfig, load_resolved
from nemo_demix.errors import CheckpointError, ScoreError
from nemo_demix.runtime.model import Shard
from nemo_demix.scoring.identity import PROXY_USES, score_fingerprints, suite_fingerprint
from nemo_demix.scoring.scores import capability_scores, compare, likelihood_items, suite_scores
from nemo_demix.scoring.suite import build_suite
from nemo_demix.tokenizer import load_tokenizer
from tests.helpers import fork_run, run_cli


@pytest.fixture
def run(smoke_run: Path) -> tuple[DemixConfig, DataManifest]:
    return load_resolved(smoke_run / "config.yaml"), DataManifest.load(smoke_run / "datasets/manifest.json")


def test_requests_hold_the_context_and_the_gold_answer(run: tuple[DemixConfig, DataManifest]) -> None:
    config, manifest = run
    settings = dataclasses.replace(config.suite, max_length=4096, heldout_tokens=0)
    suite = build_suite(settings, manifest)
    tokenizer = load_tokenizer(manifest.tokenizer)
    items = {
        name: {(row["context"], row["gold"]) for row in map(json.loads, Path(record.path).read_text().splitlines())}
        for name, record in manifest.benchmarks.items()
    }
    assert len(suite.requests) == 9 * 8
    for request in suite.requests:
        context, gold = (
            tokenizer.decode(request.tokens[1 : request.start]),
            tokenizer.decode(request.tokens[request.start :]),
        )
        assert (context, gold) in items[request.score_name.removeprefix("benchmark/")]
        assert request.num_bytes == len(gold.encode())
        assert request.tokens[0] == tokenizer.eos_id


def test_long_contexts_lose_their_left_and_long_answers_their_right(run: tuple[DemixConfig, DataManifest]) -> None:
    config, manifest = run
    full = build_suite(dataclasses.replace(config.suite, max_length=4096, heldout_tokens=0), manifest)
    cut = build_suite(dataclasses.replace(config.suite, max_length=32, heldout_tokens=0), manifest)
    assert any(long.start > 32 for long in full.requests)
    assert any(len(long.tokens) - long.start > 31 for long in full.requests)
    for long, short in zip(full.requests, cut.requests, strict=True):
        assert len(short.tokens) <= 32
        answer = long.tokens[long.start :][:31]
        assert short.tokens[short.start :] == answer
        assert short.tokens[1 : short.start] == long.tokens[1 : long.start][-(31 - len(answer)) or long.start :]


def test_the_sample_depends_on_the_seed_alone(run: tuple[DemixConfig, DataManifest]) -> None:
    config, manifest = run
    one, two = (build_suite(config.suite, manifest) for _ in range(2))
    assert [request.tokens for request in one.requests] == [request.tokens for request in two.requests]
    other = build_suite(dataclasses.replace(config.suite, seed=1), manifest)
    assert [request.tokens for request in one.requests] != [request.tokens for request in other.requests]
    assert one.fingerprint != other.fingerprint


def test_an_empty_suite_is_refused(run: tuple[DemixConfig, DataManifest]) -> None:
    config, manifest = run
    empty = dataclasses.replace(manifest, benchmarks={})
    with pytest.raises(ScoreError, match="the suite is empty"):
        build_suite(dataclasses.replace(config.suite, heldout_tokens=0), empty)


def test_a_search_sees_no_report_benchmark_and_judges_average_over_these(
    run: tuple[DemixConfig, DataManifest],
) -> None:
    config, manifest = run
    settings = copy.deepcopy(dataclasses.replace(config.suite, heldout_tokens=0))
    whole = build_suite(settings, manifest)
    assert [name for shares in whole.shares.values() for name in shares] == whole.score_names
    settings.benchmarks["gsm8k"].use = "report"
    settings.benchmarks["mbpp"].use = "fit"
    proxies, full = build_suite(settings, manifest, PROXY_USES), build_suite(settings, manifest)
    assert set(full.score_names) - set(proxies.score_names) == {"benchmark/gsm8k"}
    assert {request.score_name for request in proxies.requests} == set(proxies.score_names)
    assert (list(proxies.shares["math"]), list(full.shares["math"])) == (["benchmark/math"], ["benchmark/gsm8k"])
    for suite in (proxies, full):
        assert list(suite.shares["code"]) == ["benchmark/humaneval"]
    bits = np.arange(1.0, len(full.requests) + 1)
    scores = suite_scores(likelihood_items(full, bits))
    assert capability_scores(full, scores)["math"].score == scores["benchmark/gsm8k"].score
    report = [index for index, request in enumerate(full.requests) if request.score_name == "benchmark/math"]
    others = bits.copy()
    others[report] += 100
    tuned_on = compare(full, likelihood_items(full, bits), likelihood_items(full, others))
    assert tuned_on.difference == 0  # and does not judge


def test_judged_items_are_others_than_those_that_are_searched_on(run: tuple[DemixConfig, DataManifest]) -> None:
    config, manifest = run
    plain = build_suite(config.suite, manifest, PROXY_USES)
    settings = dataclasses.replace(config.suite, judged_items=6)
    searched, full = build_suite(settings, manifest, PROXY_USES), build_suite(settings, manifest)
    assert [request.tokens for request in searched.requests] == [request.tokens for request in plain.requests]
    groups = score_fingerprints(config.suite, manifest)
    assert {name: value for name, value in score_fingerprints(settings, manifest).items() if name in groups} == groups
    for capability, shares in full.shares.items():
        assert all(name.endswith(":judged") for name in shares), capability
    by_group: dict[str, list[tuple[int, ...]]] = {}
    for request in full.requests:
        by_group.setdefault(request.score_name, []).append(tuple(request.tokens))
    for name in manifest.benchmarks:
        one, other = by_group[f"benchmark/{name}"], by_group[f"benchmark/{name}:judged"]
        assert (len(one), len(other)) == (8, 6)
        assert not set(one) & set(other)
    with_fit = copy.deepcopy(settings)
    with_fit.benchmarks["gsm8k"].use = "fit"  # what no search chooses by needs no others
    assert "benchmark/gsm8k:judged" not in build_suite(with_fit, manifest).score_names


@pytest.mark.parametrize("items", [None, 164])
def test_a_benchmark_without_other_items_cannot_judge(run: tuple[DemixConfig, DataManifest], items: int | None) -> None:
    config, manifest = run
    manifest = dataclasses.replace(manifest, benchmarks={"humaneval": manifest.benchmarks["humaneval"]})
    settings = dataclasses.replace(config.suite, items_per_benchmark=items, judged_items=4)
    with pytest.raises(ScoreError, match=r"humaneval: 164 of its 164 items are searched on, 0 are left to judge by"):
        build_suite(settings, manifest)


def test_use_changes_no_score_but_the_record_of_averages(run: tuple[DemixConfig, DataManifest]) -> None:
    config, manifest = run
    settings = copy.deepcopy(config.suite)
    settings.benchmarks["gsm8k"].use = "report"
    groups, plain = score_fingerprints(settings, manifest), score_fingerprints(config.suite, manifest)
    assert groups == plain
    assert suite_fingerprint(settings, manifest) != suite_fingerprint(config.suite, manifest)
    assert set(plain) - set(score_fingerprints(settings, manifest, PROXY_USES)) == {"benchmark/gsm8k"}


def test_a_checkpoint_of_another_architecture_is_no_corner_of_ours(smoke_run: Path, tmp_path: Path) -> None:
    """A larger tensor holds every slice that a smaller model asks for."""
    runs = fork_run(smoke_run, tmp_path, "models", "search", "final")
    checkpoint = smoke_run / "models/base/base/checkpoints/step_00000040"
    command = ["--config-name", "smoke", f"runs_dir={runs}", "parallel.tensor=1", f"score.checkpoint={checkpoint}"]
    fewer = run_cli("score", *command, "model.overrides.model.config.num_layers=1", expect=2).stderr
    assert f"{checkpoint}: module.decoder.layers." in fewer
    assert "it is of another architecture" in fewer


def test_a_checkpoint_of_another_tokenizer_is_known_by_its_rows() -> None:
    name = "module.embedding.word_embeddings.weight"
    shard = Shard(name, torch.zeros(4, 2), (0, 0), (4, 2), (8, 2))
    shard.check((8, 2), Path("its/checkpoint"))
    with pytest.raises(
        CheckpointError, match=r"its/checkpoint: its vocabulary has 9 rows, this run's tokenizer makes 8"
    ):
        shard.check((9, 2), Path("its/checkpoint"))
