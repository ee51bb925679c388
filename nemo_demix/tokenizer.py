"""The tokenizer that all stages read with: one small interface over Hugging Face and SentencePiece files.

A built tokenizer is described by a plain dictionary, `info`: path, vocab_size, eos_id, kind and fingerprint. `path` is
a Hugging Face directory, or a .model file for kind `sentencepiece`. NeMo reads the same files (`nemo_tokenizer`).
"""

from pathlib import Path
from typing import Any, Protocol

from nemo_demix.errors import DatasetError


class Tokenizer(Protocol):
    """What the stages need of a tokenizer. No special tokens are added; text that spells one is read as that token."""

    vocab_size: int
    eos_id: int

    def encode(self, text: str) -> list[int]:
        """Return token ids of a text."""
        ...

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Return token ids of each text, as `encode` gives them."""
        ...

    def decode(self, ids: list[int]) -> str:
        """Return the text of token ids, special tokens spelled out."""
        ...


def load_tokenizer(info: dict[str, Any]) -> Tokenizer:
    """Return the tokenizer that `build_tokenizer` described.

    Raises:
        DatasetError: if its files are gone or damaged, or have tokens that models made with it do not know.
    """
    path = Path(info["path"])
    if not path.exists():
        raise DatasetError(
            f"{path}: expected the tokenizer, found nothing; run the prepare stage again with force=true"
        )
    try:
        if info["kind"] == "sentencepiece":
            return _SentencePiece(path, info)
        if (path / "tokenizer.json").exists():
            return _Fast(path / "tokenizer.json", info)
        return _Slow(path, info)
    except DatasetError:
        raise
    except Exception as error:  # the libraries raise plain Exception for a damaged file
        raise DatasetError(
            f"{path}: expected the tokenizer, found a damaged file ({' '.join(str(error).split())[:300]}); run the "
            "prepare stage again with force=true"
        ) from None


def nemo_tokenizer(info: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return NeMo's own tokenizer class for the same files: its dotted path and keyword arguments."""
    base = "nemo.collections.common.tokenizers"
    if info["kind"] == "sentencepiece":
        return f"{base}.sentencepiece_tokenizer.SentencePieceTokenizer", {"model_path": info["path"]}
    return f"{base}.huggingface.auto_tokenizer.AutoTokenizer", {"pretrained_model_name": info["path"]}


def load_huggingface(path: str) -> Any:
    """Return the transformers tokenizer of a folder, or of a name in the local cache or on the hub; no code of its is
    run.

    Raises:
        DatasetError: if there is none, or it is damaged or needs its own code.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)  # left open, it asks a terminal
    except Exception as error:  # the tokenizers library raises plain Exception for a damaged file
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DatasetError(
            f"tokenizer.path: {path}: expected a Hugging Face tokenizer (a folder, or a name in the local cache or on "
            f"the hub), found: {reason}"
        ) from None


def num_ids(tokenizer: Any) -> int:
    """Return the rows that an embedding needs for a transformers tokenizer: more than its length where its ids have
    gaps.
    """
    return max(tokenizer.get_vocab().values(), default=-1) + 1


class _Fast:
    """A Hugging Face directory with a tokenizer.json, read without importing transformers."""

    def __init__(self, path: Path, info: dict[str, Any]) -> None:
        from tokenizers import Tokenizer as Backend

        self._backend = Backend.from_file(str(path))
        self._backend.no_truncation()
        self._backend.no_padding()
        if (found := self._backend.get_vocab_size()) > info["vocab_size"]:
            raise DatasetError(
                f"{path}: has {found} tokens, {info['vocab_size']} when it was prepared, and models have rows for "
                "these alone: it was changed; run the prepare stage again with force=true"
            )
        self.vocab_size: int = info["vocab_size"]
        self.eos_id: int = info["eos_id"]

    def encode(self, text: str) -> list[int]:
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._backend.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: list[int]) -> str:
        return str(self._backend.decode(ids, skip_special_tokens=False))


class _Slow:
    """A Hugging Face directory that only transformers can read."""

    def __init__(self, path: Path, info: dict[str, Any]) -> None:
        self._tokenizer = load_huggingface(str(path))
        self.vocab_size: int = info["vocab_size"]
        self.eos_id: int = info["eos_id"]

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, clean_up_tokenization_spaces=False))


class _SentencePiece:
    """A .model file."""

    def __init__(self, path: Path, info: dict[str, Any]) -> None:
        import sentencepiece

        self._processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
        self.vocab_size: int = info["vocab_size"]
        self.eos_id: int = info["eos_id"]

    def encode(self, text: str) -> list[int]:
        return list(self._processor.encode(text))

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [list(ids) for ids in self._processor.encode(texts)]

    def decode(self, ids: list[int]) -> str:
        return str(self._processor.decode(ids))
