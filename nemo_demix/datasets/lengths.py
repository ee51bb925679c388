"""Whether a dataset's text is long enough for one sequence, by the sizes of its files."""

from collections.abc import Iterator

from nemo_demix.config import DatasetConfig, DemixConfig
from nemo_demix.datasets.files import PACKED, size_of
from nemo_demix.datasets.sources import source_files, source_kind
from nemo_demix.errors import DatasetError, DemixError

_DENSE = (*PACKED, ".parquet")  # hold more text than bytes


def length_errors(config: DemixConfig) -> Iterator[DemixError]:
    """Yield errors for datasets with fewer bytes of text than a sequence has tokens: a token is a byte at least."""
    for name, dataset in config.datasets.items():
        size = most_text(dataset, f"datasets.{name}")
        if size is None:
            continue
        if dataset.max_bytes is not None and dataset.max_bytes <= size:
            size, what = dataset.max_bytes, f"datasets.{name}.max_bytes={dataset.max_bytes}"
        else:
            what = f"datasets.{name}: {size} bytes of text"
        if size <= config.train.seq_length:
            yield DatasetError(
                f"{what}: expected more than the train.seq_length={config.train.seq_length} tokens of a sequence; add "
                "text, or shorten the sequences"
            )


def most_text(dataset: DatasetConfig, key: str) -> int | None:
    """Return bytes of text that a dataset's files can hold at most; None where their sizes do not say."""
    total = 0
    try:
        for number, source in enumerate(dataset.sources):
            place = f"{key}.sources[{number}]"
            if source_kind(source, place) not in ("path", "code"):
                return None
            paths = source_files(source, place)
            if any(path.lower().endswith(_DENSE) for path in paths):
                return None
            total += sum(size_of(path) for path in paths)
    except DemixError:  # told by the sources' own rules
        return None
    return total if dataset.sources else None
