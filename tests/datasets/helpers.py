"""Small real inputs for the prepare stage."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nemo_demix.config import BenchmarkConfig, DatasetConfig, DemixConfig, SourceConfig, SuiteConfig, TokenizerConfig

WORDS = "the of and to a in is it you that he was for on are with as his they be at one have this from".split()


def sentence(number: int, length: int = 30) -> str:
    """Distinct prose, the same for the same number."""
    return " ".join(WORDS[(number * 7 + i * i + number // (i + 1)) % len(WORDS)] for i in range(length)) + f" {number}."


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_texts(path: Path, texts: Iterable[str]) -> Path:
    return write_rows(path, ({"text": text} for text in texts))


def make_config(runs_dir: Path, sources: dict[str, list[SourceConfig]], **datasets_keys: Any) -> DemixConfig:
    """A configuration of text datasets with a trained tokenizer and no benchmarks, for one worker."""
    config = DemixConfig(name="run", runs_dir=str(runs_dir))
    config.datasets = {
        name: DatasetConfig(capability="general", sources=given, **datasets_keys) for name, given in sources.items()
    }
    config.tokenizer = TokenizerConfig(kind="train_bpe", vocab_size=300, sample_bytes=50_000)
    config.prepare.workers = 1
    config.suite = SuiteConfig()
    return config


def with_benchmark(config: DemixConfig, name: str, path: Path) -> DemixConfig:
    config.suite.benchmarks[name] = BenchmarkConfig(capability="general", path=str(path))
    return config
