"""Drawings as inline SVG: matplotlib's, in the page's own colours and fonts, so that they follow light, dark and paper.

Colours are drawn with stand-ins and then named after the page's CSS variables. Text stays text, in the page's font.
"""

import io
import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Drawing

WIDTH_IN = 5.2  # 374 points: a phone's width, so that its text needs no magnifying glass
FONT_PT = 11.5
LONGEST_LABEL = 24  # characters; the table has the whole name
SPARE = 0.25  # of a row, above and below
# Stand-in colours, as no drawing of ours has them otherwise; what each is called in the page's style.
INK, QUIET, GRID = "#010101", "#020202", "#030303"
SERIES = ("#0a0101", "#0a0202", "#0a0303", "#0a0404", "#0a0505", "#0a0606")
PAPER = "#0b0101"
_VARIABLES = {INK: "--ink", QUIET: "--quiet", GRID: "--line", PAPER: "--paper"} | {
    colour: f"--series-{number}" for number, colour in enumerate(SERIES)
}
MARKERS = ("o", "s", "D", "^", "v", "P")
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name with dollar signs is a name
    "axes.unicode_minus": True,
    "font.size": FONT_PT,
    "axes.labelsize": FONT_PT,
    "xtick.labelsize": FONT_PT,
    "ytick.labelsize": FONT_PT,
    "legend.fontsize": FONT_PT,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


@dataclass(frozen=True)
class Mark:
    """A value with its interval.

    Attributes:
        label: Label of the row.
        low: Lower end of the interval; None: it is not known, and the mark is hollow.
        is_heading: A row of its own kind, such as a capability above its benchmarks.
    """

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    is_heading: bool = False


@dataclass(frozen=True)
class Point:
    """A point with its interval in either direction; None: not known or not applicable."""

    x: float
    y: float
    name: str
    x_error: float | None = None
    y_error: float | None = None


def forest(
    figure_id: str, title: str, series: Mapping[str, Sequence[Mark]], x_label: str, zero: float | None = None
) -> str:
    """Return rows of values with intervals, one marker a series; every series has the same rows.

    Args:
        zero: Where a line stands that the intervals are held against.
    """
    rows = next(iter(series.values()))
    height = 1.0 + 0.31 * len(rows) + (0.28 * len(series) if len(series) > 1 else 0)
    with _drawing(height) as (drawing, axes):
        if zero is not None:
            axes.axvline(zero, color=QUIET, linewidth=1.2, linestyle=(0, (4, 3)))
        for place, (name, marks) in enumerate(series.items()):
            shift = 0.0 if len(series) == 1 else 0.36 * (place / (len(series) - 1) - 0.5)
            _forest_series(axes, marks, place, shift, name, zero)
        axes.set_ylim(len(rows) - 1 + 0.5 + SPARE, -0.5 - SPARE)
        axes.locator_params(axis="x", nbins=5)  # a phone has room for no more
        axes.set_yticks(range(len(rows)), [shortened(mark.label) for mark in rows])
        for tick, mark in zip(axes.get_yticklabels(), rows, strict=True):
            tick.set_fontweight("bold" if mark.is_heading else "normal")
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", linewidth=0.7)
        axes.set_xlabel(textwrap.fill(x_label, 46))
        if len(series) > 1:
            _legend(axes, len(series))
        tips = [[_tip(name, mark) for mark in marks] for name, marks in series.items()]
        return _svg(drawing, figure_id, title, tips)


def _forest_series(axes: Axes, marks: Sequence[Mark], place: int, shift: float, name: str, zero: float | None) -> None:
    colour, marker = SERIES[place % len(SERIES)], MARKERS[place % len(MARKERS)]
    for row, mark in enumerate(marks):
        if mark.low is not None and mark.high is not None:
            axes.plot([mark.low, mark.high], [row + shift] * 2, color=colour, linewidth=3.2 if mark.is_heading else 1.8,
                      solid_capstyle="butt")  # fmt: skip
        _point(
            axes,
            mark.value,
            row + shift,
            (place, row),
            is_full=_is_told_apart(mark, zero),
            size=8 if mark.is_heading else 6.5,
        )
    axes.plot([], [], marker=marker, color=colour, linestyle="none", markersize=6.5, label=shortened(name))


def _point(axes: Axes, x: float, y: float, at: tuple[int, int], is_full: bool, size: float) -> None:
    """Draw one mark of a series; it can be found in the page by its place."""
    colour, marker = SERIES[at[0] % len(SERIES)], MARKERS[at[0] % len(MARKERS)]
    axes.plot([x], [y], color=colour, marker=marker, markersize=size, markerfacecolor=colour if is_full else PAPER,
              markeredgecolor=colour, markeredgewidth=1.5, zorder=3, gid=f"mark-{at[0]}-{at[1]}")  # fmt: skip


def _is_told_apart(mark: Mark, zero: float | None) -> bool:
    """Return whether a mark is filled: its interval leaves the line out, or it has one and there is no line."""
    if mark.low is None or mark.high is None:
        return False
    return zero is None or mark.low > zero or mark.high < zero


def scatter(
    figure_id: str,
    title: str,
    series: Mapping[str, Sequence[Point]],
    labels: tuple[str, str],
    same_scale: bool = False,
    cross: tuple[float, float] | None = None,
) -> str:
    """Draw points with their intervals, as SVG.

    Args:
        labels: Labels of the axes, with units.
        same_scale: Whether both axes show the same quantity: a line of slope 1 is drawn then.
        cross: Where zero lines cross, if any.
    """
    with _drawing(4.3 + 0.28 * len(series)) as (drawing, axes):
        if cross is not None:
            axes.axvline(cross[0], color=GRID, linewidth=1)
            axes.axhline(cross[1], color=GRID, linewidth=1)
        for place, (name, points) in enumerate(series.items()):
            colour = SERIES[place % len(SERIES)]
            xs, ys = [point.x for point in points], [point.y for point in points]
            reach = [
                [error or 0.0 for error in errors]
                for errors in zip(*((p.x_error, p.y_error) for p in points), strict=True)
            ]
            axes.errorbar(
                xs, ys, xerr=reach[0], yerr=reach[1],
                fmt="none", ecolor=colour, elinewidth=1, alpha=0.55,
            )  # fmt: skip
            for number, point in enumerate(points):
                _point(axes, point.x, point.y, (place, number), is_full=True, size=6)
            axes.plot([], [], marker=MARKERS[place % len(MARKERS)], color=colour, linestyle="none", markersize=6,
                      label=shortened(name))  # fmt: skip
        if same_scale:
            low = min(axes.get_xlim()[0], axes.get_ylim()[0])
            high = max(axes.get_xlim()[1], axes.get_ylim()[1])
            axes.plot([low, high], [low, high], color=QUIET, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
            axes.set_xlim(low, high)
            axes.set_ylim(low, high)
        _finish(axes, labels, len(series))
        return _svg(drawing, figure_id, title, [[point.name for point in points] for points in series.values()])


@dataclass(frozen=True)
class Line:
    """A curve, with a band around it where `low` and `high` are given."""

    xs: Sequence[float]
    ys: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


def lines(
    figure_id: str, title: str, series: Mapping[str, Line], labels: tuple[str, str], x_mark: float | None = None
) -> str:
    """Return curves over one axis, told apart by colour and dashes.

    Args:
        x_mark: Where a line stands across, if anywhere.
    """
    dashes = ["solid", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2))]
    with _drawing(3.1 + 0.28 * -(-len(series) // 2)) as (drawing, axes):
        if x_mark is not None:
            axes.axvline(x_mark, color=QUIET, linewidth=1.2, linestyle=(0, (4, 3)))
        for place, (name, line) in enumerate(series.items()):
            colour = SERIES[place % len(SERIES)]
            if line.low is not None and line.high is not None:
                axes.fill_between(line.xs, line.low, line.high, color=colour, alpha=0.16, linewidth=0)
            axes.plot(line.xs, line.ys, color=colour, linewidth=1.7, label=shortened(name),
                      linestyle=dashes[place // len(SERIES) % len(dashes)], gid=f"line-{place}")  # fmt: skip
        _finish(axes, labels, len(series))
        return _svg(drawing, figure_id, title, [])


def _finish(axes: Axes, labels: tuple[str, str], num_series: int) -> None:
    """Draw the grid, labels of both axes, and a legend where there is more than one series."""
    axes.grid(linewidth=0.7)
    axes.set_xlabel(textwrap.fill(labels[0], 46))
    axes.set_ylabel(textwrap.fill(labels[1], 34))
    axes.locator_params(nbins=5)
    if num_series > 1:
        _legend(axes, num_series)


def shortened(name: str) -> str:
    """Return a label that fits, with its end kept: names of one family differ there."""
    name = " ".join(name.split())
    if len(name) <= LONGEST_LABEL:
        return name
    return f"{name[: LONGEST_LABEL - 9]}…{name[-8:]}"


@contextmanager
def _drawing(height_in: float) -> Iterator[tuple[Drawing, Axes]]:
    with mpl.rc_context(_SETTINGS), warnings.catch_warnings():
        # Only to measure a label: the browser draws it, with fonts of its own.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        drawing = Drawing(figsize=(WIDTH_IN, height_in), layout="constrained")
        FigureCanvasSVG(drawing)
        yield drawing, drawing.add_subplot()


def _legend(axes: Axes, count: int) -> None:
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2 if count > 1 else 1, borderaxespad=0.2, handletextpad=0.4,
        columnspacing=1.0, borderpad=0.2,
    )  # fmt: skip


def _tip(series: str, mark: Mark) -> str:
    text = f"{series}: {mark.label}: {mark.value:.4g}"
    return text if mark.low is None else f"{text} ({mark.low:.4g} to {mark.high:.4g})"


def _svg(drawing: Drawing, figure_id: str, title: str, tips: Sequence[Sequence[str]]) -> str:
    """Return the drawing as one element for an HTML page: named, with ids of its own, colours by variable, a tip a
    point.
    """
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": figure_id}):
        drawing.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in root.iter():
        for child in list(parent):
            if child.tag.endswith(("metadata", "style")):  # the page's own style says it
                parent.remove(child)
    for node in root.iter():
        _rename(node, figure_id)
    by_id = {node.get("id"): node for node in root.iter()}
    for place, names in enumerate(tips):
        for number, name in enumerate(names):
            mark = by_id[f"{figure_id}-mark-{place}-{number}"]
            mark.set("class", "mark")
            mark.set("data-mark", str(number))
            ElementTree.SubElement(mark, f"{{{_SVG}}}title").text = name
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-labelledby", f"{figure_id}-title")
    heading = ElementTree.Element(f"{{{_SVG}}}title", {"id": f"{figure_id}-title"})
    heading.text = title
    root.insert(0, heading)
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    text = ElementTree.tostring(root, encoding="unicode")
    # HTML knows its own namespaces, and `href` without one.
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text, count=2).replace("xlink:href=", "href=")
    return re.sub(r"\s*\n\s*", "\n", text)


def _rename(node: ElementTree.Element, figure_id: str) -> None:
    for key, value in list(node.attrib.items()):
        if key == "id":
            node.set(key, f"{figure_id}-{value}")
        elif key == f"{{{_XLINK}}}href":
            node.set(key, f"#{figure_id}-{value.removeprefix('#')}")
        elif key in ("style", "clip-path"):
            value = re.sub(r"url\(#", f"url(#{figure_id}-", value)
            value = re.sub(r"(?<!\()#[0-9a-f]{6}", lambda found: f"var({_VARIABLES[found[0]]})", value)
            node.set(key, re.sub(r"font-family: [^;]*; ", "", value))  # the page's font
        elif key == "transform" and value.startswith("rotate(-0 "):
            del node.attrib[key]
