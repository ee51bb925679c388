"""Where the processes of a Slurm step meet."""

from pathlib import Path

from nemo_demix.ranks.peers import meeting_port


def test_the_kernel_gives_no_connection_the_port_where_a_step_meets() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(1024 < meeting_port(step) < first for step in range(0, 10_000_000, 997))
    assert meeting_port(1000) != meeting_port(1001)
