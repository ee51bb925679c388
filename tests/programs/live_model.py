"""On every rank: scores of continuations and generated texts, beside what the model's plain forward pass gives.

live_model.py RUN CHECKPOINT TENSOR PIPELINE DATA BATCH_TOKENS BATCH_ROWS
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nemo_demix.artifacts import DataManifest
from nemo_demix.config import load_resolved
from nemo_demix.runtime.model import build_model, load_checkpoint
from nemo_demix.runtime.ranks import start_ranks, stop_ranks
from nemo_demix.scoring.batches import plan_batches
from nemo_demix.scoring.generate import Prompt, generate
from nemo_demix.scoring.live import can_share_contexts, continuation_is_greedy, continuation_logprobs, token_scores
from nemo_demix.scoring.suite import Request
from nemo_demix.tokenizer import Tokenizer, load_tokenizer


def main() -> None:
    run = Path(sys.argv[1])
    config = load_resolved(run / "config.yaml")
    config.parallel.tensor, config.parallel.pipeline, config.parallel.data = map(int, sys.argv[3:6])
    manifest = DataManifest.load(run / "datasets" / "manifest.json")
    ranks = start_ranks(config.parallel, config.backend)
    model = build_model(config, manifest)
    load_checkpoint(model, run / sys.argv[2])
    tokenizer = load_tokenizer(manifest.tokenizer)
    is_whole = config.parallel.pipeline == 1
    found = {
        **likelihoods(model, tokenizer, int(sys.argv[6]), is_whole),
        **generations(model, tokenizer, int(sys.argv[7]), is_whole),
    }
    if ranks.is_main:
        print(json.dumps(found), flush=True)
    stop_ranks()


def likelihoods(model: torch.nn.Module, tokenizer: Tokenizer, batch_tokens: int, is_whole: bool) -> dict[str, Any]:
    """Scores with contexts shared and not, and from all logits of each sequence."""
    requests = questions(tokenizer.vocab_size)
    own = requests[0].tokens[: requests[0].start]
    (follows,) = generate(model, [Prompt(tuple(own), 4, ())], tokenizer, 1)
    requests.append(Request("task/greedy", [*own, *follows], len(own), 1))
    found: dict[str, Any] = {"can_share": can_share_contexts(model)}
    for share in (False, True):
        plan = plan_batches(requests, batch_tokens, share)
        scores = token_scores(model, plan, tokenizer.vocab_size)
        found[f"shared_{share}".lower()] = {
            "logprobs": continuation_logprobs(scores, plan).tolist(),
            "greedy": continuation_is_greedy(scores, plan).tolist(),
            "num_tokens": plan.num_tokens,
        }
    if is_whole:
        rows = [whole(model, request, tokenizer.vocab_size) for request in requests]
        found["whole_logprobs"], found["whole_greedy"] = zip(*rows, strict=True)
    return found


def questions(vocab_size: int) -> list[Request]:
    """Questions with several answers, one of a single token, one twice."""
    rng = np.random.default_rng(0)
    requests = []
    for number in range(12):
        context = rng.integers(1, vocab_size, rng.integers(1, 40)).tolist()
        answers = [rng.integers(1, vocab_size, size).tolist() for size in rng.integers(1, 12, 4)]
        answers += [[int(rng.integers(1, vocab_size))], answers[0]]
        requests += [Request(f"task/{number}", [*context, *answer], len(context), 1) for answer in answers]
    return requests


def whole(model: torch.nn.Module, request: Request, vocab_size: int) -> tuple[float, bool]:
    """The log-probability of one continuation, and whether it is greedy, from all logits of its own sequence."""
    logits = logits_of(model, request.tokens)[:, :vocab_size].double()
    tokens = torch.tensor([request.tokens])
    logprobs, answer = logits.log_softmax(dim=-1)[request.start - 1 : -1], tokens[0, request.start :]
    return float(logprobs.gather(1, answer[:, None]).sum()), bool((logprobs.argmax(dim=1) == answer).all())


def generations(model: torch.nn.Module, tokenizer: Tokenizer, batch_rows: int, is_whole: bool) -> dict[str, Any]:
    """Texts: greedy, sampled, and sampled up to a stop."""
    rng = np.random.default_rng(0)
    prompts = [
        Prompt(tuple(rng.integers(1, tokenizer.vocab_size, size).tolist()), int(rng.integers(1, 24)), ())
        for size in rng.integers(1, 30, 11)
    ]
    sampled = [
        replace(prompt, temperature=0.8, top_p=0.9, top_k=50, seed=place) for place, prompt in enumerate(prompts)
    ]
    texts = generate(model, sampled, tokenizer, batch_rows)
    stop = tokenizer.decode(texts[5][4:5])
    stopped = generate(model, [replace(prompt, stop=(stop,)) for prompt in sampled], tokenizer, batch_rows)
    found = {
        "greedy": generate(model, prompts, tokenizer, batch_rows),
        "sampled": texts,
        "stopped": stopped,
        "stopped_text": [tokenizer.decode(tokens) for tokens in stopped],
        "stop": stop,
    }
    if is_whole:
        found["plain"] = [plain(model, prompt, tokenizer) for prompt in prompts]
    return found


def plain(model: torch.nn.Module, prompt: Prompt, tokenizer: Tokenizer) -> list[int]:
    """Greedy decoding, the whole sequence anew for every token."""
    tokens = list(prompt.tokens)
    while len(tokens) < len(prompt.tokens) + prompt.max_new_tokens:
        token = int(logits_of(model, tokens)[-1, : tokenizer.vocab_size].argmax())
        if token == tokenizer.eos_id:
            break
        tokens.append(token)
    return tokens[len(prompt.tokens) :]


def logits_of(model: torch.nn.Module, tokens: list[int]) -> torch.Tensor:
    """All logits of a sequence, (S, V)."""
    from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region

    with torch.no_grad():
        logits = model(torch.tensor([tokens]), torch.arange(len(tokens))[None], None)
    return gather_from_tensor_model_parallel_region(logits)[0]  # type: ignore[no-any-return]


main()
