"""What preparing text costs beside bare tokenizing, at one vocabulary: a core's rate, two cores', memory, the overlap.

The text is what lies on this machine (documents of the installed packages), as one file of JSON lines. Each way runs in
a process of its own, with tokenizers kept to a thread a process:

- `bare`: `tokenizers.encode_batch` over documents in memory, a million characters at a time; nothing is written
- `loop`: one document after another, as Megatron-LM's tools/preprocess_data.py does in a worker: parse, encode, add
- `datatrove`: its tokenizer over the same file, where it is installed
- `ours_1`, `ours_2`: `prepare` with one worker and with two, the overlap with nine benchmarks counted

Rates are slopes between a small and the whole file, so start-up (imports, the benchmarks' n-grams, processes) is apart,
as `start_s`. Rates of one core are of processor time, which other work on the machine changes little; `scaling_2` is of
wall time. `overlap_share` is the overlap's processor time, alone, over all of `ours_1`'s.

Summary: `ratio_to_bare` (of `ours_1`), `scaling_2`, `overlap_share`, `peak_memory_gib` (all processes of `ours_2`), and
MB/s and tokens/s of a core for each way.
"""

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from _provenance import REPOSITORY, finish

MEGABYTES, QUICK_MEGABYTES = 200.0, 4.0
SMALL = 0.1  # of the text: the other end of each slope
VOCAB_SIZE = 16_000
BATCH_CHARS = 1 << 20
ENDINGS = (".py", ".md", ".rst", ".txt", "METADATA")
WAYS = ("bare", "loop", "datatrove", "ours_1", "ours_2")
Row = dict[str, Any]


def write_text(path: Path, megabytes: float) -> None:
    """Documents of the installed packages, each once, until there is enough."""
    packages = Path(importlib.util.find_spec("numpy").origin).parents[1]  # type: ignore[union-attr,arg-type]
    total = 0
    with open(path, "w", encoding="utf-8") as file:
        for place in sorted(packages.rglob("*")):
            if total >= megabytes * 1e6:
                return
            if place.name.endswith(ENDINGS) and place.is_file() and 200 < place.stat().st_size < 200_000:
                try:
                    text = place.read_text(encoding="utf-8")
                except UnicodeDecodeError:
                    continue
                if "\0" not in text:
                    file.write(json.dumps({"text": text}) + "\n")
                    total += len(text.encode())


def small_part(path: Path) -> Path:
    """The first lines of a file, SMALL of it."""
    small, left = path.with_name(f"small_{path.name}"), path.stat().st_size * SMALL
    with open(path, "rb") as whole, open(small, "wb") as part:
        for line in whole:
            part.write(line)
            left -= len(line)
            if left < 0:
                return small
    return small


def texts_of(path: Path) -> list[str]:
    """The documents."""
    with open(path, "rb") as file:
        return [json.loads(line)["text"] for line in file]


def batches(texts: list[str]) -> Iterator[list[str]]:
    """Documents of about BATCH_CHARS."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_CHARS:
            yield batch
            batch, size = [], 0
    yield batch


def bare(path: Path, tokenizer: Path, _: Path) -> Row:
    """Encode what is in memory."""
    from tokenizers import Tokenizer

    backend, texts = Tokenizer.from_file(str(tokenizer)), texts_of(path)
    started, used = time.perf_counter(), time.process_time()
    tokens = sum(len(one) for batch in batches(texts) for one in backend.encode_batch(batch, add_special_tokens=False))
    return {"wall_s": time.perf_counter() - started, "cpu_s": time.process_time() - used, "tokens": tokens}


def loop(path: Path, tokenizer: Path, folder: Path) -> Row:
    """One document at a time into Megatron's builder."""
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
    from tokenizers import Tokenizer

    backend, tokens = Tokenizer.from_file(str(tokenizer)), 0
    started, used = time.perf_counter(), time.process_time()
    builder = IndexedDatasetBuilder(str(folder / "loop.bin"), dtype=np.uint16)
    with open(path, "rb") as file:
        for line in file:
            ids = [*backend.encode(json.loads(line)["text"], add_special_tokens=False).ids, 0]
            builder.add_document(ids, [len(ids)])
            tokens += len(ids) - 1
    builder.finalize(str(folder / "loop.idx"))
    return {"wall_s": time.perf_counter() - started, "cpu_s": time.process_time() - used, "tokens": tokens}


def datatrove(path: Path, tokenizer: Path, folder: Path) -> Row:
    """Its DocumentTokenizer, one task."""
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    started, used = time.perf_counter(), time.process_time()
    reader = JsonlReader(str(path.parent), glob_pattern=path.name)
    writer = DocumentTokenizer(
        str(folder / "datatrove"), tokenizer_name_or_path=str(tokenizer), shuffle_documents=False
    )
    writer(reader(), rank=0, world_size=1)
    return {"wall_s": time.perf_counter() - started, "cpu_s": time.process_time() - used, "tokens": 0}


def ours(path: Path, tokenizer: Path, folder: Path, workers: int) -> Row:
    """The prepare stage, with what its workers used."""
    from nemo_demix.config import BenchmarkConfig, DatasetConfig, DemixConfig, SourceConfig, TokenizerConfig
    from nemo_demix.datasets.benchmarks import BENCHMARKS
    from nemo_demix.datasets.prepare import prepare

    config = DemixConfig(name="prepared", runs_dir=str(folder))
    config.datasets = {"text": DatasetConfig(capability="general", sources=[SourceConfig(path=str(path))])}
    config.tokenizer = TokenizerConfig(kind="tokenizers", path=str(tokenizer))
    config.suite.benchmarks = {name: BenchmarkConfig("general", registry=name) for name in BENCHMARKS}
    config.prepare.workers = workers
    started = time.perf_counter()
    record = prepare(config).datasets["text"]
    wall_s = time.perf_counter() - started
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu_s = sum(one.ru_utime + one.ru_stime for one in used)
    return {"wall_s": wall_s, "cpu_s": cpu_s, "tokens": record.num_train_tokens + record.num_heldout_tokens}


def overlap_cpu_s(path: Path) -> float:
    """The processor time of counting the overlap of all documents, alone."""
    from nemo_demix.config import BenchmarkConfig
    from nemo_demix.datasets.benchmarks import BENCHMARKS, read_items, scored_text, write_benchmark
    from nemo_demix.datasets.overlap import BenchmarkIndex, OverlapCounter

    with tempfile.TemporaryDirectory() as scratch:
        folder, texts = Path(scratch), {}
        for name in BENCHMARKS:
            record = write_benchmark(name, BenchmarkConfig("general", registry=name), folder, False)
            texts[name] = list(scored_text(read_items(Path(record.path))))
        BenchmarkIndex.build(texts, 13).save(folder)
        counter, documents = OverlapCounter(folder, 13), list(batches(texts_of(path)))
        used = time.process_time()
        for batch in documents:
            counter.add(batch)
        return time.process_time() - used


def measured(way: str, path: Path, tokenizer: Path) -> Row:
    """One way over one file, in a process of its own, watched from here."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        words = [sys.executable, __file__, "--way", way, "--text", str(path), "--tokenizer", str(tokenizer)]
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
        peak = 0
        with subprocess.Popen(
            [*words, "--folder", folder], env=environment, stdout=subprocess.PIPE, text=True
        ) as process:
            output: list[str] = []
            reader = threading.Thread(target=lambda: output.append(process.stdout.read()))  # type: ignore[union-attr]
            reader.start()
            while process.poll() is None:
                peak = max(peak, memory_of(process.pid))
                time.sleep(0.2)
            reader.join()
        if process.returncode:
            raise RuntimeError(f"{way}: exit code {process.returncode}")
    return {"way": way, "text_mb": text_mb(path), **json.loads(output[0].splitlines()[-1]), "peak_bytes": peak}


def memory_of(pid: int) -> int:
    """Resident bytes of a process and all that it started; shared pages count in each."""
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        return sum(one.memory_info().rss for one in family)
    except psutil.Error:
        return 0


def text_mb(path: Path) -> float:
    """Megabytes of text in a file."""
    return sum(len(text.encode()) for text in texts_of(path)) / 1e6


def slope(rows: list[Row], way: str, column: str) -> float:
    """Seconds a megabyte, between the small and the whole file."""
    small, whole = sorted((row for row in rows if row["way"] == way), key=lambda row: row["text_mb"])
    return float((whole[column] - small[column]) / (whole["text_mb"] - small["text_mb"]))


def summarised(rows: list[Row], ways: list[str], overlap_s_a_mb: float) -> dict[str, Any]:
    """The figures."""
    cpu = {way: slope(rows, way, "cpu_s") for way in ways}
    found: dict[str, Any] = {
        "ratio_to_bare": cpu["bare"] / cpu["ours_1"],
        "scaling_2": slope(rows, "ours_1", "wall_s") / (2 * slope(rows, "ours_2", "wall_s")),
        "overlap_share": overlap_s_a_mb / cpu["ours_1"],
        "peak_memory_gib": max(row["peak_bytes"] for row in rows if row["way"] == "ours_2") / 2**30,
    }
    for way in ways:
        whole = max((row for row in rows if row["way"] == way), key=lambda row: row["text_mb"])
        found[f"mb_s_core_{way}"] = 1 / cpu[way]
        if whole["tokens"]:
            found[f"tokens_s_core_{way}"] = whole["tokens"] / whole["text_mb"] / cpu[way]
        found[f"start_s_{way}"] = whole["cpu_s"] - whole["text_mb"] * cpu[way]
    return {name: round(value, 4) for name, value in found.items()}


def main() -> None:
    """Measure every way on both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_MEGABYTES:g} MB of text")
    parser.add_argument("--megabytes", type=float, default=MEGABYTES)
    for name in ("--way", "--text", "--tokenizer", "--folder"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        ways = {"bare": bare, "loop": loop, "datatrove": datatrove}
        places = (Path(given.text), Path(given.tokenizer), Path(given.folder))
        found = ways[given.way](*places) if given.way in ways else ours(*places, workers=int(given.way[-1]))
        print(json.dumps(found))
        return
    from nemo_demix.config import TokenizerConfig
    from nemo_demix.datasets.tokenizer_build import build_tokenizer

    sys.path.insert(0, str(REPOSITORY))
    with tempfile.TemporaryDirectory(dir=REPOSITORY / "runs" if (REPOSITORY / "runs").is_dir() else None) as scratch:
        path = Path(scratch) / "text.jsonl"
        write_text(path, QUICK_MEGABYTES if given.quick else given.megabytes)
        small = small_part(path)
        sample = texts_of(small)[::3]
        settings = TokenizerConfig(kind="train_bpe", vocab_size=VOCAB_SIZE)
        info = build_tokenizer(settings, sample, Path(scratch) / "tokenizer")
        tokenizer = Path(info["path"]) / "tokenizer.json"
        ways = [way for way in WAYS if way != "datatrove" or importlib.util.find_spec("datatrove")]
        rows = [measured(way, file, tokenizer) for way in ways for file in (small, path)]
        used = overlap_cpu_s(path)
        rows.append({"way": "overlap alone", "text_mb": text_mb(path), "cpu_s": used})
        finish("prepare", given.quick, [], rows, summarised(rows[:-1], ways, used / text_mb(path)))


if __name__ == "__main__":
    main()
