"""Write the figures of the pages from templates and the raw results: none is copied by hand.

`benchmarks/results.md.jinja` becomes docs/results.md, `faults.md.jinja` docs/faults.md, and `five_figures.md.jinja` the
README's table. There, a result is its file's summary (`merge.peak_rss_gib` is of `results/merge.json`), `rows` has the
rows of each file, `gap(arm, other, measure)` is a row of `decision.json`, `landscape_by(choice, num_proxies)` a mean
over `landscape.json`, `better(way)` rho in `better_proxies.json`, `rho(scores, proxy, capability)` one of
`fidelity.json`, and `share(strategy, dataset)` one of `strategies.json`. Figures are printed as the pages have them:

- `n(digits)`: without the zero before the point; `s(digits)`: the same, with a sign; `pct(digits)`: as a percentage.
- `ci(result, name, digits)`: `name (name_lo to name_hi)`; `cis`: with signs.

A name that no result has, or a figure that is not there, ends it. --check writes nothing, and says whether the pages
are up to date.
"""

import argparse
import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
from _provenance import REPOSITORY, RESULTS

TEMPLATES = REPOSITORY / "benchmarks"
README = REPOSITORY / "README.md"
TABLE = re.compile(r"(?<=\n)\| what \| figure \|\n(?:\|.*\n)+")  # the README's


def number(value: float, digits: int, signed: bool = False) -> str:
    """A figure as the pages print it: `.86`, `-.020`, `12.4`; a rounded zero has no sign."""
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("0.", ".", 1) if text.lstrip("+-").startswith("0.") else text


def percentage(value: float, digits: int = 0) -> str:
    """A share as a percentage."""
    return f"{100 * value:.{digits}f} %"


def interval(result: Mapping[str, Any], name: str, digits: int, signed: bool = False) -> str:
    """A figure and its 95 % interval, if there is one: a single replicate has none."""
    if result[f"{name}_lo"] is None:
        return number(result[name], digits, signed)
    low, high = (number(result[f"{name}_{end}"], digits, signed) for end in ("lo", "hi"))
    return f"{number(result[name], digits, signed)} ({low} to {high})"


def gap(rows: list[dict[str, Any]], arm: str, other: str, measure: str, only_mean: bool = False) -> str:
    """Arm minus other in `decision.json`, bits/byte, with its interval."""
    for row in rows:
        if row["kind"] == "figure" and (row["arm"], row["minus"], row["measure"]) == (arm, other, measure):
            names = ("x", "x_lo", "x_hi")
            return (
                number(row["mean"][0], 3, True)
                if only_mean
                else interval(dict(zip(names, row["mean"], strict=True)), "x", 3, True)
            )
    raise KeyError(f"decision.json: no row of {arm} minus {other}, {measure}")


def rho(rows: list[dict[str, Any]], scores: str, proxy: str, capability: str) -> str:
    """Spearman's rho of a kind of proxy with the references, in `fidelity.json`."""
    for row in rows:
        if row["kind"] == "figures" and (row["set"], row["proxy"]) == (scores, proxy) and "rho" in row:
            return number(row["rho"][capability][0], 2)
    raise KeyError(f"fidelity.json: no rho of {proxy} on {scores}")


def landscape_by(rows: list[dict[str, Any]], choice: str, num_proxies: int, truth: str | None = None) -> str:
    """The mean regret of a way of choosing, over seeds and truths, or of one truth, in `landscape.json`."""
    found = [row for row in rows if (row["choice"], row["num_proxies"]) == (choice, num_proxies)]
    regrets = [row["regret"] for row in found if truth in (None, row["truth"])]
    return number(sum(regrets) / len(regrets), 3)


def better(summary: Mapping[str, Any], way: str) -> str:
    """Rho of a way in `better_proxies.json`, on the first references and on fresh ones, where there is any."""
    studies = "num_references"  # what the name of each study's count begins with
    keys = [f"rho_{way}{key.removeprefix(studies)}" for key in summary if key.startswith(studies)]
    return ", ".join(number(summary[key], 2) for key in keys if key in summary)


def share(rows: list[dict[str, Any]], strategy: str, dataset: str) -> str:
    """The share of a dataset in the mixture that a strategy chose, in `strategies.json`."""
    for row in rows:
        if row["kind"] == "mixture" and row["strategy"] == strategy:
            return percentage(row["data_shares"][dataset])
    raise KeyError(f"strategies.json: no mixture of {strategy}")


def pages() -> dict[Path, str]:
    """What each page should be."""
    records = {path.stem: json.loads(path.read_text()) for path in RESULTS.glob("*.json")}
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True, autoescape=False
    )
    environment.filters |= {
        "n": number,
        "s": partial(number, signed=True),
        "pct": percentage,
    }
    names = {name: record["summary"] for name, record in records.items()}
    names |= {
        "ci": interval,
        "cis": partial(interval, signed=True),
        "better": partial(better, records["better_proxies"]["summary"]),
        "landscape_by": partial(landscape_by, records["landscape"]["rows"]),
        "gap": partial(gap, records["decision"]["rows"]),
        "rho": partial(rho, records["fidelity"]["rows"]),
        "share": partial(share, records["strategies"]["rows"]),
        "rows": {name: record["rows"] for name, record in records.items()},
    }
    results, faults, five = (
        environment.from_string((TEMPLATES / f"{name}.md.jinja").read_text(encoding="utf-8")).render(names)
        for name in ("results", "faults", "five_figures")
    )
    readme, count = TABLE.subn(lambda found: five, README.read_text(encoding="utf-8"))
    if count != 1:
        raise SystemExit(f"{README}: expected one table `| what | figure |`, found {count}")
    docs = REPOSITORY / "docs"
    return {docs / "results.md": results, docs / "faults.md": faults, README: readme}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--quick", action="store_true", help="accepted for uniformity")
    arguments = parser.parse_args()
    stale = {path: text for path, text in pages().items() if path.read_text(encoding="utf-8") != text}
    if arguments.check and stale:
        names = ", ".join(str(path.relative_to(REPOSITORY)) for path in stale)
        raise SystemExit(f"{names}: not what the results say; run `python benchmarks/figures.py`")
    for path, text in stale.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
