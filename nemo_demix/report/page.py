"""The page of a run: all sections, rendered into one file that needs no other."""

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

import nemo_demix
from nemo_demix.artifacts import write_text
from nemo_demix.config import DemixConfig
from nemo_demix.progress import doing
from nemo_demix.report.blocks import QUIET, Cell, Section
from nemo_demix.report.records import RunRecords, read_run
from nemo_demix.report.sections.causes import effects_section, noise_section
from nemo_demix.report.sections.evidence import predictor_section, proxies_section
from nemo_demix.report.sections.inputs import inputs_section, repeat_section
from nemo_demix.report.sections.losers import losers_section, losing
from nemo_demix.report.sections.mixture import mixture_section, pareto_section, slices_section
from nemo_demix.report.sections.spending import ledger_section, progress_section
from nemo_demix.report.sections.verdict import tone, verdict
from nemo_demix.report.sections.what_if import what_if_section

logger = logging.getLogger(__name__)
NAME = "report.html"
_TEMPLATES = "report/template"
_SCRIPTS = ("page.js", "what_if.js")
# Characters that turn the direction of what follows, end lines, or are no text: shown by their numbers.
_UNSEEN = re.compile("[\u202a-\u202e\u2066-\u2069\u2028\u2029\x00-\x08\x0b-\x1f\x7f-\x9f]")


def report_stage(config: DemixConfig) -> Path:
    """Write `runs/<name>/report.html` from the run's records; returns its path.

    It is made anew each time: it takes seconds, and is the same bytes for the same records.

    Raises:
        ConfigError: if the folder holds no run.
        DemixError: if a record cannot be read.
    """
    doing(logger, "report: drawing the page")
    run = read_run(config)
    path = run.folder / NAME
    write_text(path, page(run.name, "report of a run", sections(run), tone(run)))
    logger.info("report: %s", path)
    return path


def sections(run: RunRecords) -> list[Section]:
    """Return all questions, the verdict first; those that the records do not answer yet say which command would."""
    first = verdict(run)
    return [
        replace(first, facts={**first.facts, **losing(run)}),
        mixture_section(run),
        losers_section(run),
        proxies_section(run),
        predictor_section(run),
        slices_section(run),
        pareto_section(run),
        what_if_section(run),
        effects_section(run),
        noise_section(run),
        progress_section(run),
        ledger_section(run),
        inputs_section(run),
        repeat_section(run),
    ]


def page(title: str, kind: str, sections: Sequence[Section], tone: str = QUIET) -> str:
    """Return sections as HTML. Everything but the drawings and our own style and script is escaped."""
    environment = Environment(
        loader=PackageLoader("nemo_demix", _TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["prose"] = _prose
    template = files("nemo_demix").joinpath(_TEMPLATES)
    text = environment.get_template("page.html").render(
        title=title,
        kind=kind,
        tone=tone,
        sections=[_with_drawings(section) for section in sections],
        the_cell=_cell,
        version=nemo_demix.__version__,
        style=Markup(template.joinpath("page.css").read_text(encoding="utf-8")),
        script=Markup("".join(template.joinpath(name).read_text(encoding="utf-8") for name in _SCRIPTS)),
    )
    return _UNSEEN.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text)


def _with_drawings(section: Section) -> dict[str, object]:
    figures = [{"title": one.title, "note": one.note, "svg": Markup(one.svg)} for one in section.figures]
    live = None if section.live is None else _inert(section.live)
    return {
        **vars(section),
        "figures": figures,
        "live": live,
        "facts": {what: _as_cell(one) for what, one in section.facts.items()},
    }


def _inert(value: object) -> Markup:
    """Return JSON that no name in it can end or turn into markup."""
    return Markup(
        re.sub(
            "[<>&]", lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, separators=(",", ":"), allow_nan=False)
        )
    )


def _prose(text: str) -> Markup:
    """Return text in which backticks mark commands and keys."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _as_cell(cell: Cell | str) -> Cell:
    return cell if isinstance(cell, Cell) else Cell(cell)


def _cell(cell: Cell | str, is_text: bool, is_heading: bool) -> Markup:
    """Return a cell; names stand in an element of their own, so that their direction does not spill over."""
    one = _as_cell(cell)
    classes = " ".join(filter(None, [one.tone, "" if is_text else "number"]))
    attributes = Markup(' class="{}"').format(classes) if classes else Markup("")
    if one.tone and not is_heading:
        attributes += Markup(' style="--strength: {:.2f}"').format(one.strength)
    text = Markup("<bdi>{}</bdi>").format(one.text) if is_text else escape(one.text)
    element = Markup('<th scope="row"{}>{}</th>') if is_heading else Markup("<td{}>{}</td>")
    return element.format(attributes, text)
