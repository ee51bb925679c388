"""A suite made ready once, to score any number of models with."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from nemo_demix.artifacts import DataManifest
from nemo_demix.config import SuiteConfig
from nemo_demix.mixture import Array
from nemo_demix.scoring.answers import check_finite, generation_answers, likelihood_answers
from nemo_demix.scoring.batches import BatchPlan, plan_batches
from nemo_demix.scoring.harness import TaskSet
from nemo_demix.scoring.items import UNIT, Items
from nemo_demix.scoring.live import TokenScores, can_share_contexts, continuation_logprobs, token_scores
from nemo_demix.scoring.requests import EncodedRequests, Encoding, encode_requests
from nemo_demix.scoring.scores import check_units, likelihood_items
from nemo_demix.scoring.suite import Request, build_suite
from nemo_demix.tokenizer import load_tokenizer


@dataclass(frozen=True)
class ModelResult:
    """What one model gave on a suite.

    Attributes:
        items: Of every score.
        lm_eval: The harness's own results of the suite's tasks; None: it has none.
        samples: The harness's records of every document, by task, where `suite.log_samples` asks for them.
    """

    items: dict[str, Items]
    lm_eval: dict[str, Any] | None = None
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


class Scorer:
    """Requests are built, encoded and laid out once; then each model costs its forward passes.

    Args:
        uses: Of the benchmarks and tasks to include: PROXY_USES for a search; None: all.
    Raises:
        ScoreError: if the suite is empty, or a part of it cannot be served.
    Memory: the requests' tokens, twice.
    """

    def __init__(self, config: SuiteConfig, manifest: DataManifest, uses: Collection[str] | None) -> None:
        self.suite = build_suite(config, manifest, uses)
        self._tokenizer = load_tokenizer(manifest.tokenizer)
        self._batch_tokens, self._batch_rows = config.batch_tokens, config.generation_batch
        self._tasks = TaskSet.load(config, manifest, uses) if self.suite.tasks else None
        self._encoded = EncodedRequests()
        if self._tasks is not None:
            encoding = Encoding(self._tokenizer, config.max_length, config.add_bos_token, config.seed)
            self._encoded = encode_requests(self._tasks.instances, encoding)
            units = {f"task/{name}": unit for name, unit in self._tasks.units.items()}
            check_units(self.suite.shares, dict.fromkeys(self.suite.groups, UNIT) | units)
        self._plans: dict[tuple[int, bool], BatchPlan] = {}

    def score(self, model: torch.nn.Module, is_main: bool = True) -> ModelResult:
        """Everything a model gives on the suite.

        Args:
            is_main: Whether this rank needs the tasks' results, which are worked out on one alone: programs that the
                model wrote may have to be run for them.
        Raises:
            ScoreError: if the model's output is not finite, naming the score it belongs to.
        Collective: every rank.
        """
        requests = self.suite.requests
        scores, plan = self._token_scores(model, [*requests, *self._encoded.sequences])
        bits_R = -continuation_logprobs(scores, plan)[: len(requests)] / float(np.log(2.0))
        items = likelihood_items(self.suite, bits_R)
        if self._tasks is None:
            return ModelResult(items)
        answers = likelihood_answers(self._encoded, scores, plan, first=len(requests))
        answers |= generation_answers(model, self._encoded, self._tokenizer, self._batch_rows)
        if not is_main:
            return ModelResult(items)
        results = self._tasks.results(answers)
        return ModelResult(
            items | {f"task/{name}": found for name, found in results.items.items()}, results.lm_eval, results.samples
        )

    def gold_token_logprobs(self, model: torch.nn.Module) -> np.ndarray:
        """Natural-log probability of every gold token of benchmarks and held-out text, float32; see `gold_offsets`.

        Raises:
            ScoreError: if a value is not finite, naming the score it belongs to.
        Collective: every rank.
        """
        return self._token_scores(model, self.suite.requests)[0].logprobs_T

    def bits(self, model: torch.nn.Module) -> Array:
        """Bits of every request of benchmarks and held-out text, float64, shape (R,); lower is better.

        Raises, Collective: as `gold_token_logprobs`.
        """
        scores, plan = self._token_scores(model, self.suite.requests)
        return -continuation_logprobs(scores, plan) / float(np.log(2.0))

    def plan(self, model: torch.nn.Module) -> BatchPlan:
        """How all continuations of the suite are laid out for a model. Collective: every rank."""
        return self._plan([*self.suite.requests, *self._encoded.sequences], can_share_contexts(model))

    def _token_scores(self, model: torch.nn.Module, sequences: Sequence[Request]) -> tuple[TokenScores, BatchPlan]:
        plan = self._plan(sequences, can_share_contexts(model))
        scores = token_scores(model, plan, self._tokenizer.vocab_size)
        check_finite(scores, plan, sequences)
        return scores, plan

    def _plan(self, sequences: Sequence[Request], share: bool) -> BatchPlan:
        key = len(sequences), share
        if key not in self._plans:
            self._plans[key] = plan_batches(sequences, self._batch_tokens, share)
        return self._plans[key]
