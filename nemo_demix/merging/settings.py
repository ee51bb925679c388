"""What `merge.*` may say, by the configuration alone."""

from collections.abc import Collection, Iterator

from nemo_demix.checkpoints.store import checkpoint_path
from nemo_demix.config import DemixConfig, MergeConfig
from nemo_demix.errors import ConfigError, DemixError, found_by, near

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # torch's names, by merge.dtype


def merge_errors(config: DemixConfig) -> Iterator[DemixError]:
    """Yield errors for names that do not exist, and numbers of the wrong kind."""
    yield from setting_errors(config.merge, config.merge.components or config.datasets)


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
