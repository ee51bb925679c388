"""A live model's answers to encoded requests of lm-evaluation-harness."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from nemo_demix.errors import ScoreError
from nemo_demix.mixture import Array
from nemo_demix.scoring.batches import BatchPlan, plan_batches
from nemo_demix.scoring.generate import generate
from nemo_demix.scoring.live import (
    TokenScores,
    can_share_contexts,
    continuation_is_greedy,
    continuation_logprobs,
    token_scores,
)
from nemo_demix.scoring.requests import EncodedRequests
from nemo_demix.scoring.suite import Request
from nemo_demix.tokenizer import Tokenizer


def answer_requests(
    model: torch.nn.Module, requests: EncodedRequests, tokenizer: Tokenizer, batch_tokens: int, batch_rows: int
) -> dict[str, list[Any]]:
    """Return answers by request type, each in the order of the requests.

    Raises:
        ScoreError: if the model's output is not finite, naming the task.
    Collective: every rank; all get the result.
    """
    logprobs_R, greedy_R = np.empty(0), np.empty(0, dtype=bool)
    if requests.sequences:
        plan = plan_batches(requests.sequences, batch_tokens, can_share_contexts(model))
        scores = token_scores(model, plan, tokenizer.vocab_size)
        check_finite(scores, plan, requests.sequences)
        logprobs_R, greedy_R = continuation_logprobs(scores, plan), continuation_is_greedy(scores, plan)
    return put_together(requests, logprobs_R, greedy_R, generated_texts(model, requests, tokenizer, batch_rows))


def put_together(
    requests: EncodedRequests, logprobs_R: Array, greedy_R: np.ndarray, texts: Sequence[str]
) -> dict[str, list[Any]]:
    """Put answers together by request type, from what the model gave for every continuation and prompt.

    Args:
        logprobs_R: Natural-log probability of every continuation, shape (R,).
        greedy_R: Whether greedy decoding would give it, bool, shape (R,).
        texts: What was generated for every prompt.
    """
    logprobs, greedy, count = logprobs_R.tolist(), greedy_R.tolist(), requests.num_loglikelihood
    return {
        "loglikelihood": list(zip(logprobs[:count], greedy[:count], strict=True)),
        "loglikelihood_rolling": [sum(logprobs[place] for place in places) for places in requests.rolling],
        "generate_until": list(texts),
    }


def generated_texts(
    model: torch.nn.Module, requests: EncodedRequests, tokenizer: Tokenizer, batch_rows: int
) -> list[str]:
    """Return what follows each prompt, cut before its first stop. Collective: every rank; all get the result."""
    if not requests.prompts:
        return []
    texts = [tokenizer.decode(tokens) for tokens in generate(model, requests.prompts, tokenizer, batch_rows)]
    return [_cut(text, stops) for text, stops in zip(texts, requests.stops, strict=True)]


def check_finite(scores: TokenScores, plan: BatchPlan, sequences: Sequence[Request]) -> None:
    """Refuse what is no probability.

    Raises:
        ScoreError: naming the score that the first such token belongs to.
    """
    broken = np.flatnonzero(~np.isfinite(scores.logprobs_T))
    if broken.size:
        name = sequences[int(np.searchsorted(plan.offsets_R, broken[0], side="right")) - 1].score_name
        raise ScoreError(
            f"{name}: the model gives {-scores.logprobs_T[broken[0]]} nats for a token; its weights are not usable"
        )


def _cut(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.split(stop)[0]
    return text
