"""One task of the harness: its requests, and the values that a model's responses to them come to."""

import json
import logging
import math
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nemo_demix.errors import ConfigError, ScoreError
from nemo_demix.scoring.harness.items import CHOICE_SHARE, GOLD_BITS

log = logging.getLogger(__name__)

_CHOICES = "multiple_choice"


@dataclass(frozen=True)
class Gold:
    """The right answers of a multiple-choice document.

    Attributes:
        right: Places of their requests; bits are of the first.
        num_bytes: UTF-8 bytes of the first.
        num_choices: How many of the document's requests, the first ones, are its choices.
    """

    right: tuple[int, ...]
    num_bytes: int
    num_choices: int

    def metrics(self, logprobs: list[float]) -> dict[str, float]:
        """Return what the requests' natural-log probabilities come to."""
        choices = np.array(logprobs[: self.num_choices])
        shares = np.exp(choices - np.logaddexp.reduce(choices))
        return {
            GOLD_BITS: -logprobs[self.right[0]] / math.log(2) / self.num_bytes,
            CHOICE_SHARE: float(shares[list(self.right)].sum()),
        }


@dataclass
class Leaf:
    """A task of the harness and what the last model's responses came to.

    Attributes:
        name: The harness's name of it.
        task: The harness's `Task`.
        doc_ids: Places of the documents scored, in the split; sorted.
        requests: The harness's `Instance`s of every document, in order.
        gold: The right answers of every document of a multiple-choice task; empty where one's are not known.
        metrics: Metric and filter of the values it gives, in its order.
        raw: Values by (metric, filter), one a document.
        samples: What the harness logs of each document.
    """

    name: str
    task: Any
    doc_ids: list[int]
    requests: list[list[Any]]
    gold: list[Gold]
    metrics: list[tuple[str, str]] = field(default_factory=list)
    raw: dict[tuple[str, str], list[Any]] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)

    @property
    def instances(self) -> list[Any]:
        """The harness's requests, in its order; one with repeats is here once."""
        return self.task.instances

    @property
    def documents(self) -> list[Any]:
        """The documents scored."""
        return [requests[0].doc for requests in self.requests]

    def clear(self) -> None:
        """Forget the last model."""
        self.raw, self.samples = {}, []
        for instance in self.instances:
            instance.resps, instance.filtered_resps = [], {}

    def process(self, log_samples: bool) -> None:
        """Compute every metric of every document from the requests' responses.

        Raises:
            ScoreError: if the task's own code fails on a response.
        """
        self.raw, self.samples = defaultdict(list), []
        for name in self.instances[0].filtered_resps:
            for doc_id, requests, gold in zip(self.doc_ids, self.requests, self.gold or self._no_gold, strict=True):
                try:
                    metrics = self._metrics(name, requests, gold)
                except Exception as error:
                    raise ScoreError(
                        f"{self.name}: document {doc_id}: the task's own code fails on the model's response: "
                        f"{type(error).__name__}: {error}; take the task out, or correct it"
                    ) from error
                for metric, value in metrics.items():
                    self.raw[metric, name].append(value)
                if log_samples:
                    self.samples.append(self._sample(doc_id, requests, name, metrics))

    @property
    def _no_gold(self) -> list[None]:
        return [None] * len(self.requests)

    def _metrics(self, filter_name: str, requests: list[Any], gold: Gold | None) -> dict[str, Any]:
        metrics = self.task.process_results(requests[0].doc, [one.filtered_resps[filter_name] for one in requests])
        if gold is not None:
            metrics |= gold.metrics([one.resps[0][0] for one in requests])
        return metrics

    def _sample(self, doc_id: int, requests: list[Any], filter_name: str, metrics: dict[str, Any]) -> dict[str, Any]:
        """Return what the harness's `evaluate` logs."""
        from lm_eval.utils import handle_non_serializable, hash_string

        doc = requests[0].doc
        target = self.task.doc_to_target(doc)
        text = json.dumps(doc, indent=2, default=handle_non_serializable, ensure_ascii=False)
        return {
            "doc_id": doc_id,
            "doc": doc,
            "target": target,
            "arguments": [one.args for one in requests],
            "resps": [one.resps for one in requests],
            "filtered_resps": [one.filtered_resps[filter_name] for one in requests],
            "filter": filter_name,
            "metrics": list(metrics),
            "doc_hash": hash_string(text),
            "prompt_hash": hash_string(requests[0].arguments[0]),
            "target_hash": hash_string(str(target)),
            **metrics,
        }


def prepare_leaf(key: str, name: str, task: Any, limit: int | None, seed: int) -> Leaf:
    """Build a task's requests.

    Args:
        key: Key in the configuration, for messages.
        name: The task's name.
        task: The harness's `Task`, with its documents.
        limit: Documents, drawn by the seed and the task's name; None: all.
        seed: Seed of the sample.
    Raises:
        ConfigError: if there is nothing to score, or the task's own code fails on a document.
    """
    documents = list(task.eval_docs)
    if not documents:
        raise ConfigError(f"{key}: {name} has no documents to score; correct `data`, or take it out")
    # Asked for its documents, a task makes them anew: with a thousand questions that takes seconds, for every model.
    setattr(task, "test_docs" if task.has_test_docs() else "validation_docs", lambda: documents)
    doc_ids = _sample_ids(len(documents), limit, seed, name)
    try:
        if len(doc_ids) == len(documents):
            task.build_all_requests()
        else:
            task.build_all_requests(samples=dict.fromkeys(doc_ids))
    except (AssertionError, KeyError, TypeError, ValueError, IndexError) as error:
        raise ConfigError(
            f"{key}: {name}: no requests can be built from its documents: {type(error).__name__}: {error}; "
            "correct `data`, num_fewshot, or the task's definition"
        ) from error
    by_document: dict[int, list[Any]] = {}
    for instance in task.instances:
        by_document.setdefault(instance.doc_id, []).append(instance)
    requests = [sorted(rows, key=lambda one: one.idx) for rows in by_document.values()]
    leaf = Leaf(name, task, doc_ids, requests, _gold(task, requests))
    if leaf.gold:
        _declare_added(task)
    leaf.metrics = _metrics_given(leaf)
    return leaf


def _sample_ids(total: int, limit: int | None, seed: int, name: str) -> list[int]:
    if limit is None or limit >= total:
        return list(range(total))
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return [int(index) for index in np.sort(generator.choice(total, limit, replace=False))]


def _gold(task: Any, requests: list[list[Any]]) -> list[Gold]:
    """Find the right answers of every document; empty if one has none."""
    if task.OUTPUT_TYPE != _CHOICES:
        return []
    found = []
    for rows in requests:
        doc = rows[0].doc
        choices = task.doc_to_choice(doc)
        answers = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
        answers = answers if isinstance(answers, list) else [answers]
        right = [_place(answer, choices) for answer in answers]
        if not right or not all(0 <= place < min(len(rows), len(choices)) for place in right):
            return []
        num_bytes = len(rows[right[0]].args[1].encode())
        if not num_bytes:
            return []
        found.append(Gold(tuple(dict.fromkeys(right)), num_bytes, len(choices)))
    return found


def _place(answer: Any, choices: list[str]) -> int:
    """Return the place of an answer among the choices, -1 where it is none of them."""
    if isinstance(answer, str):
        return choices.index(answer) if answer in choices else -1
    return int(answer) if isinstance(answer, int | np.integer) else -1


def _declare_added(task: Any) -> None:
    """Make the harness take the mean of what is added without a warning, and say which way is better."""
    from lm_eval.api.metrics import mean

    for metric, higher_is_better in ((GOLD_BITS, False), (CHOICE_SHARE, True)):
        task.aggregation()[metric] = mean
        task.higher_is_better()[metric] = higher_is_better


def _metrics_given(leaf: Leaf) -> list[tuple[str, str]]:
    """Return what the first document's requests would come to, whatever the model says."""
    empty = {"loglikelihood": (-1.0, False), "loglikelihood_rolling": -1.0, "generate_until": ""}
    requests, gold = leaf.requests[0], leaf.gold[0] if leaf.gold else None
    for instance in requests:
        instance.resps = [empty[instance.request_type]] * instance.repeats
    filters = leaf.task._filters
    try:
        for one in filters:
            one.apply(requests)
        return [(metric, one.name) for one in filters for metric in leaf._metrics(one.name, requests, gold)]
    except Exception as error:  # a task may not bear an empty response; the model's may be better
        log.debug("%s: metrics by its definition, since an empty response gives %r", leaf.name, error)
        return [(metric, one.name) for one in filters for metric in leaf.task.aggregation()]
    finally:
        leaf.clear()
