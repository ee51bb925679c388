"""The suite as tokens: built once, reused for every proxy.

Four kinds of score:
  benchmark/<name>  bits per byte of the gold answer given its question, a mean over items (the harness's convention);
  heldout/<name>    bits per byte of held-out documents, total bits over total bytes (the corpus convention);
  task/<name>       a task of lm-evaluation-harness, by its own metric (`nemo_demix.scoring.harness`);
  external/<command>/<name>  a number that a program outside gives (`nemo_demix.scoring.external`), without ranks.
The first two are bits per *byte*, so that tokenizers compare; lower is better. Their requests are built here.

A benchmark's or task's `use` says what it is for: proxies are scored on `search` and `fit` ones, finished models on all
of them, so that a choice is judged by `report` ones that it was not tuned on.

Importing this does not import torch: what a suite's identity is has to be known where no model will ever be built.
"""

import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nemo_demix.artifacts import DataManifest, json_value
from nemo_demix.config import DemixConfig, SuiteConfig
from nemo_demix.errors import DemixError, ScoreError, refuse
from nemo_demix.scoring.identity import (
    EMPTY,
    JUDGED,
    JudgedScore,
    averaged_scores,
    heldout_scores,
    judged_scores,
    length_errors,
    shares_by,
    shares_of,
    suite_fingerprint,
)
from nemo_demix.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True)
class Request:
    """One scored continuation."""

    score_name: str  # of the score that it is part of: benchmark/<name> or heldout/<name>
    tokens: list[int]  # end-of-text, context, continuation
    start: int  # index of the continuation's first token
    num_bytes: int  # UTF-8 bytes of the continuation


@dataclass(frozen=True)
class Suite:
    """All requests, in order, and what their scores are for."""

    requests: list[Request]
    judged: dict[str, JudgedScore]  # benchmarks, then tasks, then external scores
    heldout: dict[str, str]  # the capability of each held-out set's dataset, by the score's name
    fingerprint: str

    @property
    def score_names(self) -> list[str]:
        """Names of all scores."""
        return [*self.judged, *self.heldout]

    @property
    def tasks(self) -> list[str]:
        """Names of the scores that the harness works out."""
        return [name for name in self.judged if name.startswith("task/")]

    @property
    def on_ranks(self) -> list[str]:
        """Names of the scores that a live model gives; without any, no ranks are needed."""
        return [name for name in self.score_names if not name.startswith("external/")]

    @property
    def shares(self) -> dict[str, dict[str, float]]:
        """What each score counts in its capability's average, by capability; see `averaged_scores`."""
        return shares_of(averaged_scores(self.judged))

    @property
    def heldout_shares(self) -> dict[str, dict[str, float]]:
        """What each held-out set's score counts in the average of its dataset's capability, by capability."""
        return shares_by(self.heldout, {})

    @cached_property
    def members(self) -> dict[str, tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]]:
        """The places of each benchmark's and held-out set's requests, and the UTF-8 bytes of their continuations.

        Returns:
            Places in `requests`, intp, and bytes, float64, by name; both of shape (requests,), in order.
        """
        places: dict[str, list[int]] = {}
        for place, request in enumerate(self.requests):
            places.setdefault(request.score_name, []).append(place)
        return {
            score_name: (np.array(rows, dtype=np.intp), np.array([float(self.requests[row].num_bytes) for row in rows]))
            for score_name, rows in places.items()
        }

    @property
    def num_tokens(self) -> int:
        """Tokens of one pass, without padding."""
        return sum(len(request.tokens) for request in self.requests)


def build_suite(config: SuiteConfig, manifest: DataManifest, uses: Collection[str] | None = None) -> Suite:
    """Read, sample, tokenise and batch everything the suite asks for.

    Args:
        uses: Uses of the benchmarks to include: PROXY_USES for a search; None: all.

    Raises:
        ScoreError: if the suite is empty, or a benchmark or held-out set yields nothing to score.
    """
    refuse(length_errors(config))
    tokenizer = load_tokenizer(manifest.tokenizer)
    judged = judged_scores(config, manifest, uses)
    requests: list[Request] = []
    for name, record in manifest.benchmarks.items():
        for score_name in (f"benchmark/{name}", f"benchmark/{name}{JUDGED}"):
            if score_name in judged:
                requests += _benchmark_requests(score_name, Path(record.path), tokenizer, config)
    heldout = heldout_scores(config, manifest)
    for score_name, (name, dataset) in zip(heldout, manifest.datasets.items(), strict=False):
        if dataset.heldout_prefix is None:
            raise _no_heldout(name)
        requests += _heldout_requests(score_name, dataset.heldout_prefix, tokenizer, config)
    suite = Suite(requests, judged, heldout, suite_fingerprint(config, manifest, uses))
    if not suite.score_names:
        raise ScoreError(EMPTY)
    counts = Counter(request.score_name for request in requests)
    for score_name in suite.on_ranks:
        if score_name not in suite.tasks and counts[score_name] < 2:
            raise ScoreError(f"{score_name}: {counts[score_name]} items to score; a standard error needs at least 2")
    return suite


def heldout_errors(config: DemixConfig) -> Iterator[DemixError]:
    """Yield errors for held-out text that is asked for and that a brought dataset does not have."""
    for name, dataset in config.datasets.items():
        lacks = any(source.megatron is not None and source.heldout is None for source in dataset.sources)
        if config.suite.heldout_tokens and lacks:
            yield _no_heldout(name)


def judged_errors(config: SuiteConfig, sizes: Mapping[str, int]) -> Iterator[DemixError]:
    """Yield errors for items that are to judge where all, or all but one, are searched on.

    Args:
        sizes: Items of benchmarks of the registry, by their names there.
    """
    for name, benchmark in config.benchmarks.items():
        known = sizes.get(benchmark.registry or "")
        if not config.judged_items or known is None or benchmark.use != "search":
            continue
        searched = min(known, config.items_per_benchmark or known)
        if known - searched < 2:
            yield _too_few(f"benchmark/{name}", searched, known, config.items_per_benchmark)


def _no_heldout(name: str) -> ScoreError:
    return ScoreError(
        f"datasets.{name} has no held-out documents; give its source a `heldout` prefix, or set suite.heldout_tokens=0"
    )


def _too_few(name: str, searched: int, num_items: int, limit: int | None) -> ScoreError:
    return ScoreError(
        f"{name}: {searched} of its {num_items} items are searched on, {num_items - searched} are left to judge by; "
        f"lower suite.items_per_benchmark={limit}, or set suite.judged_items=0"
    )


def _generator(seed: int, score_name: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(score_name.encode())])


def _benchmark_requests(score_name: str, path: Path, tokenizer: Tokenizer, config: SuiteConfig) -> Iterator[Request]:
    with open(path, encoding="utf-8") as file:
        rows = [json_value(line) for line in file]
    rows = [rows[index] for index in _sampled(score_name, len(rows), config)]
    contexts = tokenizer.encode_batch([row["context"] for row in rows])
    answers = tokenizer.encode_batch([row["gold"] for row in rows])
    for row, context, answer in zip(rows, contexts, answers, strict=True):
        num_bytes = len(row["gold"].encode())
        if len(answer) > config.max_length - 1:
            answer = answer[: config.max_length - 1]
            num_bytes = len(tokenizer.decode(answer).encode())
        if not answer or not num_bytes:
            raise ScoreError(f"{path}: item {row['id']} has an empty gold answer")
        room = config.max_length - 1 - len(answer)
        tokens = [tokenizer.eos_id, *(context[-room:] if room else []), *answer]
        yield Request(score_name, tokens, len(tokens) - len(answer), num_bytes)


def _sampled(score_name: str, num_items: int, config: SuiteConfig) -> npt.NDArray[np.intp]:
    """Return which items of a benchmark a score is over, ascending: the searched ones, or some of the others, which
    judge.
    """
    searched = np.arange(num_items)
    limit, name = config.items_per_benchmark, score_name.removesuffix(JUDGED)
    if limit is not None and limit < num_items:
        searched = np.sort(_generator(config.seed, name).choice(num_items, limit, replace=False))
    if name == score_name:
        return searched
    others = np.setdiff1d(np.arange(num_items), searched)
    if len(others) < 2:
        raise _too_few(name, len(searched), num_items, limit)
    count = min(config.judged_items, len(others))
    return np.sort(_generator(config.seed, score_name).choice(others, count, replace=False))


def _heldout_requests(score_name: str, prefix: str, tokenizer: Tokenizer, config: SuiteConfig) -> Iterator[Request]:
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    documents = IndexedDataset(prefix)
    remaining = config.heldout_tokens
    for index in _generator(config.seed, score_name).permutation(len(documents)):
        tokens = [int(token) for token in documents[int(index)] if int(token) != tokenizer.eos_id]
        for start in range(0, len(tokens), config.max_length - 1):
            piece = tokens[start : start + min(config.max_length - 1, remaining)]
            num_bytes = len(tokenizer.decode(piece).encode()) if piece else 0
            if num_bytes:
                yield Request(score_name, [tokenizer.eos_id, *piece], 1, num_bytes)
                remaining -= len(piece)
            if remaining <= 0:
                return
