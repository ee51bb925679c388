"""Checkpoints of megatron-core 0.15 to 0.19: inspected, merged, verified, merged live, and loaded by their releases.

Two checkpoints of each release and model, as that release itself saved them (`tests/data/checkpoints/`; those of the
installed release are made here by the same script), are merged one to three. Columns of a row:

- `inspect`: the architecture that `merge inspect` reads, as one line
- `merge_max_error`: of the merge on disk against float64, over all weights; `verify`: `merge verify` finds it whole
- `live_max_error`: of the same mixture written by `LiveProxies` into a model that the *installed* release has built
- `own_loader`: the release itself, from an unpacked wheel, loads the merge into a model that it has built: the sum of
  its weights is that of float64 within `own_max_error` of it. CPU, one rank

Wheels are downloaded into --wheels, where they are not there yet. Summary: how many of each column hold.
"""

import argparse
import ast
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from _provenance import REPOSITORY, finish

from nemo_demix.checkpoints.inspect import describe
from nemo_demix.checkpoints.layouts import detect
from nemo_demix.checkpoints.reader import CheckpointReader, stored_name
from nemo_demix.errors import DemixError
from nemo_demix.merging.verify import verify

DATA = REPOSITORY / "tests/data/checkpoints"
MODELS = ("dense", "moe")
MIXTURE = {"one": 0.25, "two": 0.75}
STEPS = {"one": 10, "two": 20}
CLOSE = 1e-6  # of fp32 weights about 1
Row = dict[str, Any]


def run(words: list[str], path: str = "") -> str:
    """Run a Python program; what it printed, all warnings left out."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    if done.returncode:
        raise RuntimeError(f"{words[0]}: exit code {done.returncode}: {done.stderr[-800:]}")
    return done.stdout


def wheel(package: str, folder: Path) -> str:
    """An unpacked wheel, downloaded where it is not there yet."""
    place = folder / package
    if not place.exists():
        # From 0.17 on they ask for Python 3.12, and still have wheels for 3.11, which do what is done here.
        options = ["--no-deps", "--ignore-requires-python", "--only-binary=:all:", "--dest", str(folder)]
        run(["-m", "pip", "-q", "download", *options, package])
        name, _, release = package.partition("==")
        found = next(one for one in folder.glob("*.whl") if one.name.startswith(f"{name.replace('-', '_')}-{release}"))
        with zipfile.ZipFile(found) as archive:
            archive.extractall(place)
    return str(place)


def components(release: str, model: str, folder: Path) -> dict[str, Path]:
    """The two checkpoints that the release saved."""
    archive = DATA / f"core_{release}_{model}.tar.xz"
    if archive.exists():
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    else:
        for name, step in STEPS.items():
            run([str(DATA / "make.py"), str(folder / name), model, str(step)])
    return {name: folder / name for name in STEPS}


def merge(given: dict[str, Path], folder: Path) -> Path:
    """Merge them by the command."""
    (folder / "mixtures.json").write_text(json.dumps({"mix": MIXTURE}))
    words = ["-m", "nemo_demix", "merge", f"merge.mixtures={folder / 'mixtures.json'}", f"merge.output={folder}/merged"]
    run([*words, f"runs_dir={folder}/runs", *(f"+merge.components.{name}={path}" for name, path in given.items())])
    return folder / "merged/mix"


def expected(given: dict[str, Path]) -> dict[str, Any]:
    """The mixture in float64, by tensor."""
    readers = {name: CheckpointReader(path) for name, path in given.items()}
    return {
        tensor: sum(weight * readers[name].read_tensor(tensor).double() for name, weight in MIXTURE.items())
        for tensor in readers["one"]
    }


def live(model: str, one: str, two: str) -> None:
    """Write the mixture into a model of the installed release; prints its largest error."""
    import torch

    sys.path.insert(0, str(DATA))
    import make

    from nemo_demix.merging.live import LiveProxies
    from nemo_demix.merging.methods.linear import Linear
    from nemo_demix.runtime.model import shards

    make.set_up()
    built = make.build(model)
    given = {"one": Path(one), "two": Path(two)}
    LiveProxies(built, given, Linear()).write(MIXTURE)
    wanted, error = expected(given), 0.0
    for shard in shards(built):
        place = tuple(slice(start, start + size) for start, size in zip(shard.offsets, shard.sizes, strict=True))
        part = wanted[stored_name(shard.name, wanted)][place]
        error = max(error, float((shard.view.double().flatten() - part.flatten()).abs().max()))
    print(json.dumps({"error": error, "torch": torch.__version__}))


def grid(release: str, model: str, wheels: Path) -> Row:
    """One row."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        given = components(release, model, folder)
        shape = describe(given["one"]).architecture
        merged = merge(given, folder)
        row: Row = {"release": release, "model": model}
        row["inspect"] = f"{shape.num_layers} layers, hidden {shape.hidden_size}, vocabulary {shape.vocab_size}"
        row["inspect"] += f", {shape.num_experts} experts" if shape.num_experts else ""
        wanted, reader = expected(given), CheckpointReader(merged)
        row["merge_max_error"] = max(float((reader.read_tensor(n).double() - wanted[n]).abs().max()) for n in wanted)
        try:
            verify(merged)
            row["verify"] = True
        except DemixError as error:
            row["verify"] = str(error)
        printed = run([__file__, "--live", model, *map(str, given.values())])
        row["live_max_error"] = json.loads(printed.splitlines()[-1])["error"]
        path = "" if release == version("megatron-core") else wheel(f"megatron-core=={release}", wheels)
        if path:  # from 0.18 on it is imported
            path += os.pathsep + wheel("triton", wheels)
        step = detect(merged).weights.name.removeprefix("iter_")
        words = [str(DATA / "make.py"), str(merged), model, str(int(step)), "--load"]
        said, _, found = run(words, path).strip().splitlines()[-1].partition(" ")
        total = sum(float(tensor.sum()) for tensor in wanted.values())
        row["own_loader"] = said
        row["own_max_error"] = abs(ast.literal_eval(found)["sum"] - total) / abs(total)
        return row


def main() -> None:
    """Fill the grid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, default=Path("runs/wheels"), help="where wheels are kept")
    parser.add_argument("--live", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="the installed release alone")
    arguments = parser.parse_args()
    if arguments.live:
        live(*arguments.live)
        return
    arguments.wheels.mkdir(parents=True, exist_ok=True)
    saved = [archive.name.removesuffix(".tar.xz").split("_")[1:] for archive in sorted(DATA.glob("core_*.tar.xz"))]
    pairs = [(version("megatron-core"), model) for model in MODELS]
    pairs += [] if arguments.quick else [(release, model) for release, model in saved]
    rows = []
    for release, model in pairs:
        rows.append(grid(release, model, arguments.wheels.resolve()))
        print(rows[-1], flush=True)
    summary = {
        "num_rows": len(rows),
        "merged": sum(row["merge_max_error"] < CLOSE for row in rows),
        "verified": sum(row["verify"] is True for row in rows),
        "live": sum(row["live_max_error"] < CLOSE for row in rows),
        "own_loader": sum(row["own_loader"] == row["release"] and row["own_max_error"] < CLOSE for row in rows),
    }
    finish("core_releases", arguments.quick, [], rows, summary)


if __name__ == "__main__":
    main()
