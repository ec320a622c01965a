"""NAS-Bench-101: the benchmark's hash, the tfrecord import, queries; on synthetic files in the official structure."""

from __future__ import annotations

import itertools
import json
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from nb101_files import HASH, LABELS, OFFICIAL, TEST, VALID, crc32c, frame, masked, message, record

from nasx.benchmarks import nb101_import
from nasx.benchmarks.nb101 import OPERATIONS, Matrix, Nb101, Table, graph_hash, graph_of, prune
from nasx.benchmarks.nb101_import import import_nb101, masked_crc32c, metrics
from nasx.cli import bench
from nasx.errors import UserError


@dataclass(frozen=True)
class Cell:
    """What `query` needs of a genotype."""

    matrix: Matrix
    operations_list: tuple[str, ...]


# ------------------------------------------------------------------------------------- an independent writer


def graphs(n: int) -> Iterator[tuple[Matrix, tuple[str, ...]]]:
    """Every labelled graph of n vertices that is its own pruned form and has at most 9 edges."""
    places = [(u, v) for u in range(n) for v in range(u + 1, n)]
    for edges in itertools.product((0, 1), repeat=len(places)):
        matrix = [[0] * n for _ in range(n)]
        for (u, v), edge in zip(places, edges):
            matrix[u][v] = edge
        full = all(any(row) for row in matrix[:-1]) and all(any(row[v] for row in matrix) for v in range(1, n))
        if full and sum(edges) <= 9:
            for names in itertools.product(OPERATIONS, repeat=n - 2):
                yield tuple(map(tuple, matrix)), ("input", *names, "output")


def small(count: int) -> list[tuple[Matrix, tuple[str, ...]]]:
    """The first `count` graphs with different hashes, the official one first."""
    found = {HASH: (OFFICIAL, LABELS)}
    for graph in itertools.chain.from_iterable(graphs(n) for n in (2, 3, 4, 5)):
        if len(found) == count:
            break
        found.setdefault(graph_hash(*graph), graph)
    return list(found.values())


def accuracies(place: int, repeat: int, epochs: int) -> tuple[float, float]:
    made_up = random.Random(f"{place} {repeat} {epochs}")
    return tuple(float(np.float32(made_up.randrange(9985) / 9984)) for _ in range(2))  # type: ignore[return-value]


def write(path: Path, count: int = 6, budgets: tuple[int, ...] = (108,)) -> Path:
    with path.open("wb") as stream:
        for epochs in budgets:
            for repeat in range(3):
                for place, graph in enumerate(small(count)):
                    valid, test = accuracies(place, repeat, epochs)
                    stream.write(frame(record(*graph, message(valid, test, 100 + place, 10.0 * repeat), epochs)))
    return path


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("NASX_DATA", str(tmp_path / "data"))
    return tmp_path / "data" / "benchmarks" / "nb101.npz"


# ------------------------------------------------------------------------------------------------ the hash
def test_hash_of_the_official_graph() -> None:
    assert graph_hash(OFFICIAL, LABELS) == HASH


@pytest.mark.parametrize(("vertices", "classes"), [(2, 1), (3, 6), (4, 84), (5, 2441)])
def test_number_of_classes_is_the_benchmarks(vertices: int, classes: int) -> None:
    assert len({graph_hash(*graph) for graph in graphs(vertices)}) == classes  # of 423,624 graphs in all


def test_equal_hashes_mean_isomorphic_graphs() -> None:
    def forms(matrix: Matrix, labels: tuple[str, ...]) -> frozenset[object]:
        n = len(labels)
        orders = [(0, *inner, n - 1) for inner in itertools.permutations(range(1, n - 1))]
        return frozenset(
            (tuple(tuple(matrix[u][v] for v in order) for u in order), tuple(labels[v] for v in order))
            for order in orders
        )

    found = [(graph_hash(*graph), forms(*graph)) for graph in graphs(4)]
    for (key, form), (other, second) in itertools.combinations(found, 2):
        assert (key == other) == (form == second)


def test_pruning_drops_what_computes_nothing() -> None:
    # As NAS-Bench-1Shot1 builds cells: a dummy vertex without edges before the output.
    rows = [[*row[:6], 0, row[6]] for row in OFFICIAL[:6]] + [[0] * 8, [0] * 8]
    assert prune(rows, (*LABELS[:6], "conv1x1-bn-relu", "output")) == (OFFICIAL, LABELS)
    # A vertex that the input does not reach, and one that does not reach the output.
    assert prune(((0, 0, 1, 1), (0, 0, 0, 1), (0, 0, 0, 0), (0, 0, 0, 0)), ("input", *OPERATIONS[:2], "output")) == (
        ((0, 1), (0, 0)),
        ("input", "output"),
    )
    assert prune(((0, 1, 0), (0, 0, 0), (0, 0, 0)), ("input", OPERATIONS[0], "output")) is None


@pytest.mark.parametrize(
    ("matrix", "labels"),
    [
        ([[0, 1], [1, 0]], ("input", "output")),
        ([[0, 2], [0, 0]], ("input", "output")),
        ([[0, 1]], ("input", "output")),
        ([[0, 1], [0, 0]], ("output", "input")),
        ([[0]], ("input",)),
        ([[0, 1, 0], [0, 0, 1], [0, 0, 0]], ("input", "x", "output")),
    ],
)
def test_what_is_not_a_cell_is_refused(matrix: Matrix, labels: tuple[str, ...]) -> None:
    with pytest.raises(ValueError):
        prune(matrix, labels)


# ------------------------------------------------------------------------------------------------ the file
def test_checksums() -> None:
    made_up = random.Random(0)
    records = [b"123456789", b"", *(made_up.randbytes(made_up.randrange(300)) for _ in range(40))]
    assert crc32c(b"123456789") == 0xE3069283  # the published check value of CRC-32C
    assert [struct.pack("<I", x) for x in masked_crc32c(records).tolist()] == [masked(record) for record in records]


def test_message() -> None:
    assert metrics(message(VALID, TEST, 300, 12.5)) == (300, VALID, TEST, 12.5)
    for faulty in (
        message(VALID, TEST, evaluations=2),
        message(1.5, TEST),
        message(VALID, TEST)[:-4],
        b"\x0b",
        b"\xff" * 12,
    ):
        with pytest.raises((ValueError, IndexError, struct.error)):
            metrics(faulty)


def test_look_ups_after_an_import(tmp_path: Path, cache: Path) -> None:
    said: list[str] = []
    summary = import_nb101(write(tmp_path / "a.tfrecord"), say=said.append, complete=False)
    assert (summary["file"], summary["cells"], summary["runs"], summary["epochs"]) == (str(cache), 6, 18, [108])
    assert "18 runs of 6 graphs" in said[0]
    benchmark = Nb101()
    for place, graph in enumerate(small(6)):
        runs = np.array([accuracies(place, repeat, 108) for repeat in range(3)]) * 100
        score = benchmark.query(Cell(*graph))
        assert score is not None
        values = score.datasets["cifar10"]
        assert (values["valid"], values["test"]) == pytest.approx(tuple(runs.mean(0)), abs=1e-12)
        assert (values["valid_std"], values["test_std"]) == pytest.approx(tuple(runs.std(0, ddof=1)), abs=1e-9)
        assert (values["valid_seeds"], score.params, score.train_s) == (3, 100 + place, 10.0)
    means = np.array([[accuracies(place, repeat, 108) for repeat in range(3)] for place in range(6)]).mean(1) * 100
    for split, column in zip(("valid", "test"), means.T):
        assert benchmark.reference("cifar10")[split] == pytest.approx(
            {"optimum": column.max(), "median": np.median(column), "mean": column.mean()}
        )
    ranks = {split: sorted(column) for split, column in zip(("valid", "test"), means.T)}
    for place, graph in enumerate(small(6)):
        score = benchmark.query(Cell(*graph))
        assert score is not None
        assert benchmark.better_than(score) == {
            "cifar10": {
                split: pytest.approx(ranks[split].index(column[place]) / 6)
                for split, column in zip(("valid", "test"), means.T)
            }
        }
    assert benchmark.reference("cifar100") == {}
    assert benchmark.missing() is None


def test_isomorphic_and_unpruned_graphs_find_the_same_row(tmp_path: Path) -> None:
    import_nb101(write(tmp_path / "a.tfrecord"), complete=False)
    score = Nb101().query(Cell(OFFICIAL, LABELS))
    assert score is not None
    order = (0, 1, 4, 2, 3, 5, 6)  # another topological order
    moved = Cell(tuple(tuple(OFFICIAL[u][v] for v in order) for u in order), tuple(LABELS[v] for v in order))
    rows = tuple((*row[:6], 0, row[6]) for row in OFFICIAL[:6])
    dummy = Cell((*rows, (0,) * 8, (0,) * 8), (*LABELS[:6], "conv1x1-bn-relu", "output"))
    text = json.dumps({"matrix": OFFICIAL, "ops": LABELS})
    assert Nb101().query(moved) == Nb101().query(dummy) == Nb101().query(text) == score
    assert graph_of(text) == (OFFICIAL, LABELS)


def test_graphs_that_it_does_not_hold(tmp_path: Path) -> None:
    import_nb101(write(tmp_path / "a.tfrecord"), complete=False)
    full = tuple(tuple(int(u < v) for v in range(7)) for u in range(7))  # 21 edges
    for cell in (
        Cell(full, LABELS),
        Cell(((0, 0), (0, 0)), ("input", "output")),
        Cell(((0, 1),), ("input", "output")),
        "|skip_connect~0|",
        "[1]",
        None,
    ):
        assert Nb101().query(cell) is None


def test_an_import_that_knows_less_does_not_replace_one_that_knows_more(tmp_path: Path) -> None:
    out = tmp_path / "o.npz"
    import_nb101(write(tmp_path / "full.tfrecord", 3, (4, 108)), out, complete=False)
    before = out.read_bytes()
    with pytest.raises(UserError, match=r"lacks the accuracies after 4 epochs, which the table at .*o\.npz contains"):
        import_nb101(write(tmp_path / "only108.tfrecord", 3), out, complete=False)
    assert out.read_bytes() == before
    import_nb101(tmp_path / "full.tfrecord", out, complete=False)
    assert out.read_bytes() == before


@pytest.mark.slow
def test_all_budgets_and_more_graphs_than_the_first_arrays_hold(tmp_path: Path) -> None:
    out = tmp_path / "o.npz"
    import_nb101(write(tmp_path / "a.tfrecord", 1030, (4, 108)), out, complete=False)
    table = Nb101(path=str(out)).table()
    assert table is not None
    assert table.epochs == (4, 108)
    assert len(table.high) == 1030
    for place, graph in enumerate(small(1030)):
        row = table.row(graph_hash(*graph))
        assert row is not None
        for epochs in (4, 108):
            expected = [accuracies(place, repeat, epochs) for repeat in range(3)]
            np.testing.assert_allclose(table.repeats(row, epochs), np.array(expected) * 100, atol=1e-12)


def test_keys_with_one_high_half_are_distinguished() -> None:
    high, low = np.array([1, 5, 5, 5, 9], np.uint64), np.array([0, 7, 3, 8, 0], np.uint64)
    table = Table({}, (108,), high, low, np.zeros((5, 1, 3, 2), np.float32), np.zeros(5), np.zeros(5))
    assert [table.row(f"{h:016x}{k:016x}") for h, k in ((5, 7), (5, 3), (5, 8), (5, 4), (9, 0), (2, 0))] == [
        1,
        2,
        3,
        None,
        4,
        None,
    ]


# ------------------------------------------------------------------------------------------------ refusals
def test_without_the_file_nothing_is_known(tmp_path: Path) -> None:
    assert Nb101().query(Cell(OFFICIAL, LABELS)) is None
    assert Nb101().reference("cifar10") == {}
    assert "bench import nb101" in str(Nb101().missing())
    assert bench.bench_query(json.dumps({"matrix": OFFICIAL, "ops": LABELS}))["facts"]["hash"] == HASH
    with pytest.raises(UserError, match="no table found"):
        Nb101(path=str(tmp_path / "x.npz")).query(Cell(OFFICIAL, LABELS))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("flipped", "the checksum of record 1"),
        ("length", "checksum of record 0"),
        ("huge", "not a tfrecord"),
        ("truncated", "ends inside record 1"),
        ("cut", "ends inside record 2"),
        ("json", "record 0"),
        ("hash", "has the hash"),
        ("fourth", "more than three runs"),
        ("epochs", "record 0"),
        ("base64", "record 0"),
        ("evaluations", "the number of evaluations is 2, not 3"),
        ("empty", "0 of 423624 graphs"),
        ("key", "is not a hash"),
        ("text", "not a tfrecord"),
        ("absent", "No such file"),
    ],
)
def test_refused_with_the_reason_and_the_old_table_stays(kind: str, reason: str, tmp_path: Path, cache: Path) -> None:
    import_nb101(write(tmp_path / "good"), complete=False)
    before = cache.read_bytes()
    one = frame(record(OFFICIAL, LABELS, message(VALID, TEST)))
    parts = json.loads(record(OFFICIAL, LABELS, message(VALID, TEST)))
    content = {
        "flipped": one + one[:40] + bytes([one[40] ^ 1]) + one[41:],
        "empty": b"",
        "length": one[:8] + bytes([one[8] ^ 1]) + one[9:],
        "huge": struct.pack("<Q", 1 << 40) + one[8:],
        "truncated": one + one[:-3],
        "cut": one + one + one[:5],
        "json": frame(b"[1, 2"),
        "hash": frame(record(OFFICIAL, LABELS, message(VALID, TEST), key="0" * 32)),
        "fourth": one * 4,
        "epochs": frame(record(OFFICIAL, LABELS, message(VALID, TEST), 50)),
        "evaluations": frame(record(OFFICIAL, LABELS, message(VALID, TEST, evaluations=2))),
        "base64": frame(json.dumps([*parts[:4], "!!"]).encode()),
        "key": frame(json.dumps(["../x", *parts[1:]]).encode()),
        "text": b"<html>quota exceeded, come back later</html>",
    }
    if kind != "absent":
        (tmp_path / "bad").write_bytes(content[kind])
    with pytest.raises(UserError) as caught:
        import_nb101(tmp_path / "bad", complete=False)
    assert reason in str(caught.value)
    assert cache.read_bytes() == before
    assert [file.name for file in cache.parent.iterdir()] == ["nb101.npz"]


def test_checksums_are_checked_in_every_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nb101_import, "BLOCK", 4)
    path = write(tmp_path / "a")
    import_nb101(path, complete=False)
    content = bytearray(path.read_bytes())
    content[-10] ^= 64
    path.write_bytes(content)
    with pytest.raises(UserError, match="checksum of record 17 is wrong"):
        import_nb101(path, complete=False)


def test_part_of_the_graphs_is_refused(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(UserError, match="6 of 423624 graphs, 6 of them with three runs"):
        bench.bench_import("nb101", str(write(tmp_path / "a")))
    assert not cache.exists()


@pytest.mark.parametrize("cut", [0, 100, -1])
def test_damaged_table_is_refused(cut: int, tmp_path: Path, cache: Path) -> None:
    import_nb101(write(tmp_path / "a"), complete=False)
    cache.write_bytes(cache.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"nb101\.npz"):
        Nb101().query(Cell(OFFICIAL, LABELS))
