"""A suite made ready once, to score any number of models with."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from nemo_demix.artifacts import DataManifest
from nemo_demix.config import SuiteConfig
from nemo_demix.mixture import Array
from nemo_demix.scoring.answer_store import NO_STORE, AnswerStore
from nemo_demix.scoring.answers import check_finite, generated_texts, put_together
from nemo_demix.scoring.batches import BatchPlan, plan_batches
from nemo_demix.scoring.external.settings import external_scores
from nemo_demix.scoring.harness import TaskSet
from nemo_demix.scoring.items import UNIT
from nemo_demix.scoring.live import (
    TokenScores,
    can_share_contexts,
    continuation_is_greedy,
    continuation_logprobs,
    token_scores,
)
from nemo_demix.scoring.parts import Part, PartAnswers
from nemo_demix.scoring.requests import EncodedRequests, Encoding, encode_requests
from nemo_demix.scoring.result import ModelResult
from nemo_demix.scoring.scores import check_units, likelihood_items
from nemo_demix.scoring.suite import build_suite
from nemo_demix.tokenizer import load_tokenizer

logger = logging.getLogger(__name__)


class Scorer:
    """Scores models: requests are built, encoded and laid out once, then each model costs its forward passes.

    Continuations of all scores share batches, short ones with short ones: so a score's last digits, as of any sum of
    floating point numbers, depend on what is asked beside it. What is asked in one go is kept in one go.

    Args:
        uses: Uses of the benchmarks and tasks to include: PROXY_USES for a search; None: all.
        store: Store of earlier answers, which are not asked for again.
    Raises:
        ScoreError: if the suite is empty, or a part of it cannot be served.
    Memory: the requests' tokens, twice.
    """

    def __init__(
        self, config: SuiteConfig, manifest: DataManifest, uses: Collection[str] | None, store: AnswerStore = NO_STORE
    ) -> None:
        self.suite = build_suite(config, manifest, uses)
        self._store = store
        self._tokenizer = load_tokenizer(manifest.tokenizer)
        self._batch_tokens, self._batch_rows = config.batch_tokens, config.generation_batch
        self._tasks = TaskSet.load(config, manifest, uses) if self.suite.tasks else None
        units = dict.fromkeys(self.suite.score_names, UNIT)
        units |= {name: one.unit for name, one in external_scores(config, uses).items()}
        vocabulary = manifest.tokenizer["fingerprint"], self._tokenizer.vocab_size
        self._gold = [
            Part(name, [self.suite.requests[row] for row in rows], None, vocabulary)
            for name, (rows, _) in self.suite.members.items()
        ]
        self._parts = list(self._gold)
        if self._tasks is not None:
            units |= {f"task/{name}": unit for name, unit in self._tasks.units.items()}
            encoding = Encoding(self._tokenizer, config.max_length, config.add_bos_token, config.seed)
            for key, instances in self._tasks.instances_of.items():
                encoded = encode_requests(instances, encoding)
                self._parts.append(Part(f"task/{key}", encoded.sequences, encoded, vocabulary))
        check_units(self.suite.shares, units)
        self._plans: dict[tuple[tuple[str, ...], bool], BatchPlan] = {}
        self._told = 0  # how many parts were known, when that was last said

    def score(
        self,
        model: torch.nn.Module,
        is_main: bool = True,
        weights_fingerprint: str | None = None,
        fill: Callable[[], None] | None = None,
    ) -> ModelResult:
        """Score a model on everything that the suite asks.

        Args:
            is_main: Whether this rank needs the result, which is worked out on one alone: programs that the model wrote
                may have to be run for it. The others get none.
            weights_fingerprint: Fingerprint of the model's weights: answers that are stored for it are not asked for
                again, new ones are stored. None: neither.
            fill: Gives the model its weights; not called where every answer is stored.
        Raises:
            ScoreError: if the model's output is not finite, naming the score it belongs to.
        Collective: every rank.
        """
        known = self._known(weights_fingerprint, is_main)
        todo = [part for part in self._parts if part.name not in known]
        found: dict[str, PartAnswers] = {}
        if todo:
            if fill is not None:
                fill()
            found = self._answers(model, todo)
        if not is_main:
            return ModelResult({})
        if todo:
            self._store.put_arrays(weights_fingerprint, {part.key: found[part.name].as_arrays() for part in todo})
        return self._result({part.name: known.get(part.name) or found[part.name] for part in self._parts})

    def gold_token_logprobs(self, model: torch.nn.Module) -> np.ndarray:
        """Return the natural-log probability of every gold token of benchmarks and held-out text, float32, shape (T,).

        Where each request's tokens start among them, `gold_offsets` says.

        Raises:
            ScoreError: if a value is not finite, naming the score it belongs to.
        Collective: every rank.
        """
        return self._token_scores(model, self._gold)[0].logprobs_T

    def bits(self, model: torch.nn.Module) -> Array:
        """Return bits of every request of benchmarks and held-out text, float64, shape (R,); lower is better.

        Raises, Collective: as `gold_token_logprobs`.
        """
        return _bits(continuation_logprobs(*self._token_scores(model, self._gold)))

    def plan(self, model: torch.nn.Module) -> BatchPlan:
        """Return how all continuations of the suite are laid out for a model. Collective: every rank."""
        return self._plan([part for part in self._parts if part.sequences], can_share_contexts(model))

    def _known(self, weights_fingerprint: str | None, is_main: bool) -> dict[str, PartAnswers | None]:
        """Look up stored answers by part; ranks other than the main one, which looks, get only their names."""
        if weights_fingerprint is None or self._store.folder is None:
            return {}
        found: dict[str, PartAnswers | None] = {}
        if is_main:
            decode = {part.key: partial(PartAnswers.of_arrays, part) for part in self._parts}
            stored = self._store.arrays(weights_fingerprint, decode)
            found = {part.name: stored[part.key] for part in self._parts if part.key in stored}
            if found and len(found) != self._told:
                self._told = len(found)
                logger.info(
                    "%d of %d groups of scores are known from %s", len(found), len(self._parts), self._store.folder
                )
        names = [list(found)]
        torch.distributed.broadcast_object_list(names, src=0)
        return found if is_main else dict.fromkeys(names[0])

    def _answers(self, model: torch.nn.Module, parts: Sequence[Part]) -> dict[str, PartAnswers]:
        """Return what the model gives. Collective: every rank; all get the result."""
        logprobs_R, greedy_R = np.empty(0), np.empty(0, dtype=bool)
        if scored := [part for part in parts if part.sequences]:
            scores, plan = self._token_scores(model, scored)
            logprobs_R, greedy_R = continuation_logprobs(scores, plan), continuation_is_greedy(scores, plan)
        found, end = {}, 0
        for part in parts:
            own = slice(end, end := end + len(part.sequences))
            encoded = part.encoded or EncodedRequests()
            texts = generated_texts(model, encoded, self._tokenizer, self._batch_rows)
            found[part.name] = PartAnswers(logprobs_R[own], greedy_R[own], texts)
        return found

    def _result(self, answers: Mapping[str, PartAnswers]) -> ModelResult:
        """Return scores from answers. Collective: none."""
        bits_R = _bits(np.concatenate([*(answers[part.name].logprobs_R for part in self._gold), np.empty(0)]))
        items = likelihood_items(self.suite, bits_R)
        if self._tasks is None:
            return ModelResult(items)
        responses: dict[str, list[Any]] = {}
        for part in self._parts:
            if part.encoded is not None:
                given = answers[part.name]
                own = put_together(part.encoded, given.logprobs_R, given.greedy_R, given.texts)
                for kind, some in own.items():
                    responses.setdefault(kind, []).extend(some)
        results = self._tasks.results(responses)
        tasks = {f"task/{name}": found for name, found in results.items.items()}
        return ModelResult(items | tasks, results.lm_eval, results.samples)

    def _token_scores(self, model: torch.nn.Module, parts: Sequence[Part]) -> tuple[TokenScores, BatchPlan]:
        plan = self._plan(parts, can_share_contexts(model))
        scores = token_scores(model, plan, self._tokenizer.vocab_size)
        check_finite(scores, plan, [one for part in parts for one in part.sequences])
        return scores, plan

    def _plan(self, parts: Sequence[Part], share: bool) -> BatchPlan:
        key = tuple(part.name for part in parts), share
        if key not in self._plans:
            sequences = [one for part in parts for one in part.sequences]
            self._plans[key] = plan_batches(sequences, self._batch_tokens, share)
        return self._plans[key]


def _bits(logprobs_R: Array) -> Array:
    return -logprobs_R / float(np.log(2.0))
