"""`scores.jsonl`: one row a proxy, append-only, so that a search killed at any moment has lost at most one proxy.

A row belongs to its merge weights and to all that its scores depend on, part by part: the components with a weight
above 0, how they are merged, and each benchmark. So it outlives what it does not depend on: an added dataset weighs 0
in it, a dropped one that weighed 0 is not missed, and a benchmark taken out leaves the other scores as they are.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from nemo_demix.artifacts import canonical_json, fingerprint, json_value, plain, read_json, write_json
from nemo_demix.scoring.identity import JudgedScore, shares_of
from nemo_demix.scoring.scores import averaged_capabilities
from nemo_demix.search.proxy_row import ProxyRow, parse_rows, weights_key


@dataclass(frozen=True)
class ProxyIdentity:
    """What the scores of this search's proxies depend on, besides their merge weights.

    Attributes:
        kind: merge | predictions | trained.
        components: Fingerprint of each component, by name, in the search's order.
        merge: Fingerprint of how a proxy is made of components.
        score_fingerprints: Fingerprint of each score that these proxies get, by score name.
        needed: The scores that a row must have.
        uses_all: A component matters even where it weighs 0, as in every merge method but the linear one.
        averaged: Scores that count towards a capability's average, by score name.
    """

    kind: str
    components: dict[str, str]
    merge: str
    score_fingerprints: dict[str, str]
    needed: tuple[str, ...]
    uses_all: bool
    averaged: dict[str, JudgedScore] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of all of it."""
        values = plain(self)
        values["groups"] = values.pop("score_fingerprints")  # as it was first called: a new name is no other identity
        return fingerprint(identity=values)

    def row(self, stored: ProxyRow) -> ProxyRow | None:
        """Return a stored row as this search sees it, or None where it does not hold here.

        Its weights are over this search's components, in their order, and it has no score that would be another today.
        """
        weights, components = stored.merge_weights, stored.components
        # Rows without components are of releases that kept one fingerprint of everything: they hold nowhere.
        if components is None or stored.proxy != self.kind or stored.merge != self.merge:
            return None
        used = [name for name, weight in weights.items() if weight > 0]
        if (self.uses_all and components != self.components) or not set(used) <= set(self.components):
            return None
        if any(components.get(name) != self.components[name] for name in used):
            return None
        stored_as = stored.score_fingerprints
        if any(stored_as.get(name) != self.score_fingerprints[name] for name in self.needed):
            return None
        row = replace(stored, merge_weights={name: weights.get(name, 0.0) for name in self.components})
        if not stored.is_ok:
            return row
        if not set(self.needed) <= set(stored.scores):
            return None
        current = {name: stored_as.get(name) == print_ for name, print_ in self.score_fingerprints.items()}
        scores = {name: score for name, score in stored.scores.items() if current.get(name)}
        if stored.fingerprint != self.fingerprint and self.averaged:
            known = {name: scores[name] for name in self.averaged}
            row = replace(row, capabilities=averaged_capabilities(known, shares_of(self.averaged)))
        return replace(row, scores=scores)


class ScoreLog:
    """The rows of a file that hold for one identity; others' rows stay in it and are ignored.

    Rows of one set of merge weights: the latest counts.

    Args:
        path: The file; None: the rows are kept in memory alone.

    Raises:
        DemixError: if a line other than the last is not a row.
    """

    def __init__(self, path: Path | None, identity: ProxyIdentity) -> None:
        self.path = path
        self.identity = identity
        self._fingerprint = identity.fingerprint
        self._rows: dict[str, ProxyRow] = {}
        if path is not None and path.exists():
            self._read(path)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the identity."""
        return self._fingerprint

    def _read(self, path: Path) -> None:
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole != len(data):  # a row that was being written when the process was killed
            os.truncate(path, whole)
        for stored in parse_rows(data, path):
            if (row := self.identity.row(stored)) is not None:
                self._rows[stored.key] = row

    def find(self, merge_weights: Mapping[str, float]) -> ProxyRow | None:
        """Return the row of exactly these merge weights; a component left out weighs 0."""
        return self._rows.get(weights_key(merge_weights))

    def rows(self) -> list[ProxyRow]:
        """Return all rows that hold, in the order they were scored."""
        return list(self._rows.values())

    def append(self, row: ProxyRow) -> ProxyRow:
        """Add a row and make sure that it is on the disk; returns it as a later reader will find it."""
        identity = self.identity
        row = replace(
            row,
            proxy=identity.kind,
            components=identity.components,
            merge=identity.merge,
            score_fingerprints=identity.score_fingerprints,
            fingerprint=self._fingerprint,
        )
        line = canonical_json(row.to_json())
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())
        stored = identity.row(ProxyRow.from_json(json_value(line)))
        assert stored is not None, "a row holds for the identity it was written with"
        self._rows[stored.key] = stored
        return stored


def prior_points(folder: Path, search_fingerprint: str, log: ScoreLog) -> list[ProxyRow]:
    """Return the scored proxies of other configurations that hold here too: points to fit on that this search did not
    ask for.

    They are those that were scored under another identity, such as before a dataset was added. Proxies of the very
    same identity are none: the search asks for those itself where it comes to them, so that its result does not depend
    on what was searched before. The list is frozen in `<folder>/prior_points.json` before the first proxy; a search
    that was cut off and goes on reads it back, though the log holds more by then.

    Args:
        folder: The search's folder.
        search_fingerprint: Fingerprint of everything that can change the search's result.
        log: The search's log, as it is before its first proxy.
    """
    path = folder / "prior_points.json"
    # Without the log, which `force` moves away, there is nothing to go on from.
    if path.exists() and log.path is not None and log.path.exists():
        frozen = read_json(path)
        if frozen["fingerprint"] == search_fingerprint:
            return [ProxyRow.from_json(row) for row in frozen["rows"]]
    rows = [row for row in log.rows() if row.is_ok and row.fingerprint != log.fingerprint]
    write_json(path, {"fingerprint": search_fingerprint, "rows": [row.to_json() for row in rows]})
    return rows
