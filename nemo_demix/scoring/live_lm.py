"""A live, sharded Megatron model as lm-evaluation-harness sees models: any of its tasks runs on it.

It goes wherever lm-eval takes a model, on every rank: `lm_eval.simple_evaluate(model=LiveLM(model, encoding), ...)`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.api.model import TemplateLM

from nemo_demix.errors import ScoreError
from nemo_demix.scoring.answers import answer_requests
from nemo_demix.scoring.requests import Encoding, encode_requests


class LiveLM(TemplateLM):  # type: ignore[misc]
    """lm-eval's model interface. Every rank sees all requests and gets all answers, so lm-eval sees one process.

    Args:
        model: This rank's part, in evaluation mode.
        batch_tokens: Padded tokens of one forward pass, at most.
        batch_rows: Prompts that are generated from at once, at most.
    Collective: every method that runs the model.
    """

    def __init__(
        self, model: torch.nn.Module, encoding: Encoding, batch_tokens: int = 8192, batch_rows: int = 64
    ) -> None:
        super().__init__()
        self.model, self.encoding = model, encoding
        self.batch_tokens, self.batch_rows = batch_tokens, batch_rows

    @property
    def eot_token_id(self) -> int:
        """The end-of-text token, which is also what an empty context is taken for."""
        return self.encoding.tokenizer.eos_id

    @property
    def max_length(self) -> int:
        """Tokens that the model reads at once."""
        return self.encoding.max_length

    @property
    def tokenizer_name(self) -> str:
        """The tokenizer's class, which is part of lm-eval's own cache keys."""
        return type(self.encoding.tokenizer).__name__

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Return token ids of a text."""
        return self.encoding.prefix + self.encoding.tokenizer.encode(string)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return the log-probability of each continuation, and whether greedy decoding would give it."""
        return self._answer("loglikelihood", requests)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of each whole text, in windows of the model's length."""
        return self._answer("loglikelihood_rolling", requests)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return what follows each prompt, up to its first stop."""
        return self._answer("generate_until", requests)

    def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> list[tuple[float, bool]]:
        raise ScoreError("requests are encoded all at once; call loglikelihood")

    def _answer(self, kind: str, requests: Sequence[Any]) -> list[Any]:
        encoded = encode_requests({kind: requests}, self.encoding)
        return answer_requests(self.model, encoded, self.encoding.tokenizer, self.batch_tokens, self.batch_rows)[kind]
