"""What a stranger who reaches the store can do: end the run with a word about it, and nothing else."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed import TCPStore

from nemo_demix.config import DemixConfig
from nemo_demix.errors import ClusterError, ConfigError
from nemo_demix.merging.peers import Peers
from nemo_demix.ranks.groups import RankGroups, StoreChannel, _Chunk, _Group
from nemo_demix.ranks.seal import VARIABLE, Seal, shared_seal
from nemo_demix.ranks.team import Team, _listen, join_team
from nemo_demix.search.proxies.groups import Reply

REPLY = ({"items": [], "lm_eval": None}, np.arange(3.0))


@dataclass
class Launch:
    """Of a launch, what the search's end of the store asks for."""

    prefix: str
    seal: Seal


@dataclass
class Ends:
    """The command's end and a rank's, over one real store, and a stranger who is connected to it too."""

    groups: RankGroups
    launch: Launch
    rank: StoreChannel
    stranger: TCPStore

    def ask(self) -> None:
        """Send a request, and let the rank read it."""
        self.groups._send(self.launch, 0, {"kind": "merge", "number": self.groups._groups[0].sent})  # type: ignore[arg-type]
        assert self.rank.next() is not None

    def reply(self, reply: Reply) -> None:
        """Let the rank reply, and the reply arrive."""
        self.rank.reply(reply)
        arrived(self.rank._store, self.key(self.rank._index))

    def forge(self, number: int, message: bytes) -> None:
        """Let the stranger put a message in a reply's place."""
        self.stranger.set(self.key(number), message)  # type: ignore[arg-type]  # bytes are taken as they are
        arrived(self.stranger, self.key(number))

    def taken(self) -> object:
        """What the command makes of a reply."""
        return self.groups._reply(self.launch, 0)  # type: ignore[arg-type]

    def key(self, number: int) -> str:
        """Of a reply."""
        return f"{self.launch.prefix}/group/0/reply/{number}"


def arrived(writer: TCPStore, key: str) -> None:
    """Wait until what was written is there for others: `set` does not, a question over the same connection does."""
    assert writer.check([key])


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ends]:
    for name in ("RANK", "WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    team = join_team()
    seal = team.seal.derived("launch/1")
    monkeypatch.setenv("MASTER_ADDR", team.address)
    monkeypatch.setenv("MASTER_PORT", str(team.store.port))
    monkeypatch.setenv("NEMO_DEMIX_WORLD", "world/1/0")
    monkeypatch.setenv(VARIABLE, seal.hexadecimal)
    rank = StoreChannel(0)
    assert VARIABLE not in os.environ  # nothing that a rank starts is told
    groups = RankGroups(DemixConfig(), "search", 1)
    groups._groups = {0: _Group(chunk=_Chunk(0, []))}
    yield Ends(groups, Launch("launch/1", seal), rank, TCPStore(team.address, team.store.port, is_master=False))
    join_team()


def test_what_a_rank_replies_is_taken_as_it_was_sent(ends: Ends) -> None:
    for _ in range(2):
        ends.ask()
        assert ends.taken() is None
        ends.reply(REPLY)
        told, array = ends.taken()  # type: ignore[misc]
        assert told == REPLY[0]
        assert array.tolist() == [0, 1, 2]
    ends.ask()
    ends.reply(({"error": "no"}, None))
    assert ends.taken() == ({"error": "no"}, None)


@pytest.mark.parametrize(
    "message",
    [b"", b"{}\n", b"0" * 32 + b"{}\n", Seal.random().close("launch/1", b"{}\n")],
    ids=["empty", "bare", "zeros", "of another secret"],
)
def test_a_forged_reply_ends_the_run(ends: Ends, message: bytes) -> None:
    ends.ask()
    ends.forge(0, message)
    with pytest.raises(ClusterError, match=r"launch/1/group/0/reply/0: a message .* no process of the run has written"):
        ends.taken()


def test_a_true_reply_does_not_pass_for_another(ends: Ends) -> None:
    ends.ask()
    ends.reply(REPLY)
    recorded = ends.stranger.get(ends.key(0))
    ends.taken()
    ends.ask()
    ends.forge(1, recorded)
    with pytest.raises(ClusterError, match="reply/1: a message"):
        ends.taken()


def test_a_reply_that_comes_twice_or_unasked_ends_the_run(ends: Ends) -> None:
    ends.ask()
    ends.reply(REPLY)
    recorded = ends.stranger.get(ends.key(0))
    ends.taken()
    ends.forge(0, recorded)
    with pytest.raises(ClusterError, match="reply/0: a reply that came twice"):
        ends.ask()
    ends.stranger.delete_key(ends.key(0))
    ends.forge(1, recorded)
    with pytest.raises(ClusterError, match="reply/1: a reply that was not asked for"):
        ends.ask()


def test_a_forged_request_is_not_served(ends: Ends) -> None:
    ends.stranger.set("launch/1/group/0/request/0", Seal.random().close("launch/1/group/0/request/0", b"null"))
    with pytest.raises(ClusterError, match="request/0: a message"):
        ends.rank.next()


def test_the_store_of_one_machine_listens_on_that_machine_alone(ends: Ends) -> None:
    listening = {c.laddr for c in psutil.Process().net_connections("inet") if c.status == psutil.CONN_LISTEN}
    assert [address.ip for address in listening if address.port == ends.stranger.port] == ["127.0.0.1"]


def test_the_store_of_a_team_listens_where_its_address_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with _listen("localhost", 0) as socket:
        assert socket.getsockname()[0] in ("127.0.0.1", "::1")
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", "2")  # whose others could not reach that
    with _listen("localhost", 0) as socket:
        assert socket.getsockname()[0] == "0.0.0.0"
    monkeypatch.delenv("SLURM_STEP_NUM_NODES")
    with _listen("192.0.2.1", 0) as socket:  # of no interface
        assert socket.getsockname()[0] == "0.0.0.0"


def test_processes_of_one_team_agree_and_others_do_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with _listen("localhost", 0) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", str(port))
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    leader = Team(Peers(0, 2))
    leader.introduce()
    agent = Team(Peers(1, 2))
    agent.introduce()
    assert len(leader.members()) == 2
    (tmp_path / "nemo-demix/team-secret").write_bytes(b"x" * 32)
    stranger = Team(Peers(1, 2))
    stranger.write("launch/1", {"config": "mine.yaml"})
    arrived(stranger.store, "launch/1")
    with pytest.raises(ClusterError, match="launch/1: a message"):
        agent.read("launch/1")


def test_a_secret_that_others_may_know_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    first = shared_seal(tmp_path, b"1").close("key", b"payload")
    path = tmp_path / "team-secret"
    assert path.stat().st_mode & 0o777 == 0o600
    assert shared_seal(tmp_path, b"1").open("key", first) == b"payload"
    with pytest.raises(ClusterError):  # of an earlier run
        shared_seal(tmp_path, b"2").open("key", first)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="only this user can read"):
        shared_seal(tmp_path, b"1")
    monkeypatch.setenv(VARIABLE, "short")
    with pytest.raises(ConfigError, match=f"{VARIABLE}: 5 characters, expected at least 32"):
        shared_seal(tmp_path, b"1")
    monkeypatch.setenv(VARIABLE, "0" * 64)
    assert shared_seal(tmp_path / "nowhere", b"1").open("key", shared_seal(tmp_path, b"1").close("key", b"")) == b""


@settings(max_examples=40)
@given(key=st.text(), other=st.text(), payload=st.binary(), flip=st.integers(0, 10**6))
def test_only_the_same_bytes_under_the_same_key_open(key: str, other: str, payload: bytes, flip: int) -> None:
    seal = Seal.random()
    message = seal.close(key, payload)
    assert seal.open(key, message) == payload
    place = flip % len(message)
    changed = message[:place] + bytes([message[place] ^ 1]) + message[place + 1 :]
    for under, bytes_ in [(key, changed), *([(other, message)] if other != key else [])]:
        with pytest.raises(ClusterError):
            seal.open(under, bytes_)
