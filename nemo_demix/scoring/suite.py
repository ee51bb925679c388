"""The suite as token batches: built once, reused for every proxy.

Two kinds of score, both in bits per byte, both lower is better:
  benchmark/<name>  bits per byte of the gold answer given its question, a mean over items (the harness's convention);
  heldout/<name>    bits per byte of held-out documents, total bits over total bytes (the corpus convention).
Bits per *byte*, so that tokenizers compare.
"""

import json
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nemo_demix.artifacts import DataManifest, fingerprint
from nemo_demix.config import SuiteConfig
from nemo_demix.errors import ScoreError
from nemo_demix.tokenizer import Tokenizer, load_tokenizer

FORMAT = 1  # raise when requests are built in a way that earlier scores do not share
_PAD_TO = 8


@dataclass(frozen=True)
class Request:
    """One scored continuation."""

    group: str  # benchmark/<name> or heldout/<name>
    tokens: list[int]  # end-of-text, context, continuation
    start: int  # index of the continuation's first token
    num_bytes: int  # UTF-8 bytes of the continuation


@dataclass(frozen=True)
class Batch:
    """Requests of like length, padded on the right."""

    tokens_BS: torch.Tensor  # int64
    labels_BS: torch.Tensor  # int64, the next token
    mask_BS: torch.Tensor  # float32, 1 where the label belongs to the continuation
    request_ids: list[int]


@dataclass(frozen=True)
class Suite:
    """All requests, in order, and the batches they are scored in."""

    requests: list[Request]
    batches: list[Batch]
    capabilities: dict[str, str | None]  # of each group; None: reported, but part of no capability
    fingerprint: str

    @property
    def groups(self) -> list[str]:
        """Names of the scores, benchmarks first."""
        return list(self.capabilities)

    @property
    def num_tokens(self) -> int:
        """Tokens of one pass, without padding."""
        return sum(len(request.tokens) for request in self.requests)


def group_fingerprints(config: SuiteConfig, manifest: DataManifest) -> dict[str, str]:
    """By score name, all that can change that score, besides the model."""
    common = {
        "format": FORMAT,
        "tokenizer": manifest.tokenizer["fingerprint"],
        "settings": (config.max_length, config.batch_tokens, config.seed),
    }
    groups = {
        f"benchmark/{name}": fingerprint(**common, items=config.items_per_benchmark, text=record.fingerprint)
        for name, record in manifest.benchmarks.items()
    }
    if config.heldout_tokens:
        groups |= {
            f"heldout/{name}": fingerprint(**common, num_tokens=config.heldout_tokens, text=record.fingerprint)
            for name, record in manifest.datasets.items()
        }
    return groups


def suite_fingerprint(config: SuiteConfig, manifest: DataManifest) -> str:
    """Covers all that can change a score, besides the model."""
    return fingerprint(groups=group_fingerprints(config, manifest))


def build_suite(config: SuiteConfig, manifest: DataManifest) -> Suite:
    """Read, sample, tokenise and batch everything the suite asks for.

    Raises:
        ScoreError: if the suite is empty, or a benchmark or held-out set yields nothing to score.
    """
    if config.max_length < 16:
        raise ScoreError(f"suite.max_length={config.max_length}: expected at least 16 tokens")
    tokenizer = load_tokenizer(manifest.tokenizer)
    requests: list[Request] = []
    capabilities: dict[str, str | None] = {}
    for name, record in manifest.benchmarks.items():
        group = f"benchmark/{name}"
        capabilities[group] = record.capability
        requests += _benchmark_requests(group, Path(record.path), tokenizer, config)
    if config.heldout_tokens:
        for name, dataset in manifest.datasets.items():
            group = f"heldout/{name}"
            capabilities[group] = None
            if dataset.heldout_prefix is None:
                raise ScoreError(
                    f"datasets.{name} has no held-out documents; give its source a `heldout` prefix, "
                    "or set suite.heldout_tokens=0"
                )
            requests += _heldout_requests(group, dataset.heldout_prefix, tokenizer, config)
    if not requests:
        raise ScoreError("the suite is empty: set suite.benchmarks, or suite.heldout_tokens above 0")
    counts = Counter(request.group for request in requests)
    for group in capabilities:
        if counts[group] < 2:
            raise ScoreError(f"{group}: {counts[group]} items to score; a standard error needs at least 2")
    return Suite(requests, _batches(requests, config.batch_tokens), capabilities, suite_fingerprint(config, manifest))


def _generator(seed: int, group: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(group.encode())])


def _benchmark_requests(group: str, path: Path, tokenizer: Tokenizer, config: SuiteConfig) -> Iterator[Request]:
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    limit = config.items_per_benchmark
    if limit is not None and limit < len(rows):
        chosen = np.sort(_generator(config.seed, group).choice(len(rows), limit, replace=False))
        rows = [rows[index] for index in chosen]
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
        yield Request(group, tokens, len(tokens) - len(answer), num_bytes)


def _heldout_requests(group: str, prefix: str, tokenizer: Tokenizer, config: SuiteConfig) -> Iterator[Request]:
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    documents = IndexedDataset(prefix)
    remaining = config.heldout_tokens
    for index in _generator(config.seed, group).permutation(len(documents)):
        tokens = [int(token) for token in documents[int(index)] if int(token) != tokenizer.eos_id]
        for start in range(0, len(tokens), config.max_length - 1):
            piece = tokens[start : start + min(config.max_length - 1, remaining)]
            num_bytes = len(tokenizer.decode(piece).encode()) if piece else 0
            if num_bytes:
                yield Request(group, [tokenizer.eos_id, *piece], 1, num_bytes)
                remaining -= len(piece)
            if remaining <= 0:
                return


def _batches(requests: list[Request], batch_tokens: int) -> list[Batch]:
    """Longest first, so that a batch too large for the memory fails at once."""
    order = sorted(range(len(requests)), key=lambda index: (-len(requests[index].tokens), index))
    batches, first = [], 0
    while first < len(order):
        width = -(-(len(requests[order[first]].tokens) - 1) // _PAD_TO) * _PAD_TO
        rows = order[first : first + max(1, batch_tokens // width)]
        batches.append(_batch(requests, rows, width))
        first += len(rows)
    return batches


def _batch(requests: list[Request], rows: list[int], width: int) -> Batch:
    tokens_BS = torch.zeros((len(rows), width), dtype=torch.int64)
    labels_BS = torch.zeros((len(rows), width), dtype=torch.int64)
    mask_BS = torch.zeros((len(rows), width), dtype=torch.float32)
    for row, index in enumerate(rows):
        request = requests[index]
        length = len(request.tokens) - 1
        tokens = torch.tensor(request.tokens)
        tokens_BS[row, :length] = tokens[:-1]
        labels_BS[row, :length] = tokens[1:]
        mask_BS[row, request.start - 1 : length] = 1.0
    return Batch(tokens_BS, labels_BS, mask_BS, rows)
