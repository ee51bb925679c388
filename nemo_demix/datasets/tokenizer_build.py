"""Makes the tokenizer: trained here as a byte-level BPE, or brought; what it depends on goes into fingerprints."""

import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nemo_demix.artifacts import file_sha256, fingerprint
from nemo_demix.config import TokenizerConfig
from nemo_demix.errors import ConfigError, DatasetError
from nemo_demix.runtime.generation import FILE as GENERATION
from nemo_demix.tokenizer import load_huggingface, num_ids

log = logging.getLogger(__name__)

EOS = "<|endoftext|>"  # of tokenizers trained here
KINDS = ("train_bpe", "huggingface", "sentencepiece", "tokenizers")
_KNOWN_EOS = (EOS, "</s>", "<eos>", "<|end_of_text|>")
_MIN_BPE_VOCAB = 257  # every byte, and the end of a document


def build_tokenizer(config: TokenizerConfig, sample_texts: Iterable[str], out_dir: Path) -> dict[str, Any]:
    """Train a tokenizer or copy a brought one, so that `out_dir` holds all that it needs.

    Args:
        sample_texts: What `train_bpe` is trained on; not read for other kinds. The same texts give the same bytes.
        out_dir: Folder that will hold the tokenizer; replaced if it exists.
    Returns:
        info: path (absolute), vocab_size (rows that an embedding needs), eos_id, kind, and a fingerprint of the files'
            content.
    Raises:
        ConfigError: if the configuration is incomplete.
        DatasetError: if the tokenizer cannot be read, or has no end-of-document token.
    """
    check_tokenizer(config)
    out_dir = out_dir.absolute()
    if config.kind == "sentencepiece":
        return _copy_sentencepiece(config, out_dir)
    if config.kind == "huggingface":
        tokenizer = load_huggingface(str(config.path))
    elif config.kind == "tokenizers":
        tokenizer = _from_tokenizers_file(Path(str(config.path)))
    else:
        tokenizer = _train_bpe(config, sample_texts)
    if tokenizer.eos_token_id is None:
        raise DatasetError(
            f"tokenizer.path: {config.path}: expected an end-of-text token, found no eos_token; "
            f"set eos_token in its tokenizer_config.json"
        )
    _empty_folder(out_dir)
    tokenizer.save_pretrained(out_dir)
    generation = Path(str(config.path)) / GENERATION
    if config.kind == "huggingface" and generation.is_file():
        shutil.copy(generation, out_dir)  # a model's texts may end at more tokens than its tokenizer names
    return _info(config.kind, out_dir, num_ids(tokenizer), int(tokenizer.eos_token_id))


def tokenizer_identity(config: TokenizerConfig) -> dict[str, Any]:
    """Return what a tokenizer depends on beside the training sample, for fingerprints.

    Raises:
        ConfigError: if the configuration is incomplete.
        DatasetError: if a brought file is missing.
    """
    check_tokenizer(config)
    if config.kind == "train_bpe":
        return {"kind": config.kind, "vocab_size": config.vocab_size, "sample_bytes": config.sample_bytes}
    check_place(config)
    path = Path(str(config.path)).absolute()
    if path.is_file():
        return {"kind": config.kind, "sha256": file_sha256(path)}
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in {".json", ".txt", ".model", ".jinja", ".tiktoken"})
        return {"kind": config.kind, "sha256": {p.name: file_sha256(p) for p in files}}
    return {"kind": config.kind, "name": config.path}


def check_place(config: TokenizerConfig) -> None:
    """Refuse a brought tokenizer that is not where its path says; a name on the hub is asked for when it is needed.

    Raises:
        DatasetError: if there is nothing at the path.
    """
    path = Path(str(config.path)).absolute()
    is_name = config.kind == "huggingface" and not str(config.path).startswith((".", "/", "~"))
    if not path.exists() and not is_name:
        raise _absent(path, config.kind)


def check_tokenizer(config: TokenizerConfig) -> None:
    """Refuse an incomplete configuration.

    Raises:
        ConfigError: if the kind is unknown, or its path or vocabulary size is missing.
    """
    if config.kind not in KINDS:
        raise ConfigError(f"tokenizer.kind: expected one of {', '.join(KINDS)}, found {config.kind!r}")
    if config.kind != "train_bpe" and not config.path:
        raise ConfigError(f"tokenizer.path: kind {config.kind} needs one, found none; set it")
    if config.kind == "train_bpe" and (config.vocab_size is None or config.vocab_size < _MIN_BPE_VOCAB):
        raise ConfigError(
            f"tokenizer.vocab_size: train_bpe needs at least {_MIN_BPE_VOCAB} (every byte and {EOS}), "
            f"found {config.vocab_size}"
        )


def _train_bpe(config: TokenizerConfig, sample_texts: Iterable[str]) -> Any:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=[EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(sample_texts, trainer=trainer)
    if backend.get_vocab_size() < int(config.vocab_size or 0):
        log.warning(
            "tokenizer.vocab_size: %s asked for, %d found in the sample; raise sample_bytes for more",
            config.vocab_size,
            backend.get_vocab_size(),
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=EOS, clean_up_tokenization_spaces=False)


def _from_tokenizers_file(path: Path) -> Any:
    from tokenizers import Tokenizer as Backend
    from transformers import PreTrainedTokenizerFast

    if not path.is_file():
        raise _absent(path, "tokenizers")
    try:
        backend = Backend.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise DatasetError(f"tokenizer.path: {path}: expected a tokenizer.json file, found: {error}") from None
    found = [token for token in _KNOWN_EOS if backend.token_to_id(token) is not None]
    if len(found) != 1:
        raise DatasetError(
            f"tokenizer.path: {path}: expected exactly one end-of-text token among {', '.join(_KNOWN_EOS)}, found "
            f"{found or 'none'}; use kind=huggingface with a folder whose tokenizer_config.json names its eos_token"
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=found[0], clean_up_tokenization_spaces=False)


def _copy_sentencepiece(config: TokenizerConfig, out_dir: Path) -> dict[str, Any]:
    import sentencepiece

    path = Path(str(config.path))
    if not path.is_file():
        raise _absent(path, "sentencepiece")
    try:
        processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except RuntimeError as error:
        raise DatasetError(f"tokenizer.path: {path}: expected a SentencePiece .model file, found: {error}") from None
    if processor.eos_id() < 0:
        raise DatasetError(
            f"tokenizer.path: {path}: expected an end-of-text piece, found none; train the model with an eos_id"
        )
    model = path.read_bytes()
    _empty_folder(out_dir)
    copy = out_dir / "tokenizer.model"
    copy.write_bytes(model)
    return _info(config.kind, copy, processor.get_piece_size(), processor.eos_id())


def _empty_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _info(kind: str, path: Path, vocab_size: int, eos_id: int) -> dict[str, Any]:
    files = {p.name: file_sha256(p) for p in (sorted(path.iterdir()) if path.is_dir() else [path])}
    return {
        "path": str(path),
        "vocab_size": vocab_size,
        "eos_id": eos_id,
        "kind": kind,
        "fingerprint": fingerprint(files=files, vocab_size=vocab_size, eos_id=eos_id),
    }


def _absent(path: Path, kind: str) -> DatasetError:
    return DatasetError(f"tokenizer.path: {path}: expected a file for kind {kind}, found none; correct the path")
