"""The suite as token batches: built once, reused for every proxy.

Two kinds of score, both in bits per byte, both lower is better:
  benchmark/<name>  bits per byte of the gold answer given its question, a mean over items (the harness's convention);
  heldout/<name>    bits per byte of held-out documents, total bits over total bytes (the corpus convention).
Bits per *byte*, so that tokenizers compare.

A benchmark's `use` says what it is for: proxies are scored on `search` and `fit` ones, finished models on all of them,
so that a choice is judged by `report` ones that it was not tuned on.

Importing this does not import torch: what a suite's identity is has to be known where no model will ever be built.
"""

import json
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nemo_demix.artifacts import DataManifest, fingerprint
from nemo_demix.config import SuiteConfig
from nemo_demix.errors import ScoreError
from nemo_demix.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    import torch

FORMAT = 1  # raise when requests are built in a way that earlier scores do not share
PROXY_USES = ("search", "fit")  # of the benchmarks that a search may see
_JUDGES = ("report", "search", "fit")  # a capability's average is over its benchmarks of the first use that it has
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

    tokens_BS: "torch.Tensor"  # int64
    labels_BS: "torch.Tensor"  # int64, the next token
    mask_BS: "torch.Tensor"  # float32, 1 where the label belongs to the continuation
    request_ids: list[int]


@dataclass(frozen=True)
class Suite:
    """All requests, in order, and the batches they are scored in."""

    requests: list[Request]
    batches: list[Batch]
    capabilities: dict[str, str | None]  # of each group; None: held-out documents, part of no capability
    fingerprint: str
    use: dict[str, str] = field(default_factory=dict)  # of each benchmark; one left out is of `search`

    @property
    def groups(self) -> list[str]:
        """Names of the scores, benchmarks first."""
        return list(self.capabilities)

    @property
    def averaged(self) -> dict[str, str]:
        """The capability of each benchmark that a capability's average is over; see `averaged_benchmarks`."""
        return averaged_benchmarks(self.capabilities, self.use)

    @cached_property
    def members(self) -> dict[str, tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]]:
        """By group, the places of its requests and the bytes of their continuations, in order."""
        places: dict[str, list[int]] = {group: [] for group in self.groups}
        for place, request in enumerate(self.requests):
            places[request.group].append(place)
        return {
            group: (np.array(rows, dtype=np.intp), np.array([float(self.requests[row].num_bytes) for row in rows]))
            for group, rows in places.items()
        }

    @property
    def num_tokens(self) -> int:
        """Tokens of one pass, without padding."""
        return sum(len(request.tokens) for request in self.requests)


def group_fingerprints(
    config: SuiteConfig, manifest: DataManifest, uses: Collection[str] | None = None
) -> dict[str, str]:
    """By score name, all that can change that score, besides the model.

    Args:
        uses: Of the benchmarks to include; None: all.
    """
    common = {
        "format": FORMAT,
        "tokenizer": manifest.tokenizer["fingerprint"],
        "settings": (config.max_length, config.batch_tokens, config.seed),
    }
    groups = {
        f"benchmark/{name}": fingerprint(**common, items=config.items_per_benchmark, text=record.fingerprint)
        for name, record in manifest.benchmarks.items()
        if uses is None or benchmark_use(config, name) in uses
    }
    if config.heldout_tokens:
        groups |= {
            f"heldout/{name}": fingerprint(**common, num_tokens=config.heldout_tokens, text=record.fingerprint)
            for name, record in manifest.datasets.items()
        }
    return groups


def averaged_benchmarks(capabilities: Mapping[str, str | None], use: Mapping[str, str]) -> dict[str, str]:
    """The capability of each benchmark that a capability's average is over.

    These are the capability's `report` benchmarks where there are any, else its `search` ones, else `fit`: so a
    finished model is judged on what nothing was tuned on, and a proxy on what the search looks at.

    Args:
        capabilities: Of each score; None: part of no capability.
        use: Of each benchmark; one left out is of `search`.
    """
    uses = {group: use.get(group, "search") for group, capability in capabilities.items() if capability is not None}
    found: dict[str | None, set[str]] = {}
    for group in uses:
        found.setdefault(capabilities[group], set()).add(uses[group])
    judge = {capability: next(one for one in _JUDGES if one in some) for capability, some in found.items()}
    return {
        group: capability
        for group, capability in capabilities.items()
        if capability is not None and uses[group] == judge[capability]
    }


def benchmark_use(config: SuiteConfig, name: str) -> str:
    """What a benchmark is for: search | fit | report."""
    return config.benchmarks[name].use if name in config.benchmarks else "search"


def suite_fingerprint(config: SuiteConfig, manifest: DataManifest, uses: Collection[str] | None = None) -> str:
    """Covers all that can change a score or a capability's average, besides the model."""
    groups = group_fingerprints(config, manifest, uses)
    use = {name: benchmark_use(config, name) for name in manifest.benchmarks}
    if set(use.values()) <= {"search"}:
        return fingerprint(groups=groups)
    return fingerprint(groups=groups, use=use)


def build_suite(config: SuiteConfig, manifest: DataManifest, uses: Collection[str] | None = None) -> Suite:
    """Read, sample, tokenise and batch everything the suite asks for.

    Args:
        uses: Of the benchmarks to include: PROXY_USES for a search; None: all.

    Raises:
        ScoreError: if the suite is empty, or a benchmark or held-out set yields nothing to score.
    """
    if config.max_length < 16:
        raise ScoreError(f"suite.max_length={config.max_length}: expected at least 16 tokens")
    tokenizer = load_tokenizer(manifest.tokenizer)
    requests: list[Request] = []
    capabilities: dict[str, str | None] = {}
    use: dict[str, str] = {}
    for name, record in manifest.benchmarks.items():
        if uses is not None and benchmark_use(config, name) not in uses:
            continue
        group = f"benchmark/{name}"
        capabilities[group] = record.capability
        use[group] = benchmark_use(config, name)
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
    batches = _batches(requests, config.batch_tokens)
    return Suite(requests, batches, capabilities, suite_fingerprint(config, manifest, uses), use)


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
    import torch

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
