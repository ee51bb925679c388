"""Metrics that are known by name: which way is better, and in which unit; and columns that are spreads of others."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

SHARE, PERCENT = "share", "%"


@dataclass(frozen=True)
class Metric:
    """What a score is.

    Attributes:
        higher_is_better: Which way; None: not known.
        unit: Unit of the values; None: not known.
        known_by: How the direction is known, for people.
    """

    higher_is_better: bool | None
    unit: str | None
    known_by: str


_KNOWN: Mapping[tuple[bool, str], str] = {
    (True, SHARE): r"acc|acc_norm|acc_mutual_info|accuracy|exact_match|em|f1|mc1|mc2|pass@\d+|pass@k",
    (True, "BLEU"): "bleu|sacrebleu",
    (True, "ROUGE"): "rouge|rouge1|rouge2|rougel|rouge_l",
    (True, "mcc"): "mcc",
    (False, "loss"): "loss|nll|cross_entropy",
    (False, "bits/byte"): "bpb|bits_per_byte",
    (False, "perplexity"): "ppl|perplexity",
    (False, "perplexity a word"): "word_perplexity",
    (False, "perplexity a byte"): "byte_perplexity",
}
# The metric is what a name ends in: `arc_easy/acc_norm`, `metric/the_pile_arxiv_val_loss`, `humaneval_pass@1`.
_ENDS = re.compile(rf"(?P<before>|.*?[_/.:@ ])(?P<metric>{'|'.join(_KNOWN.values())})", re.DOTALL)
_FILTER = re.compile(r",[^,]*$|[_/]none$")  # of lm-evaluation-harness: `acc,none`, `acc_none`
# Words before it that turn a metric round, or leave open which way it points.
_TURNED = frozenset(
    "neg negative negated minus inv inverse delta diff difference change gain improvement reduction relative".split()
)
_STDERR = re.compile(r"[_ .-](stderr|std_err|stderror|std_error|standard_error)(?=$|[,/_])", re.IGNORECASE)
_ERRORS, _SPREADS = ("se", "sem"), ("std", "stdev", "sd")


def known_metric(name: str) -> Metric | None:
    """Return what a score is by the metric that its name ends in; None where that is none we know, or something turns
    it.
    """
    found = _ENDS.fullmatch(_FILTER.sub("", name.lower().strip()))
    if found is None or found["before"].rstrip(" _").endswith("-"):
        return None
    (higher, unit) = next(kind for kind, names in _KNOWN.items() if re.fullmatch(names, found["metric"]))
    words = set(re.split(r"[^a-z0-9]+", found["before"]))
    opposite = {word for (other, _), names in _KNOWN.items() if other != higher for word in names.split("|")}
    return None if words & (_TURNED | opposite) else Metric(higher, unit, f"metric {found['metric']}")


def spreads(columns: Sequence[str]) -> tuple[dict[str, str], dict[str, None]]:
    """Return columns that say how sure other columns are.

    Returns:
        The column with the standard error of each score that has one; and all columns that are no scores but spreads.
    """
    names = set(columns)
    errors: dict[str, str] = {}
    others: dict[str, None] = {}  # in order
    for column in columns:
        base = _STDERR.sub("", column)
        is_error = base != column
        if not is_error:
            base, is_error = _short(column, names)
        if base == column:
            continue
        others[column] = None
        if is_error and base in names:
            errors.setdefault(base, column)
    return errors, others


def _short(column: str, names: Collection[str]) -> tuple[str, bool]:
    """Return `acc_se` beside `acc`: short endings count only where the score is there; and whether it is a standard
    error.
    """
    base, separator, ending = column.rpartition("_")
    kinds = {**dict.fromkeys(_ERRORS, True), **dict.fromkeys(_SPREADS, False)}
    if not separator or base not in names or ending.lower() not in kinds:
        return column, False
    return base, kinds[ending.lower()]
