"""A page as a tree, by section."""

import re
from pathlib import Path

from lxml import html
from lxml.html import HtmlElement

KEYS = (
    "verdict mixture losers proxies predictor shape trades whatif effects noise progress cost inputs repeat"
).split()  # in the page's order


class Page:
    """What a browser would see of a file."""

    def __init__(self, path: Path) -> None:
        self.source = path.read_text(encoding="utf-8")
        self.root: HtmlElement = html.document_fromstring(
            self.source.encode(), parser=html.HTMLParser(encoding="utf-8")
        )
        self.sections: dict[str, HtmlElement] = {one.get("id"): one for one in self.root.iterfind(".//section")}

    @property
    def missing(self) -> dict[str, str]:
        """What sections without an answer say."""
        found = {key: one.find(".//p[@class='missing']") for key, one in self.sections.items()}
        return {key: one.text_content() for key, one in found.items() if one is not None}

    def text(self, key: str) -> str:
        """Of a section, with its spaces joined."""
        return " ".join(self.sections[key].text_content().split())

    def table(self, key: str, number: int = 0) -> dict[str, dict[str, str]]:
        """A section's table: by the first cell of a row, by heading."""
        table = self.sections[key].findall(".//table")[number]
        headings = [one.text_content() for one in table.iterfind("./thead/tr/th")]
        rows = {}
        for row in table.iterfind("./tbody/tr"):
            cells = [one.text_content() for one in row]
            rows[cells[headings.index("mixture") if "show" in headings else 0]] = dict(
                zip(headings, cells, strict=True)
            )
        return rows


def shown(text: str) -> float:
    """A number as the page shows it."""
    found = re.match(r"[+−]?[\d,]+(\.\d+)?", text)
    assert found, text
    return float(found[0].replace("−", "-").replace(",", ""))
