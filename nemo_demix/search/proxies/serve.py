"""The ranks' side of proxies: requests in, evaluations out. Imports NeMo: for ranks only."""

from typing import Protocol

from nemo_demix.errors import ScoreError
from nemo_demix.prepared import PreparedRun
from nemo_demix.runtime.ranks import Ranks
from nemo_demix.search.proxies.base import LiveModel
from nemo_demix.search.proxies.groups import Reply, Request
from nemo_demix.search.proxies.merged import ProxyMerger
from nemo_demix.search.proxies.predictions import score_component
from nemo_demix.search.proxies.trained import ProxyTrainer


class Channel(Protocol):
    """A rank's end of what a group is asked."""

    def next(self) -> Request | None:
        """Return the next request, the same on every rank of the group; None: there will be no more."""

    def reply(self, reply: Reply) -> None:
        """Answer it; on rank 0."""


def serve(run: PreparedRun, ranks: Ranks, channel: Channel) -> None:
    """Serve requests until there are no more. Collective: every rank of the group."""
    live = LiveModel(run, ranks)
    makers: dict[str, ProxyMerger | ProxyTrainer] = {}

    def answer(request: Request) -> Reply:
        kind, uses = request["kind"], request["uses"]
        if kind == "predictions":
            score_component(run, live, uses, request["component"])
            return {}, None
        if kind not in makers:
            makers[kind] = (
                ProxyMerger(run, live)
                if kind == "merge"
                else ProxyTrainer(run, sum(run.config.search.iterations), live)
            )
        if request["announce"]:
            makers[kind].announce(request["announce"])
        return makers[kind].evaluate(request["weights"], live.scorer(uses)).pack()

    while (request := channel.next()) is not None:
        try:
            reply = answer(request)
        except ScoreError as error:  # every rank finds the same; this proxy failed, the others need not
            reply = {"error": str(error)}, None
        if ranks.is_main:
            channel.reply(reply)
