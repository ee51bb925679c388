"""Whether what datasets are for is measured, and what is measured has a dataset."""

from collections.abc import Iterator

from nemo_demix.config import DemixConfig
from nemo_demix.errors import ConfigError, DemixError, near
from nemo_demix.scoring.identity import declared_capabilities


def capability_errors(config: DemixConfig) -> Iterator[DemixError]:
    """Yield errors for datasets of a capability that nothing measures, and scores of one that is a dataset's but for
    its spelling.
    """
    scored = declared_capabilities(config.suite)
    if not scored:
        return
    measured = set(scored.values())
    for name, dataset in config.datasets.items():
        if dataset.capability not in measured:
            yield ConfigError(
                f"datasets.{name}.capability={dataset.capability}: no benchmark, task or external score has it, so "
                f"nothing tells what the dataset is good for; expected one of {', '.join(sorted(measured))}"
                f"{near(dataset.capability, measured)}; or give the suite a benchmark of this capability"
            )
    served = {dataset.capability for dataset in config.datasets.values()}
    for key, capability in scored.items():
        if capability not in served and near(capability, served & measured):
            yield ConfigError(
                f"{key}.capability={capability}: no dataset has it; expected one of {', '.join(sorted(served))}"
                f"{near(capability, served & measured)}"
            )


def capability_warnings(config: DemixConfig) -> Iterator[str]:
    """Yield warnings of capabilities that are measured and that no dataset is for."""
    served = {dataset.capability for dataset in config.datasets.values()}
    lone: dict[str, list[str]] = {}
    for key, capability in declared_capabilities(config.suite, ("search",)).items():
        if capability not in served and not near(capability, served):
            lone.setdefault(capability, []).append(key)
    for capability, keys in lone.items():
        yield (
            f"{', '.join(keys)}: no dataset has the capability {capability}; it counts in what the search minimises "
            "all the same. Take the score out of the suite, or set its use=report"
        )
