"""Which releases this package works with, read from files: nothing heavy is imported, and no foreign code runs.

NeMo without its LLM collection, a megatron-core that NeMo cannot train with, and the unrelated `apex` web package all
fail late and obscurely. Here they fail first, in one line.
"""

import importlib.metadata
import importlib.util
import platform
import re
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Literal

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

import nemo_demix
from nemo_demix.errors import StackError

_REPLACED = "pip uninstall apex; NVIDIA's apex is built from source (github.com/NVIDIA/apex) and is optional here"


@dataclass(frozen=True)
class Requirement:
    """A package that runs need: where it is imported from, and the range it was tested in."""

    name: str  # of the distribution
    module: str  # one that has to be there
    versions: str
    install: str
    why: str
    extra: str = "nemo"  # of ours that brings it; "": the plain installation does

    @property
    def package(self) -> str:
        """The module that is this distribution's own; `megatron` is a namespace that two share."""
        top, _, rest = self.module.partition(".")
        return f"{top}.{rest.partition('.')[0]}" if top == "megatron" else top


_COMMON = (
    Requirement("torch", "torch", ">=2.6", "pip install torch==2.13.0", "both back ends need it", "merge"),
    Requirement("psutil", "psutil", ">=5", "pip install psutil", "without it Megatron's checkpoint writer hangs", ""),
    Requirement("lightgbm", "lightgbm", ">=4", "pip install lightgbm", "the predictor is made of it", ""),
)
_NEMO = (
    Requirement(
        "nemo_toolkit",
        "nemo.collections.llm",
        ">=2.7,<3",
        "pip install 'nemo_toolkit[llm]>=2.7,<3'",
        "3.0 dropped nemo.collections.llm",
    ),
    Requirement(
        "megatron-core",
        "megatron.core",
        ">=0.15,<0.16",
        "pip install megatron-core==0.15.3",
        "NeMo 2.7 calls get_megatron_optimizer with arguments that 0.16 removed",
    ),
    Requirement(
        "nemo_run", "nemo_run", ">=0.11,<0.12", "pip install nemo_run==0.11.1", "NeMo's recipes are made of it"
    ),
)
_BRIDGE = (
    Requirement(
        "megatron-bridge",
        "megatron.bridge",
        ">=0.6,<0.7",
        "pip install megatron-bridge==0.6.2",
        "its recipes and its training loop are called experimental, and change",
        "bridge",
    ),
    Requirement(
        "megatron-core",
        "megatron.core",
        ">=0.19,<0.20",
        "pip install megatron-core==0.19.2",
        "Megatron-Bridge 0.6 is made for it",
        "bridge",
    ),
)
_FRAMEWORKS = {"nemo": _NEMO, "bridge": _BRIDGE}
_BRIDGE_PYTHON = ">=3.12,<3.13"  # as its metadata have it
# What each back end needs (`config.backend`).
REQUIREMENTS = {"nemo": (_COMMON[0], *_NEMO, *_COMMON[1:]), "bridge": (_COMMON[0], *_BRIDGE, *_COMMON[1:])}

# What a command needs beyond the plain installation; what is not named needs all of it.
EXTRA_OF = {"merge": "merge", "launch": "", "status": "", "cancel": "", "report": ""}


def locate(module: str) -> ModuleSpec | None:
    """Find where a module would be imported from, without importing it or its parents; None where it is absent."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # a module put into sys.modules by hand
        return None
    name = top
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, list(spec.submodule_search_locations))
    return spec


def installed_version(name: str, module: str) -> str | None:
    """Return the version of a package; None where it is absent or does not say.

    The `package_info.py` that NVIDIA's packages carry goes first: in their containers a source tree on PYTHONPATH may
    stand before the installed one, and then it is what gets imported.
    """
    folder = module
    while folder:
        spec = locate(f"{folder}.package_info")
        if spec is not None and spec.origin:
            found = _version_in(Path(spec.origin))
            if found is not None:
                return found
        folder = folder.rpartition(".")[0]
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def releases(backend: str) -> dict[str, str]:
    """Return versions of Python, of this package and of what runs with a back end depend on; what is not here is left
    out.
    """
    found: dict[str, str | None] = {"python": platform.python_version(), "nemo-demix": nemo_demix.__version__}
    needed = {one.name: one.module for one in REQUIREMENTS[backend]} | {"transformer-engine": "transformer_engine"}
    found |= {name: installed_version(name, module) for name, module in needed.items()}
    return {name: version for name, version in found.items() if version is not None}


def release_of(name: str) -> str:
    """Return the version of a package that results depend on, as its metadata have it.

    Raises:
        StackError: if it is not installed; it is one of those that the extra `nemo` brings.
    """
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        raise StackError(
            f"{name} is not installed, but the configuration depends on its release: pip install 'nemo-demix[nemo]'"
        ) from None


def _version_in(package_info: Path) -> str | None:
    text = package_info.read_text(encoding="utf-8")
    parts = [re.search(rf"^{key}\s*=\s*(\d+)", text, re.MULTILINE) for key in ("MAJOR", "MINOR", "PATCH")]
    return ".".join(part[1] for part in parts if part) if all(parts) else None


def within(version: str, versions: str) -> bool:
    """Return whether a version lies in a range; `0.15.0rc8` and `0.15.0+abc123` count as 0.15.0.

    Containers ship release candidates and builds of a commit; their interfaces are those of the release.
    """
    try:
        return SpecifierSet(versions).contains(Version(version).base_version)
    except InvalidVersion:
        return False


def find_apex() -> Literal["nvidia", "impostor"] | None:
    """Tell whose `apex` would be imported: NVIDIA's, the unrelated package of that name on PyPI, or none."""
    if locate("apex") is None:
        return None
    return "nvidia" if locate("apex.optimizers.fused_adam") is not None else "impostor"


_DRIVERS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # of NVIDIA, under WSL, of AMD


def has_gpu_driver() -> bool:
    """Return whether a GPU can be here at all: what says so without asking CUDA, which a fork could then not use."""
    return any(Path(driver).exists() for driver in _DRIVERS)


def installed_backend() -> str:
    """Return the back end whose framework is here; NeMo's where both are, or none is: their pins exclude each other."""
    has_bridge, has_nemo = (locate(module) is not None for module in ("megatron.bridge", "nemo.collections.llm"))
    return "bridge" if has_bridge and not has_nemo else "nemo"


def stack_problems(command: str = "a run", backend: str = "nemo") -> list[str]:
    """Return what keeps a command from starting, one line each; empty where all is well.

    Args:
        command: A command of `EXTRA_OF`; any other needs everything.
        backend: The back end that the run asks for.
    """
    extra = EXTRA_OF.get(command, backend)
    if not extra:
        return []
    requirements = REQUIREMENTS[backend]
    needed = [one for one in requirements if extra == backend or one.extra == extra]
    own = [one for one in needed if one.extra == extra]
    if all(_is_absent(one) for one in own):  # the extra was never asked for
        names = ", ".join(one.name for one in needed if _is_absent(one))
        return [f"{command} needs {names}, not installed here: pip install 'nemo-demix[{extra}]'"]
    problems = [line for requirement in needed if (line := _problem(requirement))]
    if find_apex() == "impostor":
        spec = locate("apex")
        where = spec.origin if spec is not None and spec.origin else "on sys.path"
        problems.append(
            f"apex {installed_version('apex', 'apex') or ''}".rstrip() + f" ({where}) is not NVIDIA's but an unrelated "
            f"web package, which Megatron would import: {_REPLACED}"
        )
    if problems and extra == backend and backend not in (fitting := fitting_backends()):
        problems[-1] += _who_fits(fitting)
    return problems


def fitting_backends() -> tuple[str, ...]:
    """Return the back ends whose framework is here, each package of it in a release that was tested."""
    return tuple(name for name, needed in _FRAMEWORKS.items() if not any(map(_problem, needed)))


def _who_fits(fitting: tuple[str, ...]) -> str:
    """Name the back end to take instead, as the end of an error; empty where no framework is here."""
    if fitting:
        return f"; what is installed here fits backend={fitting[0]}"
    named = {one.name: one.module for needed in _FRAMEWORKS.values() for one in needed}
    found = {name: version for name, module in named.items() if (version := installed_version(name, module))}
    if not {"nemo_toolkit", "megatron-bridge"} & set(found):
        return ""
    here = ", ".join(f"{name} {version}" for name, version in found.items())
    return f"; no back end fits what is installed here ({here}): docs/bridge.md says which container holds which"


def python_warning(backend: str) -> str | None:
    """Return what is to be said of this Python for a back end; None where all is well."""
    version = platform.python_version()
    if backend != "bridge" or within(version, _BRIDGE_PYTHON):
        return None
    return (
        f"Python {version}: Megatron-Bridge 0.6 is made for Python {_BRIDGE_PYTHON}, and nobody supports it on another"
    )


def _is_absent(requirement: Requirement) -> bool:
    return locate(requirement.package) is None and not installed_version(requirement.name, requirement.module)


def _problem(requirement: Requirement) -> str | None:
    version = installed_version(requirement.name, requirement.module)
    wanted = f"expected {requirement.name}{requirement.versions} ({requirement.why}): {requirement.install}"
    if version is None and locate(requirement.package) is None:
        return f"{requirement.name} is not installed; {wanted}"
    if locate(requirement.module) is None:
        return f"{requirement.name} {version or '(no version)'} has no {requirement.module}; {wanted}"
    if version is None:
        return f"{requirement.name} is there but does not say its version; {wanted}"
    if not within(version, requirement.versions):
        return f"{requirement.name} {version} is outside the tested range; {wanted}"
    return None


def check_stack(command: str, backend: str = "nemo") -> None:
    """Refuse an environment in which a command would fail later and less clearly.

    Raises:
        StackError: one line, naming every package that is missing, an impostor or outside the tested range.
    """
    problems = stack_problems(command, backend)
    if problems:
        raise StackError("; also: ".join(problems))
