"""lm-evaluation-harness's requests as token sequences: encoded once, answered by every model.

Encoding is the harness's own convention (`TemplateLM`, and its `hf` model's): a pair is encoded whole and split after
its context's tokens; a context too long loses its left.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nemo_demix.errors import ScoreError
from nemo_demix.scoring.generate import Prompt
from nemo_demix.scoring.suite import Request
from nemo_demix.tokenizer import Tokenizer

logger = logging.getLogger(__name__)
_SAMPLING = ("temperature", "top_p", "top_k")
_GREEDY = ("do_sample", "num_beams", "repetition_penalty", "use_cache", "num_return_sequences")  # as far as they are 1


@dataclass(frozen=True)
class Encoding:
    """How text becomes tokens.

    Attributes:
        max_length: Tokens that the model reads at once.
        add_bos_token: Whether contexts begin with the end-of-text token, which parts documents in training.
        seed: Seed of samples, where a task's generation is sampled.
    """

    tokenizer: Tokenizer
    max_length: int
    add_bos_token: bool = False
    seed: int = 0

    @property
    def prefix(self) -> list[int]:
        """What every context begins with."""
        return [self.tokenizer.eos_id] if self.add_bos_token else []


@dataclass
class EncodedRequests:
    """What is to be run, and how to put answers together from it.

    Attributes:
        sequences: Continuations to score; those of `loglikelihood` requests first, then the rolling windows.
        rolling: Places of each rolling request's windows among the sequences.
        prompts, stops: The prompt and the stops of each generation request.
    """

    sequences: list[Request] = field(default_factory=list)
    num_loglikelihood: int = 0
    rolling: list[range] = field(default_factory=list)
    prompts: list[Prompt] = field(default_factory=list)
    stops: list[list[str]] = field(default_factory=list)


def encode_requests(instances: Mapping[str, Sequence[Any]], encoding: Encoding) -> EncodedRequests:
    """Encode a suite's requests.

    Args:
        instances: lm-eval's `Instance`s by request type: loglikelihood, loglikelihood_rolling, generate_until.
    Raises:
        ScoreError: if a request cannot be served: of another type, an answer longer than the model reads, or a way of
            generating that is not known here.
    """
    for kind in instances:
        if kind not in ("loglikelihood", "loglikelihood_rolling", "generate_until"):
            raise ScoreError(
                f"{instances[kind][0].task_name}: its requests are of type {kind}, which no text model serves"
            )
    found = EncodedRequests()
    _encode_pairs(found, instances.get("loglikelihood", ()), encoding)
    found.num_loglikelihood = len(found.sequences)
    _encode_rolling(found, instances.get("loglikelihood_rolling", ()), encoding)
    _encode_prompts(found, instances.get("generate_until", ()), encoding)
    return found


def _encode_pairs(found: EncodedRequests, instances: Sequence[Any], encoding: Encoding) -> None:
    tokenizer = encoding.tokenizer
    pairs = []
    for instance in instances:
        context, continuation = instance.args[:2]
        spaces = len(context) - len(context.rstrip())
        if spaces:  # tokens mostly begin with the space before a word
            context, continuation = context[:-spaces], context[-spaces:] + continuation
        pairs.append((context, continuation))
    contexts = list(dict.fromkeys(context for context, _ in pairs))
    encoded = dict(zip(contexts, tokenizer.encode_batch(contexts), strict=True))
    wholes = tokenizer.encode_batch([context + continuation for context, continuation in pairs])
    num_cut = 0
    for instance, (context, _), whole in zip(instances, pairs, wholes, strict=True):
        context_length = len(encoded[context])
        answer = whole[context_length:]
        tokens = encoding.prefix + whole
        if len(tokens) == len(answer):  # nothing to predict the first token from
            tokens = [tokenizer.eos_id, *(answer[1:] if answer[:1] == [tokenizer.eos_id] else answer)]
            answer = tokens[1:]
        if not answer:
            raise ScoreError(f"{instance.task_name}: document {instance.doc_id} has an empty answer")
        if len(answer) > encoding.max_length:
            raise ScoreError(
                f"{instance.task_name}: document {instance.doc_id} has an answer of {len(answer)} tokens, and "
                f"suite.max_length is {encoding.max_length}; raise it as far as the model goes"
            )
        num_cut += len(tokens) > encoding.max_length + 1
        tokens = tokens[-(encoding.max_length + 1) :]
        found.sequences.append(Request(f"task/{instance.task_name}", tokens, len(tokens) - len(answer), 0))
    if num_cut:
        logger.info(
            "%d of %d contexts are longer than suite.max_length=%d and lose their left",
            num_cut,
            len(instances),
            encoding.max_length,
        )


def _encode_rolling(found: EncodedRequests, instances: Sequence[Any], encoding: Encoding) -> None:
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    texts = encoding.tokenizer.encode_batch([instance.args[0] for instance in instances])
    for instance, tokens in zip(instances, texts, strict=True):
        if not tokens:
            raise ScoreError(f"{instance.task_name}: document {instance.doc_id} is empty")
        first = len(found.sequences)
        for window in get_rolling_token_windows(tokens, encoding.tokenizer.eos_id, encoding.max_length, context_len=1):
            context, predicted = make_disjoint_window(window)
            found.sequences.append(Request(f"task/{instance.task_name}", [*context, *predicted], len(context), 0))
        found.rolling.append(range(first, len(found.sequences)))


def _encode_prompts(found: EncodedRequests, instances: Sequence[Any], encoding: Encoding) -> None:
    from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

    tokenizer = encoding.tokenizer
    encoded = tokenizer.encode_batch([instance.args[0] for instance in instances])
    end_of_text = tokenizer.decode([tokenizer.eos_id])
    for place, (instance, tokens) in enumerate(zip(instances, encoded, strict=True)):
        settings = dict(normalize_gen_kwargs(instance.args[1]))
        stops = [stop for stop in handle_stop_sequences(settings.pop("until"), eos=end_of_text) if stop]
        max_new_tokens = int(settings.pop("max_gen_toks"))
        room = encoding.max_length - max_new_tokens
        if room < 1:
            raise ScoreError(
                f"{instance.task_name}: generates up to {max_new_tokens} tokens, and suite.max_length is "
                f"{encoding.max_length}; set generation: {{max_gen_toks: ...}} of the task in suite.tasks below that, "
                "or raise suite.max_length as far as the model goes"
            )
        is_sampled = bool(settings.get("do_sample"))
        for key, value in settings.items():
            if key not in _SAMPLING and not (key in _GREEDY and value in (None, 0, 1)):
                raise ScoreError(
                    f"{instance.task_name}: generation_kwargs.{key}={value!r} is not known here; take it out by "
                    f"generation: {{{key}: null}} in suite.tasks"
                )
        tokens = (encoding.prefix + tokens)[-room:] or [tokenizer.eos_id]
        prompt = Prompt(tuple(tokens), max_new_tokens, tuple(stop for stop in stops if stop != end_of_text))
        if is_sampled:
            prompt = Prompt(
                *(prompt.tokens, prompt.max_new_tokens, prompt.stop),
                temperature=float(settings.get("temperature") or 0.0),
                top_p=float(settings.get("top_p") or 1.0),
                top_k=int(settings.get("top_k") or 0),
                seed=encoding.seed + place,
            )
        found.prompts.append(prompt)
        found.stops.append(stops)
