"""What `merge.*` may say, by the configuration alone."""

from collections.abc import Collection, Iterator

from nemo_demix.checkpoints.store import checkpoint_path
from nemo_demix.config import DemixConfig, MergeConfig
from nemo_demix.errors import ConfigError, DemixError, found_by, near
from nemo_demix.merging.methods import METHODS

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # torch's names, by merge.dtype


def merge_errors(config: DemixConfig) -> Iterator[DemixError]:
    """Yield errors for names that do not exist, numbers of the wrong kind, and a method that the run's own components
    will not do for.
    """
    yield from setting_errors(config.merge, config.merge.components or config.datasets)
    method, components = METHODS.get(config.merge.method), config.components
    trained = not config.merge.components and any(name not in components.checkpoints for name in config.datasets)
    if method is not None and method.uses_moments and trained and not components.save_optimizer:
        yield ConfigError(
            f"merge.method={method.name}: weighs elements by the second moments of the components' optimizers, and "
            "components.save_optimizer=false does not keep them; set it to true before components are trained, or "
            "choose another merge.method"
        )


def setting_errors(settings: MergeConfig, components: Collection[str]) -> Iterator[DemixError]:
    """Yield the same errors as `merge_errors`, where the components are known by name."""
    if settings.dtype is not None and settings.dtype not in DTYPES:
        yield ConfigError(
            f"merge.dtype={settings.dtype}: expected one of {', '.join(DTYPES)}, or null for the sources'"
            f"{near(settings.dtype, DTYPES)}"
        )
    output = settings.output
    if output is not None:
        for error in found_by(lambda: checkpoint_path(output)):
            yield type(error)(f"merge.output: {error}")
    if "base" in settings.components:
        yield ConfigError("merge.components.base: the base is not a component; set merge.base=")
    if settings.objects_from is not None and settings.objects_from not in components:
        yield ConfigError(
            f"merge.objects_from={settings.objects_from}: expected one of {', '.join(components)}"
            f"{near(settings.objects_from, components)}"
        )
