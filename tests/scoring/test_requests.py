"""lm-eval's requests as tokens: what cannot be served is refused by its task and document."""

from types import SimpleNamespace
from typing import Any

import pytest

from nemo_demix.errors import ScoreError
from nemo_demix.scoring.requests import Encoding, encode_requests


class Bytes:
    """A tokenizer whose tokens are bytes; 0 ends a text."""

    vocab_size, eos_id = 256, 0

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode()


def encoded(kind: str, *arguments: str) -> Any:
    instance = SimpleNamespace(args=arguments, task_name="riddles", doc_id=7)
    return encode_requests({kind: [instance]}, Encoding(Bytes(), max_length=16))


@pytest.mark.parametrize(
    ("kind", "arguments", "says"),
    [
        ("loglikelihood", ("What is it?", ""), "riddles: document 7 has an empty answer"),
        ("loglikelihood", ("", ""), "riddles: document 7 has an empty answer"),
        ("loglikelihood", ("What?", "x" * 17), "riddles: document 7 has an answer of 17 tokens, and suite.max_length"),
        ("multiple_choice", ("What?",), "riddles: its requests are of type multiple_choice"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(kind: str, arguments: tuple[str, ...], says: str) -> None:
    with pytest.raises(ScoreError, match=says):
        encoded(kind, *arguments)
