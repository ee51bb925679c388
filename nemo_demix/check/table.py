"""What was understood of a configuration, as tables: read before anything is spent."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nemo_demix.artifacts import ModelRecord, load_record
from nemo_demix.check.places import checkpoints_to_come
from nemo_demix.config import DatasetConfig, DemixConfig, SourceConfig
from nemo_demix.config.overrides import stage_config
from nemo_demix.datasets.files import size_of
from nemo_demix.datasets.sources import source_files, source_kind
from nemo_demix.memory import GIB
from nemo_demix.memory_check import known_memory, known_shape
from nemo_demix.search.baselines import final_names
from nemo_demix.search.imported import read_problem
from nemo_demix.search.imported_table import print_imported
from nemo_demix.search.strategies import strategy_of
from nemo_demix.training.jobs import component_blend

_SHOWN_SOURCES = 3


def print_understood(config: DemixConfig, console: Console | None = None) -> None:
    """Print every dataset with its sources, then the model, the tokens of every stage, and memory and time where known.

    Args:
        config: A configuration in which `mistakes` found nothing.
    """
    console = console or Console(width=118)
    console.print(_datasets(config))
    console.print(_run(config))
    console.print(_stages(config))
    if config.search.imported.scores is not None:
        print_imported(read_problem(config), console)


def _datasets(config: DemixConfig) -> Table:
    table = Table(title=f"{config.name}: what is mixed", title_justify="left")
    for heading in ("dataset", "capability", "sources", "files", "size", "cap", "general in its model"):
        table.add_column(heading, justify="right" if heading in ("files", "size", "cap") else "left")
    for name, dataset in config.datasets.items():
        files, size = _extent(dataset, f"datasets.{name}")
        share = component_blend(config, name).get(config.components.general, 0.0)
        sources = [_source(source) for source in dataset.sources[:_SHOWN_SOURCES]]
        more = len(dataset.sources) - len(sources)
        table.add_row(
            name,
            dataset.capability,
            escape("\n".join([*sources, f"and {more} more"] if more > 0 else sources)),
            files,
            size,
            "-" if dataset.max_bytes is None else _bytes(dataset.max_bytes),
            f"{share:.0%}",
        )
    return table


def _source(source: SourceConfig) -> str:
    kind = source_kind(source, "source")
    field = f" [{source.text_field}]" if kind == "path" and not str(source.path).endswith(".txt") else ""
    suffixes = f" [{' '.join(source.code_suffixes)}]" if kind == "code" else ""
    return f"{kind}: {getattr(source, kind)}{field}{suffixes}"


def _extent(dataset: DatasetConfig, key: str) -> tuple[str, str]:
    """Return files and bytes of a dataset; those of packages are not counted."""
    count, total = 0, 0
    for number, source in enumerate(dataset.sources):
        kind = source_kind(source, f"{key}.sources[{number}]")
        if kind == "registry":
            return "", "in a package"
        if kind == "megatron":
            paths = [f"{source.megatron}{suffix}" for suffix in (".bin", ".idx")]
        else:
            paths = source_files(source, f"{key}.sources[{number}]")
        count += len(paths)
        total += sum(size_of(path) for path in paths)
    return f"{count:,}", _bytes(total)


def _run(config: DemixConfig) -> Table:
    shape = known_shape(config)
    size = f"{shape.num_parameters:,} parameters" if shape else "size not known before `nemo-demix doctor` asked NeMo"
    tokenizer = config.tokenizer
    made = (
        f"{tokenizer.vocab_size:,} tokens, of the datasets' text" if tokenizer.kind == "train_bpe" else tokenizer.path
    )
    parallel, search = config.parallel, config.search
    scored = [len(part) for part in (config.suite.benchmarks, config.suite.tasks, config.suite.external)]
    table = Table(title="With", title_justify="left", show_header=False)
    rows = {
        "tokenizer": f"{tokenizer.kind}: {made}",
        "model": f"{config.model.recipe.removeprefix('nemo.collections.llm.recipes.')}, {size}",
        "ranks": f"tensor {parallel.tensor} x pipeline {parallel.pipeline} x data {parallel.data} on {parallel.nodes} "
        f"node(s), {config.train.precision}",
        "batch": f"{config.train.global_batch_size} sequences of {config.train.seq_length} tokens",
        "scored on": f"{scored[0]} benchmarks, {scored[1]} tasks, {scored[2]} external commands, held-out text: "
        f"{config.suite.heldout_tokens:,} tokens a dataset",
        "search": f"{search.strategy}, objective {search.objective}, {_num_proxies(config)} proxies by {search.proxy}",
        "written to": str(config.run_dir.absolute()),
    }
    to_come = checkpoints_to_come(config)
    if to_come is not None:
        rows["checkpoints to come"] = f"about {to_come / GIB:.1f} GiB"
    for name, value in rows.items():
        table.add_row(name, escape(value))
    return table


def _stages(config: DemixConfig) -> Table:
    memory = known_memory(config, stage_config(config, "search"))
    table = Table(title="Stages", title_justify="left")
    for heading in ("stage", "models", "tokens", "time", "memory of a rank (an estimate)"):
        table.add_column(heading, justify="right" if heading in ("models", "tokens") else "left")
    table.add_row("prepare", "", "", "", "")
    is_merged = strategy_of(config.search).mixes_components()
    finals = final_names(config)
    trained = [("base", "base", 1 if config.base.checkpoint is None else 0, config.base.num_tokens)]
    if is_merged:
        count = len(set(config.datasets) - set(config.components.checkpoints))
        trained.append(("components", "component", count, config.components.num_tokens))
    trained.append(("final", "final", len(finals), config.final.num_tokens))
    for stage, role, count, tokens in trained:
        table.add_row(
            stage, str(count), f"{count * tokens:,}", _time(config, role, count * tokens), memory.get("training", "")
        )
        if stage != "final" and stage == ("components" if is_merged else "base"):
            table.add_row(
                "search",
                "",
                f"{_num_proxies(config)} proxies",
                "",
                memory.get("search", ""),
            )
    return table


def _num_proxies(config: DemixConfig) -> int:
    return strategy_of(config.search).num_proxies(config.search)


def _time(config: DemixConfig, role: str, tokens: int) -> str:
    """Tell how long these tokens would take at the pace of this run's models of the same role, where there are any."""
    records = [
        load_record(path, ModelRecord) for path in sorted((config.run_dir / "models" / role).glob("*/record.json"))
    ]
    measured = [(one.num_tokens, one.wall_time_s) for one in records if one.wall_time_s > 0 and one.num_tokens > 0]
    if not measured or not tokens:
        return "" if not tokens else "not known: none was trained here"
    seconds = tokens * sum(took for _, took in measured) / sum(count for count, _ in measured)
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s, as those of this run took"


def _bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
