"""`nasx bench get`: download of a table by name over an unreliable network (a server on loopback)."""

from __future__ import annotations

import csv
import errno
import gzip
import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loopback import Server
from nb101_files import frame, message, record
from nb201_files import PUBLIC, TABLES, foreign_csv, made_up, needs_public

from nasx.benchmarks import download, get, nb101_import
from nasx.benchmarks.base import DATASETS
from nasx.benchmarks.columns import Table, column
from nasx.benchmarks.isomorphism import CELLS, cell_code, official_order
from nasx.benchmarks.nb101 import Nb101, prune
from nasx.benchmarks.nb201 import EMBEDDED, Nb201
from nasx.benchmarks.offers import DEVICES, LATENCY, NB101, OFFERS, TESTS, File
from nasx.cli import bench
from nasx.core import system
from nasx.errors import UserError


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.http.shutdown()
    found.http.server_close()


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("NASX_DATA", str(tmp_path / "data"))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "nasx_mirror"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return tmp_path / "data" / "benchmarks"


def offered(monkeypatch: pytest.MonkeyPatch, name: str, address: str, data: bytes, checked: bool = True) -> File:
    """Offer `data` as the one file of a table."""
    file = File(address, len(data), hashlib.sha256(data).hexdigest() if checked else None)
    monkeypatch.setitem(OFFERS, name, replace(OFFERS[name], files=(file,)))
    return file


@pytest.fixture
def tests(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> bytes:
    """A table of made-up test accuracies, offered by the server."""
    data = foreign_csv(tmp_path / "made.csv").read_bytes()
    server.files["tests.csv"] = data
    offered(monkeypatch, TESTS, f"{server.address}/tests.csv", data)
    return data


def check() -> None:
    """The made-up test accuracies are in the table, and all that comes with nasx still is."""
    table, embedded = Nb201().table(), Table.read(EMBEDDED)
    for dataset in DATASETS:
        valid = embedded.statistics(dataset, "valid")
        assert np.array_equal(table.statistics(dataset, "valid"), valid, equal_nan=True)
        expected = [made_up(value) for value in valid[:, 0].tolist()]
        assert table.statistics(dataset, "test")[:, 0] == pytest.approx(expected, abs=1e-4)
    assert embedded.columns.keys() < table.columns.keys()


def left(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*") if path.is_file()) if cache.exists() else []


# ------------------------------------------------------------------------------------------------ interruptions
def test_a_table_is_brought_and_what_was_there_stays(tests: bytes, cache: Path) -> None:
    said: list[str] = []
    found = get.bench_get(TESTS, say=said.append)
    check()
    assert left(cache) == ["nb201.npz"], "the downloaded file is removed"
    assert "tests.csv: " in said[0]
    told = Nb201().info()["columns"]["cifar10.test.200.mean"]
    assert "after 200 epochs, the mean over seeds" in told
    assert f"from {found['source']}, 20" in told
    assert "nasx bench fill" in found["next"]


def test_an_interrupted_download_is_resumed_by_the_same_command(tests: bytes, server: Server, cache: Path) -> None:
    server.cuts = [300_000, 0]
    with pytest.raises(
        UserError,
        match=r"connection was lost.*; run the same command again to resume the download "
        r"\(300,000 bytes were received\).*tests\.csv by hand.*`nasx bench get nb201-test from=FILE`",
    ):
        get.bench_get(TESTS)
    assert [name.rpartition(".")[2] for name in left(cache)] == ["part"]
    server.asked.clear()
    get.bench_get(TESTS)
    assert server.asked == ["bytes=300000-"]
    check()
    assert left(cache) == ["nb201.npz"]


def test_one_command_goes_on_as_long_as_bytes_arrive(tests: bytes, server: Server, cache: Path) -> None:
    said: list[str] = []
    server.cuts = [100_000, 1, 200_000]
    get.bench_get(TESTS, say=said.append)
    assert server.asked == ["", "bytes=100000-", "bytes=100001-", "bytes=300001-"]
    assert sum("bytes; resuming" in line for line in said) == 3
    check()


def test_a_server_that_cannot_resume_sends_the_whole_file_again(tests: bytes, server: Server, cache: Path) -> None:
    server.cuts, server.ranges = [300_000, None], False
    get.bench_get(TESTS)
    assert server.asked == ["", "bytes=300000-"]
    check()


def test_a_download_that_was_complete_is_not_asked_for_again(tests: bytes, server: Server, cache: Path) -> None:
    part = download.Resumed(OFFERS[TESTS].files[0], cache / "downloads", print, "").part
    part.parent.mkdir(parents=True)
    part.write_bytes(tests)
    get.bench_get(TESTS)
    assert server.asked == []
    check()


def test_two_commands_do_not_write_one_file(tests: bytes, cache: Path) -> None:
    part = download.Resumed(OFFERS[TESTS].files[0], cache / "downloads", print, "").part
    part.parent.mkdir(parents=True)
    with part.open("wb") as held:
        held.write(tests[:100])
        held.flush()
        system.lock_file(held.fileno())
        with pytest.raises(UserError, match="is being downloaded by another process"):
            get.bench_get(TESTS)
    assert part.read_bytes() == tests[:100]


def test_two_commands_do_not_lose_each_others_columns(tests: bytes, cache: Path) -> None:
    cache.mkdir(parents=True)
    folder = system.open_folder(cache)
    system.lock_file(folder)
    other = threading.Thread(target=get.bench_get, args=(TESTS,))
    other.start()
    other.join(0.5)
    assert other.is_alive(), "it waits until the table is written"
    phone = column("latency.phone", np.ones(CELLS), "a stopwatch")
    (cache / "nb201.npz").write_bytes(Table({**Table.read(EMBEDDED).columns, "latency.phone": phone}).packed())
    os.close(folder)
    other.join()
    check()
    assert "latency.phone" in Nb201().table().columns


# ------------------------------------------------------------------------------------------------ faults
def test_a_wrong_checksum_keeps_nothing(tests: bytes, server: Server, cache: Path) -> None:
    server.files["tests.csv"] = bytes([tests[0] ^ 1]) + tests[1:]
    with pytest.raises(
        UserError,
        match=r"tests\.csv: served a file whose sha256 is not [0-9a-f]{64}; "
        "the download was removed.*by hand",
    ):
        get.bench_get(TESTS)
    assert left(cache) == []
    server.files["tests.csv"] = tests
    get.bench_get(TESTS)
    check()


def test_another_file_is_refused_before_it_is_downloaded(tests: bytes, server: Server, cache: Path) -> None:
    server.files["tests.csv"] = b"<html>log in first</html>"
    with pytest.raises(UserError, match=f"serves 25 bytes, but tests.csv has {len(tests):,}; download"):
        get.bench_get(TESTS)
    server.files["tests.csv"] = tests + b"more"
    with pytest.raises(UserError, match=f"serves {len(tests) + 4:,} bytes, but"):
        get.bench_get(TESTS)
    assert left(cache) == []


@pytest.mark.parametrize(("status", "said"), [(404, "returned 404"), (407, "returned 407"), (503, "returned 503")])
def test_a_status_is_reported(status: int, said: str, tests: bytes, server: Server, cache: Path) -> None:
    server.status = status
    with pytest.raises(UserError, match=rf"tests\.csv: {said}.*by hand.*from=FILE"):
        get.bench_get(TESTS)
    assert left(cache) == []


def test_no_route(tests: bytes, server: Server, cache: Path) -> None:
    server.http.server_close()
    server.http.shutdown()
    with pytest.raises(UserError, match=r"tests\.csv: cannot be reached \(Connection refused\); download .* by hand"):
        get.bench_get(TESTS)
    assert left(cache) == []


def test_a_proxy_that_refuses(server: Server, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("https_proxy", server.address)
    with pytest.raises(UserError, match=r"githubusercontent\.com.*the proxy refuses .*403 Forbidden.*by hand"):
        get.bench_get(TESTS)
    assert left(cache) == []


def test_a_disk_that_is_too_small_is_reported_before_the_download(
    tests: bytes, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(cache.parents[1])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=len(tests) - 1))
    with pytest.raises(
        UserError, match=r"\(No space left on device\) while downloading http.*; free some space, then run"
    ):
        get.bench_get(TESTS)
    assert left(cache) == []


def test_a_disk_that_fills_up_keeps_what_has_arrived(
    tests: bytes, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = os.write, [0]

    def full(handle: int, data: Any) -> int:
        if written[0] > 200_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written[0] += (n := write(handle, data))
        return n

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(UserError, match=r"No space left on device.*; free some space.*by hand"):
            get.bench_get(TESTS)
    assert not (cache / "nb201.npz").exists()
    server.asked.clear()
    get.bench_get(TESTS)
    assert server.asked == [f"bytes={written[0]}-"]
    check()


# ------------------------------------------------------------------------------------------------ other ways
@pytest.mark.slow
def test_a_mirror_and_a_file_brought_by_hand(
    tests: bytes, server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered(monkeypatch, TESTS, "https://nowhere.invalid/tests.csv", tests)
    with pytest.raises(UserError, match="mirror=ftp://x: is not the address of a web folder"):
        get.bench_get(TESTS, mirror="ftp://x")
    for words in ([f"mirror={server.address}/"], [f"from={tmp_path / 'made.csv'}"]):
        assert bench.main(["get", TESTS, *words]) == 0
        check()
        (cache / "nb201.npz").unlink()
    monkeypatch.setenv("NASX_MIRROR", server.address)
    get.bench_get(TESTS)
    check()
    asked = len(server.asked)
    assert get.bench_get(TESTS)["state"] == "already exists"
    assert len(server.asked) == asked


def test_a_file_brought_by_hand_is_checked_in_the_same_way(tests: bytes, cache: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.csv"
    for data, said in ((tests[:-1], "bytes, but tests.csv has"), (b"x" + tests[1:], "has the sha256")):
        wrong.write_bytes(data)
        with pytest.raises(UserError, match=rf"from=.*wrong\.csv: .*{said}.*download .*tests\.csv again"):
            get.bench_get(TESTS, brought=str(wrong))
    with pytest.raises(UserError, match=r"cannot be read \(No such file"):
        get.bench_get(TESTS, brought=str(tmp_path / "nowhere"))
    assert left(cache) == []
    assert wrong.exists()


def test_what_can_be_had_is_listed(tests: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    assert {offer["here"] for offer in get.bench_offers().values()} == {"no"}
    get.bench_get(TESTS)
    assert get.bench_offers()[TESTS]["here"].startswith("yes, from nats-bench-landscape")
    assert bench.main(["get"]) == 0
    printed = capsys.readouterr().out
    for text in (*OFFERS, *DEVICES, "MIT", "Apache-2.0", "499.0 MB", "HW-NAS-Bench", "nasx bench get nb101"):
        assert text in printed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([NB101, "mirror=http://mirror"], "does not use HTTPS, and nb101 has no published checksum"),
        (["nb301"], "unknown table; did you mean nb101?"),
        ([TESTS, "form=x"], "form=x: is not a setting; choose from devices=..., from=..., mirror=..."),
        ([TESTS, "devices=raspi4"], "nb201-test has no per-device values"),
        ([LATENCY, "devices=raspi4,toaster"], "devices=toaster: has no published latencies; choose from 1080ti_1"),
        ([LATENCY, "from=toaster.pt"], "is neither a folder of latencies nor named after a device"),
    ],
)
def test_faults_of_the_command(words: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        bench.main(["get", *words])
    assert said in str(caught.value)


def test_records_without_a_checksum_are_kept_only_where_they_are_whole(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = prune([[0, 1, 0], [0, 0, 1], [0, 0, 0]], ["input", "conv3x3-bn-relu", "output"])
    assert graph is not None
    data = b"".join(
        frame(record(*graph, message(valid, test))) for valid, test in ((0.90, 0.80), (0.92, 0.81), (0.94, 0.82))
    )
    offered(monkeypatch, NB101, f"{server.address}/only108.tfrecord", data, checked=False)
    server.files["only108.tfrecord"] = data
    with pytest.raises(UserError, match="contains 1 of 423624 graphs"):
        get.bench_get(NB101)
    assert left(cache) == []
    monkeypatch.setattr(nb101_import, "CELLS", 1)
    server.files["only108.tfrecord"] = data[:-1] + bytes([data[-1] ^ 1])
    with pytest.raises(UserError, match="not a NAS-Bench-101 tfrecord, or is damaged"):
        get.bench_get(NB101)
    assert left(cache) == []
    server.files["only108.tfrecord"] = data
    server.cuts = [100]
    get.bench_get(NB101)
    assert server.asked[-2:] == ["", "bytes=100-"]
    table = Nb101().table()
    assert table is not None
    assert table.repeats(0).mean(0) == pytest.approx([92.0, 81.0], abs=1e-4)
    assert left(cache) == ["nb101.npz"]
    assert get.bench_get(NB101)["state"] == "already exists"


# ------------------------------------------------------------------------------------------------ the real files
@needs_public
def test_the_published_test_accuracies_are_those_of_the_reference(server: Server, cache: Path) -> None:
    server.files["nats_bench.csv"] = (TABLES / "nats_bench.csv").read_bytes()
    get.bench_get(TESTS, mirror=server.address)
    table, embedded = Nb201().table(), Table.read(EMBEDDED)
    with gzip.open(PUBLIC, "rt", newline="") as stream:
        lines = list(csv.DictReader(stream))
    rows = [cell_code(line["arch_str"]) for line in lines]
    assert len(set(rows)) == CELLS
    for dataset in DATASETS:
        expected = np.array([float(line[f"{dataset}_test"]) for line in lines])
        assert abs(table.statistics(dataset, "test")[rows, 0] - expected).max() <= 5.000001e-7, "six digits there"
        for name in (f"{dataset}.valid.200.runs", f"{dataset}.seconds"):
            assert np.array_equal(table.columns[name].values, embedded.columns[name].values)


@needs_public
def test_the_official_order_is_that_of_the_reference() -> None:
    with gzip.open(PUBLIC, "rt", newline="") as stream:
        found = {int(line["arch_index"]): cell_code(line["arch_str"]) for line in csv.DictReader(stream)}
    assert [found[i] for i in range(CELLS)] == list(official_order())


@needs_public
def test_the_published_latencies_are_those_of_the_files(server: Server, cache: Path) -> None:
    import torch

    devices = ["raspi4", "pixel3", "eyeriss", "1080ti_256", "gold_6226"]
    for device in devices:
        server.files[f"{device}.pt"] = (TABLES / "help-latency" / f"{device}.pt").read_bytes()
    get.bench_get(LATENCY, devices[:2], mirror=server.address)
    get.bench_get(LATENCY, devices[2:], brought=str(TABLES / "help-latency"))
    assert server.asked == ["", ""]
    assert get.bench_get(LATENCY, devices)["state"] == "already exists"
    table, order = Nb201().table(), list(official_order())
    for device in devices:
        expected = torch.load(TABLES / "help-latency" / f"{device}.pt", weights_only=True)
        each = table.columns[f"latency.{device}"]
        assert each.values[order].tolist() == expected
        assert each.source == "HELP and HW-NAS-Bench (https://github.com/HayeonLee/HELP)"
        assert DEVICES[device].what in each.meaning
    first = cell_code("|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|")
    assert round(float(table.columns["latency.raspi4"].values[first]), 3) == 10.482
    assert Table.read(EMBEDDED).columns.keys() < table.columns.keys()
    assert "batch 256" in Nb201().info()["columns"]["latency.1080ti_256"]
    assert get.bench_offers()[LATENCY]["here"].startswith("5 of 23: ")


@needs_public
def test_every_pinned_checksum_is_that_of_its_file() -> None:
    files = [(file, TABLES / "nats_bench.csv") for file in OFFERS[TESTS].files]
    files += [(file, TABLES / "help-latency" / file.name) for file in OFFERS[LATENCY].files]
    assert len(files) == 24
    for file, path in files:
        assert download.verified(file, path) == path
