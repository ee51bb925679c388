"""Checkpoints in an object store, by a real server: read by ranges, written whole or not at all."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_demix.checkpoints.checksums import CHECKSUMS
from nemo_demix.checkpoints.inspect import describe
from nemo_demix.checkpoints.layouts import detect
from nemo_demix.checkpoints.reader import CheckpointReader
from nemo_demix.checkpoints.store import StorePath, checkpoint_path
from nemo_demix.errors import ConfigError, DemixError
from nemo_demix.merging.merge import MergeOptions, MergeReport, merge_into_store
from nemo_demix.merging.peers import Peers
from nemo_demix.merging.plan import MergePlan
from nemo_demix.merging.sending import send
from nemo_demix.merging.verify import verify
from tests.helpers import run_cli
from tests.hostile_checkpoints import in_common_state, in_metadata, in_object
from tests.merging.faults import contents, meaning, nothing_published, plan_of, run_merge, save_checkpoint
from tests.object_store import ACCESS, SECRET, Store

MIXTURES = {"mix": {"one": 0.25, "two": 0.75}}
SLOW_DOWN = ["503 Slow Down", "SlowDown"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """The server, and the environment in which a user reaches it."""
    pytest.importorskip("moto", reason="the S3-compatible server of these tests is moto's")
    store = Store()
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in store.environment(tmp_path_factory.mktemp("home")).items():
            monkeypatch.setenv(name, value) if value is not None else monkeypatch.delenv(name, raising=False)
        yield store
    store.close()


@pytest.fixture
def store(server: Store) -> Iterator[Store]:
    """The server; it is whole again afterwards."""
    yield server
    server.breaks()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two components with optimizer state in their shards, which is twice as large as they are."""
    folder = tmp_path_factory.mktemp("components")
    return {
        name: save_checkpoint(folder / name, seed, 2, 256, optimizer=True) for seed, name in enumerate(("one", "two"))
    }


@pytest.fixture(scope="module")
def stored(server: Store, local: dict[str, Path]) -> dict[str, str]:
    """The same in the bucket; tests must not change them."""
    return {name: server.put(path, f"run/{name}") for name, path in local.items()}


@pytest.fixture(scope="module")
def expected(local: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What they merge to."""
    output = tmp_path_factory.mktemp("expected")
    run_merge(plan_of(local, MIXTURES), output)
    return output


@pytest.fixture(scope="module")
def plan(stored: dict[str, str]) -> MergePlan:
    """The merge of what is in the bucket."""
    return plan_of(paths(stored), MIXTURES)


def paths(stored: dict[str, str]) -> dict[str, Path]:
    return {name: checkpoint_path(address) for name, address in stored.items()}


def weight_bytes(path: Path) -> int:
    return describe(path).model_bytes


def test_a_checkpoint_is_described_as_it_is_here(store: Store, local: dict[str, Path], stored: dict[str, str]) -> None:
    here = describe(local["one"]).as_json()
    there = describe(checkpoint_path(stored["one"])).as_json()
    assert there["root"] == "s3://team/run/one"
    assert there["weights"] == "s3://team/run/one/weights"
    changed = {"root": "", "weights": ""}
    assert {**there, **changed} == {**here, **changed}


def test_a_merge_reads_the_weights_alone_and_once(
    store: Store, local: dict[str, Path], stored: dict[str, str], expected: Path, tmp_path: Path
) -> None:
    with store.watched() as requests:
        run_merge(plan_of(paths(stored), MIXTURES), tmp_path / "output")
    assert meaning(tmp_path / "output") == meaning(expected)
    of_shards = sum(size for method, path, size in requests if method == "GET" and path.endswith(".distcp"))
    weights = sum(map(weight_bytes, local.values()))
    assert weights <= of_shards < 1.02 * weights
    largest = max(size for method, path, size in requests if path.endswith(".distcp"))
    assert largest < 10 << 20
    assert {method for method, _, _ in requests} == {"GET", "HEAD"}
    assert len(requests) < 500


def test_workers_and_passes_over_statistics_give_the_same(
    store: Store, local: dict[str, Path], stored: dict[str, str], tmp_path: Path
) -> None:
    one = {"base": local["one"], "method": "ties"}
    run_merge(plan_of(local, MIXTURES, **one), tmp_path / "here")
    there = {"base": checkpoint_path(stored["one"]), "method": "ties"}
    run_merge(plan_of(paths(stored), MIXTURES, **there), tmp_path / "there", workers=2)
    assert meaning(tmp_path / "there") == meaning(tmp_path / "here")


def test_verify_looks_at_both_ends(store: Store, plan: MergePlan, tmp_path: Path) -> None:
    run_merge(plan, tmp_path)
    found = verify(tmp_path / "mix")
    assert found.not_compared is None
    assert found.num_elements > 0
    address = store.put(tmp_path / "mix", "verified")
    assert verify(checkpoint_path(address)) == found
    key = next(key for key in store.keys("verified") if key.endswith(".distcp"))
    data = bytearray(store.client.get_object(Bucket="team", Key=key)["Body"].read())
    data[len(data) // 2] ^= 1
    store.client.put_object(Bucket="team", Key=key, Body=bytes(data))
    with pytest.raises(DemixError, match=r"s3://team/verified/weights/.*: its CRC-32 is"):
        verify(checkpoint_path(address))
    record = json.loads((tmp_path / "mix" / "merge.json").read_text())
    for name in ("/etc/hostname", "../../run/one/checksums.json"):
        record["files"] = {name: {"bytes": 1, "crc32": "0"}}
        store.client.put_object(Bucket="team", Key="verified/merge.json", Body=json.dumps(record).encode())
        with pytest.raises(DemixError, match="is outside of the checkpoint"):
            verify(checkpoint_path(address))


def test_a_slice_is_read_as_a_live_search_reads_it(
    store: Store, local: dict[str, Path], stored: dict[str, str]
) -> None:
    here, there = CheckpointReader(local["two"]), CheckpointReader(checkpoint_path(stored["two"]))
    assert list(here) == list(there)
    for name in here:
        assert torch.equal(here.read_tensor(name), there.read_tensor(name))


@pytest.mark.parametrize("how", [{"kind": SLOW_DOWN}, {"kind": "is cut"}], ids=["slow down", "is cut"])
def test_what_passes_is_asked_again(
    store: Store, plan: MergePlan, expected: Path, tmp_path: Path, how: dict[str, Any]
) -> None:
    store.breaks(path=".distcp", method="GET", times=1, **how)
    run_merge(plan, tmp_path)
    assert meaning(tmp_path) == meaning(expected)


def test_a_merge_that_lost_the_store_goes_on(store: Store, plan: MergePlan, expected: Path, tmp_path: Path) -> None:
    store.breaks(path="run/two/weights/__0_3", method="GET", times=99, kind=["403 Forbidden", "AccessDenied"])
    with pytest.raises(DemixError, match=r"s3://team/run/two/weights/__0_3.distcp: no rights there"):
        run_merge(plan, tmp_path)
    nothing_published(tmp_path)
    store.breaks()
    run_merge(plan, tmp_path)
    assert meaning(tmp_path) == meaning(expected)


BROKEN = {
    "no bucket": ("s3://elsewhere/run", {}, {}, r"s3://elsewhere/run: there is no such bucket"),
    "no folder": ("s3://team/nowhere", {}, {}, r"s3://team/nowhere: not found; expected a checkpoint folder"),
    "no rights": (
        "s3://team/run/one", {}, {"kind": ["403 Forbidden", "AccessDenied"], "times": 99},
        r"s3://team/run/one\S*: no rights",
    ),
    "bad keys": (
        "s3://team/run/one", {}, {"kind": ["403 Forbidden", "InvalidAccessKeyId"], "times": 99, "method": "GET"},
        r"s3://team/run/one\S*: the store does not accept the credentials",
    ),
    "no credentials": (
        "s3://team/run/one", {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, {},
        r"s3://team/run/one\S*: no credentials were found",
    ),
    "no profile of AWS": (
        "s3://team/run/one", {"AWS_PROFILE": "x"}, {}, r"s3://team/run/one\S*: no credentials were found",
    ),
    "no answer": (
        "s3://team/run/one", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, {},
        r"s3://team/run/one\S*: the connection was lost",
    ),
    "no profile": ("msc://none/run", {}, {}, r"msc://none/run: .*has no such profile"),
    "no address": ("gs://team/run", {}, {}, r"gs://team/run: expected a folder, s3://BUCKET/FOLDER, or msc://"),
    "a bucket": ("s3://team", {}, {}, r"s3://team.*expected s3://NAME/FOLDER"),
    "a way out": ("s3://team/run/../x", {}, {}, r"expected s3://NAME/FOLDER, with a plain path"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_is_said_in_one_line(
    store: Store, stored: dict[str, str], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    from multistorageclient import shortcuts

    address, environment, how, message = BROKEN[case]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(shortcuts, "_STORAGE_CLIENT_CACHE", {})  # as in a new process
    store.breaks(**how)
    with pytest.raises(DemixError, match=message) as raised:
        describe(checkpoint_path(address))
    assert len(str(raised.value).splitlines()) == 1
    assert ACCESS not in str(raised.value)


def test_commands_end_with_2_and_print_no_secret(store: Store, stored: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "mixtures.json").write_text(json.dumps(MIXTURES))
    sources = [f"+merge.components.{name}={address}" for name, address in stored.items()]
    merging = ["merge", f"runs_dir={tmp_path}/runs", f"merge.mixtures={tmp_path}/mixtures.json", *sources]
    done = run_cli(*merging, "merge.output=s3://team/by_command")
    shown = run_cli("merge", "verify", "s3://team/by_command/mix")
    assert "merged again from the sources: the same" in shown.stdout
    lost = run_cli("merge", "inspect", "s3://team/nowhere", expect=2)
    assert len(lost.stderr.strip().splitlines()) == 1
    logs = "".join(path.read_text() for path in (tmp_path / "runs").rglob("*.log"))
    assert SECRET not in "".join([done.stdout, done.stderr, shown.stdout, shown.stderr, lost.stderr, logs])


@pytest.mark.parametrize("plant", [in_metadata, in_common_state, in_object], ids=lambda plant: plant.__name__)
def test_nothing_of_a_stranger_is_run(store: Store, local: dict[str, Path], tmp_path: Path, plant: Any) -> None:
    folder = shutil.copytree(local["one"], tmp_path / "hostile")
    (folder / CHECKSUMS).unlink()
    plant(folder / "weights", tmp_path / "witness")
    address = store.put(folder, f"hostile/{plant.__name__}")
    with suppress(DemixError):  # or taken over as it is, without being opened
        run_merge(plan_of({"one": checkpoint_path(address), "two": local["two"]}, MIXTURES), tmp_path / "output")
    assert not (tmp_path / "witness").exists()


def test_links_and_odd_keys_lead_nowhere(store: Store, local: dict[str, Path], tmp_path: Path) -> None:
    address = store.put(local["one"], "linked")
    for key in ("linked/weights/", "linked/weights//x", "linked/weights/../y", "linked/."):
        store.client.put_object(Bucket="team", Key=key, Body=b"")
    assert describe(checkpoint_path(address)).files == describe(local["one"]).files
    store.client.put_object(
        Bucket="team", Key="linked/weights/common.pt", Body=b"", Metadata={"msc-symlink-target": "../../run/one/x"}
    )
    with pytest.raises(DemixError, match=r"s3://team/linked/weights/common.pt: is a link, which is not followed"):
        plan_of({"one": checkpoint_path(address), "two": local["two"]}, MIXTURES)


def test_a_source_that_is_written_again_is_refused(store: Store, local: dict[str, Path], tmp_path: Path) -> None:
    address = store.put(local["one"], "changing")
    plan = plan_of({"one": checkpoint_path(address), "two": local["two"]}, MIXTURES)
    key = "changing/weights/__0_1.distcp"
    data = store.client.get_object(Bucket="team", Key=key)["Body"].read()
    store.client.put_object(Bucket="team", Key=key, Body=data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(DemixError, match=r"s3://team/changing/weights/__0_1.distcp"):
        run_merge(plan, tmp_path)
    assert not (tmp_path / "mix").exists()


def test_no_code_takes_an_address_for_a_local_path(store: Store, stored: dict[str, str]) -> None:
    path = checkpoint_path(stored["one"])
    assert isinstance(path, StorePath)
    for use in (open, os.listdir, os.stat, Path.mkdir, Path.touch):
        with pytest.raises(DemixError, match=r"s3://team/run/one: is in an object store"):
            use(path)
    assert checkpoint_path("relative/folder") == Path("relative/folder")
    assert str(checkpoint_path(Path("s3://team/run/one"))) == "s3://team/run/one"  # pathlib has taken a slash


def test_a_profile_reaches_a_store_or_a_folder_here(
    store: Store, local: dict[str, Path], stored: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = {"type": "s3", "options": {"base_path": "team/run", "endpoint_url": store.address}}
    near = {"type": "file", "options": {"base_path": str(local["one"].parent)}}
    profiles = {"far": {"storage_provider": far}, "near": {"storage_provider": near}}
    (tmp_path / "msc.json").write_text(json.dumps({"profiles": profiles}))
    monkeypatch.setenv("MSC_CONFIG", str(tmp_path / "msc.json"))
    found = describe(checkpoint_path("msc://far/one"))
    assert (found.root, found.files) == ("msc://far/one", describe(local["one"]).files)
    assert checkpoint_path("msc://near/two") == local["two"]


def merge_to(plan: MergePlan, address: str, staging: Path, staging_gib: float = 1.0) -> MergeReport:
    output = checkpoint_path(address)
    assert isinstance(output, StorePath)
    options = MergeOptions(1, 4.0, staging_gib=staging_gib)
    return merge_into_store(plan, output, staging, options, Peers(), lambda phase, count: None)


def test_an_output_is_sent_whole_and_its_record_last(
    store: Store, plan: MergePlan, expected: Path, tmp_path: Path
) -> None:
    with store.watched() as requests:
        assert merge_to(plan, "s3://team/sent", tmp_path / "staging").merged == ("mix",)
    assert meaning(store.get("sent", tmp_path / "got")) == meaning(expected)
    written = [path for method, path, _ in requests if method == "PUT"]
    assert written[0] == "/team/sent/.sending-mix.json"
    last = ["/team/sent/mix/weights/.metadata", "/team/sent/mix/weights/metadata.json", "/team/sent/mix/merge.json"]
    assert written[-3:] == last
    assert all(path.startswith("/team/sent/") for path in written)
    assert "sent/.sending-mix.json" not in store.keys("sent")
    assert list((tmp_path / "staging").rglob("*")) == []
    with store.watched() as requests:
        assert merge_to(plan, "s3://team/sent", tmp_path / "staging").done_before == ("mix",)
    assert {method for method, _, _ in requests} == {"GET", "HEAD"}
    other = replace(plan, mixtures={"mix": {"one": 0.5, "two": 0.5}})
    with pytest.raises(DemixError, match=r"s3://team/sent/mix: was merged from other sources"):
        merge_to(other, "s3://team/sent", tmp_path / "staging")


def test_few_outputs_are_here_at_a_time(store: Store, plan: MergePlan, local: dict[str, Path], tmp_path: Path) -> None:
    three = {f"mix_{number}": {"one": number / 2, "two": 1 - number / 2} for number in range(3)}
    run_merge(plan_of(local, three), tmp_path / "here")
    plan = replace(plan, mixtures=three)
    with store.watched() as requests:
        report = merge_to(plan, "s3://team/few", tmp_path / "staging", staging_gib=2.5 * plan.output_bytes / 2**30)
    assert report.merged == tuple(three)
    assert meaning(store.get("few", tmp_path / "got")) == meaning(tmp_path / "here")
    asked = list(enumerate(requests))
    sent = [number for number, (method, path, _) in asked if method == "PUT" and path.endswith("merge.json")]
    read = [number for number, (_, path, size) in asked if "run/one" in path and size > 1 << 20]
    assert min(read) < sent[0] < sent[1] < max(read) < sent[2]  # the third is merged when two are gone
    with pytest.raises(ConfigError, match=r"merge.staging_gib=1e-06: one output takes"):
        merge_to(plan, "s3://team/none", tmp_path / "staging", staging_gib=1e-6)


@pytest.mark.parametrize("last", ["weights/__0_2.distcp", "weights/metadata.json", "merge.json"])
def test_an_interrupted_sending_never_looks_whole_and_goes_on(
    store: Store, expected: Path, tmp_path: Path, last: str
) -> None:
    name = f"cut_{last.replace('/', '_')}"
    mix = checkpoint_path(f"s3://team/{name}/mix")
    assert isinstance(mix, StorePath)
    store.breaks(method="PUT", path=f"mix/{last}", times=9, kind="hangs")
    pid = os.fork()
    if not pid:
        try:
            send(expected / "mix", mix)
        finally:
            os._exit(0)
    store.wait_until_it_hangs()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    store.breaks()
    assert f"{name}/mix/{last}" not in store.keys(name)
    with pytest.raises(DemixError, match=r"whole merge\.json"):
        verify(mix)
    if last != "merge.json":
        with pytest.raises(DemixError, match=r"cut off|expected weights/\.metadata"):
            detect(mix)
    send(expected / "mix", mix)
    assert meaning(store.get(name, tmp_path)) == meaning(expected)


def test_a_large_object_is_sent_in_parts_and_is_there_when_all_are(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"base_path": "team", "endpoint_url": store.address, "multipart_threshold": 5 << 20}
    profile = {"storage_provider": {"type": "s3", "options": {**options, "multipart_chunksize": 5 << 20}}}
    (tmp_path / "msc.json").write_text(json.dumps({"profiles": {"parts": profile}}))
    monkeypatch.setenv("MSC_CONFIG", str(tmp_path / "msc.json"))
    (tmp_path / "file").write_bytes(os.urandom(12 << 20))
    target = checkpoint_path("msc://parts/large/file")
    assert isinstance(target, StorePath)
    store.breaks(method="PUT", path="large/file", times=1, kind=["403 Forbidden", "AccessDenied"])
    with pytest.raises(DemixError, match=r"msc://parts/large/file: no rights there"):
        target.send(tmp_path / "file")
    assert store.keys("large") == []
    with store.watched() as requests:
        target.send(tmp_path / "file")
    assert [method for method, _, _ in requests] == ["POST", "PUT", "PUT", "PUT", "POST"]
    sent = store.client.get_object(Bucket="team", Key="large/file")["Body"].read()
    assert sent == (tmp_path / "file").read_bytes()


def test_nothing_that_stands_is_overwritten(store: Store, plan: MergePlan, tmp_path: Path) -> None:
    store.client.put_object(Bucket="team", Key="stands/mix/notes.txt", Body=b"mine")
    with store.watched() as requests, pytest.raises(DemixError, match=r"s3://team/stands/mix: notes.txt stands there"):
        merge_to(plan, "s3://team/stands", tmp_path)
    assert {method for method, _, _ in requests} <= {"GET", "HEAD"}
    store.client.put_object(Bucket="team", Key="stands/.sending-mix.json", Body=b"{}")  # another's
    with pytest.raises(DemixError, match=r"notes.txt stands there"):
        merge_to(plan, "s3://team/stands", tmp_path)
    assert contents(tmp_path) == {}
