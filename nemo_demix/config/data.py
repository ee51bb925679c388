"""How text becomes candidate datasets."""

from dataclasses import dataclass, field

from omegaconf import MISSING


@dataclass
class SourceConfig:
    """One source of text; exactly one of `registry`, `path`, `code` and `megatron` is set."""

    registry: str | None = None  # a package-shipped corpus, see `nemo_demix.datasets.registry`
    path: str | None = None  # a file, glob or address of fsspec's: .txt, .jsonl, .json, packed or not, .parquet
    code: str | None = None  # a directory of source code
    megatron: str | None = None  # an existing .bin/.idx prefix, used in place
    heldout: str | None = None  # the held-out prefix that goes with `megatron`
    text_field: str = "text"  # the field of JSON lines and .parquet rows
    code_suffixes: list[str] = field(default_factory=lambda: [".py"])
    licence: str | None = None  # recorded in the manifest
    origin: str | None = None


@dataclass
class DatasetConfig:
    """A candidate dataset: what it serves and where its text comes from."""

    capability: str = MISSING  # general | math | code, or one of the user's own
    sources: list[SourceConfig] = field(default_factory=list)
    max_bytes: int | None = None  # stop after so much UTF-8 text


@dataclass
class TokenizerConfig:
    """The tokenizer, trained here or brought."""

    kind: str = MISSING  # train_bpe | huggingface | sentencepiece | tokenizers
    path: str | None = None  # a name, directory or file, for all but train_bpe
    vocab_size: int | None = None  # for train_bpe
    sample_bytes: int = 4_000_000  # text a BPE is trained on, shared equally between the datasets
    datasets: list[str] = field(default_factory=list)  # whose text a BPE is trained on; empty: all

    @property
    def huggingface_path(self) -> str | None:
        """The path of a tokenizer in Hugging Face's format; None: it is brought in none, or trained here."""
        return self.path if self.kind == "huggingface" else None


@dataclass
class PrepareConfig:
    """How text becomes candidate datasets."""

    heldout_share: float = 0.05  # of documents, by a stable hash of their text
    workers: int = 2
    overlap_ngram: int = 13
