"""What a model gave on a suite, for whoever works with it: this imports no torch."""

from dataclasses import dataclass, field
from typing import Any

from nemo_demix.scoring.items import Items


@dataclass(frozen=True)
class ModelResult:
    """What one model gave on a suite.

    Attributes:
        items: Items of every score, by its name.
        lm_eval: The harness's own results of the suite's tasks; None: it has none.
        samples: The harness's records of every document, by task, where `suite.log_samples` asks for them.
    """

    items: dict[str, Items]
    lm_eval: dict[str, Any] | None = None
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
