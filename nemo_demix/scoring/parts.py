"""The parts of a suite, one a score: what a model is asked for it, and what it answered, in a form that can be kept.

Axes: R continuations of a part, N its texts.
"""

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nemo_demix.artifacts import fingerprint
from nemo_demix.mixture import Array
from nemo_demix.scoring.identity import FORMAT
from nemo_demix.scoring.requests import EncodedRequests
from nemo_demix.scoring.suite import Request


@dataclass(frozen=True, eq=False)
class Part:
    """Everything that one benchmark, held-out set or task asks of a model.

    Attributes:
        name: Name of its score.
        sequences: Continuations to score.
        encoded: How a task's answers are put together, and what it has generated. None: it is a benchmark or held-out
            set.
        vocabulary: What a token is: the tokenizer's identity.
    """

    name: str
    sequences: list[Request]
    encoded: EncodedRequests | None
    vocabulary: tuple[str, int]

    @cached_property
    def key(self) -> str:
        """Fingerprint of all that is asked; whatever suite asks it, by whatever name, the answers are the same."""
        prompts = self.encoded.prompts if self.encoded is not None else []
        stops = self.encoded.stops if self.encoded is not None else []
        lengths = [(len(one.tokens), one.start) for one in self.sequences]
        tokens = [token for one in self.sequences for token in one.tokens]
        digest = hashlib.sha256(np.array(lengths, dtype="<i8").tobytes() + np.array(tokens, dtype="<i8").tobytes())
        return fingerprint(
            format=FORMAT, vocabulary=self.vocabulary, sequences=digest.hexdigest(), prompts=prompts, stops=stops
        )


@dataclass(frozen=True, eq=False)
class PartAnswers:
    """What a model answered.

    Attributes:
        logprobs_R: Natural-log probability of each continuation, float64, shape (R,).
        greedy_R: Whether greedy decoding would give it, bool, shape (R,).
        texts: Generated texts, cut at their first stop.
    """

    logprobs_R: Array
    greedy_R: np.ndarray
    texts: list[str]

    def as_arrays(self) -> dict[str, np.ndarray]:
        """Turn it into arrays, for a file that holds nothing else.

        Returns:
            `logprobs` and `greedy`, shape (R,); `texts`, their UTF-8 bytes one after the other, uint8; and `starts`,
            where each starts and the last ends, int64, shape (texts + 1,).
        """
        data = [text.encode("utf-8", "surrogatepass") for text in self.texts]
        starts_N1 = np.concatenate([[0], np.cumsum([len(one) for one in data])]).astype(np.int64)
        found = {"logprobs": self.logprobs_R, "greedy": self.greedy_R}
        return found | {"texts": np.frombuffer(b"".join(data), dtype=np.uint8), "starts": starts_N1}

    @classmethod
    def of_arrays(cls, part: Part, arrays: Mapping[str, np.ndarray]) -> "PartAnswers":
        """Read what `as_arrays` gave, arrays of those shapes.

        Raises:
            ValueError, KeyError: if these are no answers to the part.
        """
        data, starts_N1 = arrays["texts"].tobytes(), arrays["starts"]
        texts = [
            data[first:last].decode("utf-8", "surrogatepass") for first, last in itertools.pairwise(starts_N1.tolist())
        ]
        found = cls(arrays["logprobs"], arrays["greedy"], texts)
        expected = len(part.sequences), 0 if part.encoded is None else len(part.encoded.prompts)
        if (len(found.logprobs_R), len(found.texts)) != expected or len(found.greedy_R) != expected[0]:
            raise ValueError(f"expected {expected[0]} continuations and {expected[1]} texts")
        if found.logprobs_R.dtype != np.float64 or not np.isfinite(found.logprobs_R).all():
            raise ValueError("expected finite log-probabilities")
        return found
