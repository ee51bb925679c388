"""What a task's score depends on besides the model, known without building anything."""

from collections.abc import Collection
from dataclasses import asdict

from nemo_demix.artifacts import DataManifest, fingerprint
from nemo_demix.config import SuiteConfig, TaskConfig
from nemo_demix.stack import release_of

REVISION = 1  # raised whenever responses to the same requests come to other scores
_PACKAGES = ("lm_eval", "math-verify", "sympy", "latex2sympy2_extended")
_NOT_OF_THE_SCORE = ("capability", "use", "weight", "data")


def task_fingerprints(
    config: SuiteConfig, manifest: DataManifest, uses: Collection[str] | None = None
) -> dict[str, str]:
    """Fingerprint all that can change a task's score besides the model and its tokenizer, by task key.

    These are its documents, its definition and shots (by the versions of the packages they are in, or by the file's
    content), its settings, the seed of its sample, and how programs are run.

    Args:
        uses: Uses of the tasks to include; None: all.
    """
    return {
        key: fingerprint(
            revision=REVISION,
            versions={name: release_of(name) for name in _PACKAGES},
            definition=manifest.tasks[key].source.get("definition") if key in manifest.tasks else None,
            documents=manifest.tasks[key].sha256 if key in manifest.tasks else None,
            settings={name: value for name, value in asdict(task).items() if name not in _NOT_OF_THE_SCORE},
            seed=config.seed if task.limit is not None else None,
            code=_code_settings(config) if _runs_code(manifest, key) else None,
            bos=config.add_bos_token,
        )
        for key, task in selected(config, uses).items()
    }


def _code_settings(config: SuiteConfig) -> list[float]:
    return [config.code.wall_s, config.code.memory_mib]


def _runs_code(manifest: DataManifest, key: str) -> bool:
    return key in manifest.tasks and bool(manifest.tasks[key].source.get("runs_code"))


def selected(config: SuiteConfig, uses: Collection[str] | None) -> dict[str, TaskConfig]:
    """Return the tasks of these uses; None: all."""
    return {key: task for key, task in config.tasks.items() if uses is None or task.use in uses}
