"""The official interface of NAS-Bench-201 over nasx's table: official index, typical snippets, and errors.

Expected values are the published numbers or the columns of the table.
"""

from __future__ import annotations

import copy
import csv
import gzip
import hashlib
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nb201_files import PUBLIC

from nasx.benchmarks import columns, nb201_api
from nasx.benchmarks.columns import IMAGES, MISSING, Table, column, name_of
from nasx.benchmarks.isomorphism import CELLS, cell_code, cell_text, official_order
from nasx.benchmarks.nb201 import EMBEDDED, flops, params
from nasx.benchmarks.nb201_import import OFFICIAL
from nasx.benchmarks.official_answers import NotKnown
from nasx.errors import UserError

FIRST = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"
EXAMPLE = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|"


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NASX_DATA", str(tmp_path / "data"))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table with accuracies of all sets, both budgets and a device: made up, but for those of the package."""
    draws, held = np.random.default_rng(0), dict(Table.read(EMBEDDED).columns)
    for (dataset, split), images in IMAGES.items():
        for epochs, seeds in ((12, (777,)), (200, (777, 888, 999))):
            name = name_of(dataset, split, epochs, "runs")
            if name not in held:
                counts = draws.integers(images, size=(CELLS, len(seeds))).astype(np.uint16)
                if epochs == 200:
                    counts[::7, 2] = MISSING
                held[name] = column(name, counts, "made up", seeds=seeds)
    held["latency.raspi4"] = column("latency.raspi4", draws.uniform(1, 100, CELLS).astype(np.float32), "made up")
    path = tmp_path_factory.mktemp("table") / "full.npz"
    path.write_bytes(Table(held).packed())
    return path


# ------------------------------------------------------------------------------------------------ official index
def test_official_index_is_the_permutation_of_the_released_code() -> None:
    """The digest is of the order that the column arch_index of a public table has, which the next test reads."""
    digest = hashlib.sha256(np.array(official_order(), "<u2").tobytes()).hexdigest()
    assert digest == "1d3bb98de011b645ca1cf0585b09293d60b9456cac5d10e6ca296bbb3c55513e"
    assert cell_text(official_order()[0]) == FIRST
    assert cell_text(official_order()[1]) == EXAMPLE


def test_official_index_equals_a_public_table() -> None:
    if not PUBLIC.is_file():
        pytest.skip(f"no table {PUBLIC.name} beside the repository")
    with gzip.open(PUBLIC, "rt", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == CELLS
    assert all(cell_text(official_order()[int(row["arch_index"])]) == row["arch_str"] for row in rows)


# ------------------------------------------------------------------------------------------------------ snippets
def snippet(path: Path, capsys: pytest.CaptureFixture[str], code: str) -> dict[str, Any]:
    """Run the lines of a user after the constructor's line; returns the variables, `printed` among them."""
    names: dict[str, Any] = {"PATH": str(path)}
    exec("from nasx.benchmarks import nb201_api\napi = nb201_api(PATH, verbose=False)\n" + code, names)
    return names | {"printed": capsys.readouterr().out}


def percent(path: Path, dataset: str, split: str, row: int, epochs: int = 200) -> list[float]:
    """The known accuracies of a cell, from the counts of the table."""
    held = Table.read(path).columns[name_of(dataset, split, epochs, "runs")].values[row]
    return [int(count) * 100 / IMAGES[dataset, split] for count in held if count != MISSING]


def test_1_index_of_a_string(full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    got = snippet(
        full,
        capsys,
        f"""
arch = '{EXAMPLE}'
index = api.query_index_by_arch(arch)
other = api.query_index_by_arch('|none~0|')
class Cell:
    def tostr(self):
        return arch
third = api.query_index_by_arch(Cell())
""",
    )
    assert (got["index"], got["other"], got["third"]) == (1, -1, 1)


def test_2_more_info_on_cifar10_valid(full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    got = snippet(
        full,
        capsys,
        """
info = api.get_more_info(1, 'cifar10-valid', None, hp='200', is_random=False)
acc, cost = info['valid-accuracy'], info['train-all-time']
per_epoch = info['train-per-time']
""",
    )
    row = cell_code(EXAMPLE)
    assert got["acc"] == pytest.approx(np.mean(percent(full, "cifar10", "valid", row)))
    assert round(got["acc"], 2) == 90.77  # published
    assert got["cost"] == pytest.approx(float(Table.read(EMBEDDED).seconds("cifar10")[row]))
    assert got["per_epoch"] == pytest.approx(got["cost"] / 200)


def test_3_more_info_on_cifar10(full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    got = snippet(
        full, capsys, "test = api.get_more_info(8, 'cifar10', iepoch=None, hp='200', is_random=False)['test-accuracy']"
    )
    assert got["test"] == pytest.approx(np.mean(percent(full, "cifar10", "test", official_order()[8])))


def test_4_more_info_on_cifar100(full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    got = snippet(
        full,
        capsys,
        """
xinfo = api.get_more_info(api.query_index_by_arch(api[301]), 'cifar100', hp='200', is_random=False)
pair = [xinfo['valid-accuracy'], xinfo['test-accuracy']]
""",
    )
    row = official_order()[301]
    assert got["pair"] == pytest.approx([np.mean(percent(full, "cifar100", split, row)) for split in ("valid", "test")])


def test_5_more_info_on_imagenet_after_12_epochs(full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    got = snippet(
        full,
        capsys,
        "info = api.get_more_info(11, 'ImageNet16-120', hp='12', is_random=False)\n"
        "pair = [info['valid-accuracy'], info['test-accuracy']]",
    )
    row = official_order()[11]
    assert got["pair"] == pytest.approx([np.mean(percent(full, "imagenet16", s, row, 12)) for s in ("valid", "test")])


def test_6_random_architecture_and_random_seed(full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    got = snippet(
        full,
        capsys,
        """
import random
random.seed(3)
index = api.random()
info = api.get_more_info(index, 'cifar100', hp='200')
one = api.get_more_info(index, 'cifar100', hp='200', is_random=888)
""",
    )
    draws = random.Random(3)
    assert got["index"] == draws.randint(0, CELLS - 1)
    row, held = official_order()[got["index"]], Table.read(full)
    seeds = [seed for seed, values in held.per_seed("cifar100", "valid").items() if values[row] == values[row]]
    by_seed = {seed: float(held.per_seed("cifar100", "test")[seed][row]) for seed in (777, 888)}
    assert 888 in seeds
    assert got["info"]["test-accuracy"] in [pytest.approx(x) for x in percent(full, "cifar100", "test", row)]
    assert got["one"]["test-accuracy"] == pytest.approx(by_seed[888])


def test_7_best_under_a_parameter_bound(full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    got = snippet(
        full,
        capsys,
        """
best = api.find_best('cifar10', 'valid', hp='200')
small = api.find_best('cifar100', 'test', FLOP_max=None, Param_max=0.5, hp='200')
tiny = api.find_best('ImageNet16-120', 'x-valid', FLOP_max=5, Param_max=None, hp='200')
none = api.find_best('cifar10', 'valid', Param_max=0.01, hp='200')
""",
    )
    assert round(got["best"][1], 2) == 91.61  # published
    held, none = Table.read(full), (-1, None)
    test = held.statistics("cifar100", "test")[:, 0]
    fits = [row for row in range(CELLS) if (params(row) + 5850) / 1e6 <= 0.5]
    assert got["small"][1] == pytest.approx(max(test[row] for row in fits))
    assert official_order()[got["small"][0]] in fits
    valid = held.statistics("imagenet16", "valid")[:, 0]
    assert got["tiny"][1] == pytest.approx(
        max(valid[row] for row in range(CELLS) if ((flops(row) - 650) // 4 + 7800) / 1e6 <= 5)
    )
    assert got["none"] == none


def test_8_cost_and_configuration(full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    got = snippet(
        full,
        capsys,
        """
info = api.get_cost_info(1, 'cifar10')
flops, params = info['flops'], info['params']
config = api.get_net_config(1, 'cifar100')
""",
    )
    assert (got["flops"], got["params"]) == (113.95137, 0.802426)
    assert got["config"] == {"name": "infer.tiny", "C": 16, "N": 5, "arch_str": EXAMPLE, "num_classes": 100}


def test_9_length_iteration_and_architecture(full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    got = snippet(
        full,
        capsys,
        """
num = len(api)
cells = []
for i, arch_str in enumerate(api):
    cells.append(arch_str)
    assert arch_str == api[i] == api.arch(i)
text = str(api)
""",
    )
    assert got["num"] == len(set(got["cells"])) == CELLS
    assert got["cells"][:2] == [FIRST, EXAMPLE]
    assert got["text"] == "TableApi(15625/15625 architectures, file=full.npz)"


def test_10_trials_lists_matrices_and_texts(full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    got = snippet(
        full,
        capsys,
        """
results = api.query_by_index(1, 'cifar100', hp='200')
trials = {seed: result.get_eval('x-test')['accuracy'] for seed, result in results.items()}
metrics = api.query_meta_info_by_index(1, hp='200').get_metrics('cifar10', 'ori-test')
lists = api.str2lists(api.arch(1))
matrix = api.str2matrix(api.arch(1))
text = api.query_by_arch(api.arch(1), '200')
api.show(1)
""",
    )
    row = cell_code(EXAMPLE)
    assert list(got["trials"].values()) == pytest.approx(percent(full, "cifar100", "test", row))
    assert got["metrics"] == {"iepoch": 199, "accuracy": pytest.approx(np.mean(percent(full, "cifar10", "test", row)))}
    assert got["lists"][0] == (("nor_conv_3x3", 0),)
    assert got["matrix"][3].tolist() == [1, 3, 1, 0]
    assert "valid : [top1 = 90.77%]" in got["text"]
    assert "FLOP=113.95 M, Params=0.802 MB" in got["text"]
    assert "012 epochs" in got["printed"]
    assert got["text"] in got["printed"].replace("extra-info : None", "extra-info : arch-index=1")


def test_statistics_count_the_seeds(full: Path) -> None:
    missing = len(range(0, CELLS, 7))
    assert nb201_api(str(full), verbose=False).statistics("cifar10", 200) == {2: missing, 3: CELLS - missing}


# ---------------------------------------------------------------------------------------------- what is not known
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("api.get_more_info(1, 'cifar10', hp='200', is_random=False)", "nasx bench get nb201-test"),
        ("api.get_more_info(1, 'cifar10', hp='200')", "nasx bench get nb201-test"),
        ("api.get_more_info(1, 'cifar100', hp='200')['test-accuracy']", "nasx bench get nb201-test"),
        ("api.get_more_info(1, 'cifar10-valid')", "but it has accuracies for hp='200'; `nasx bench import nb201 FILE`"),
        ("api.get_more_info(1, 'cifar10-valid', iepoch=10, hp='200')", "the table has the last epoch only"),
        ("api.get_more_info(1, 'cifar10-valid', hp='200')['train-loss']", "use the official file"),
        ("api.get_more_info(1, 'cifar10-valid', hp='200')['test-accuracy']", "use the official file"),
        ("api.get_more_info(1, 'cifar10', hp='200')", "nasx bench import nb201 FILE"),
        ("api.find_best('cifar10', 'test', hp='200')", "nasx bench get nb201-test"),
        ("api.find_best('cifar10', 'valid')", "nasx bench import nb201 FILE"),
        ("api.get_latency(1, 'cifar10')", "nb201_api(device='raspi4')"),
        ("api.get_cost_info(1, 'cifar10')['T-train@total']", "use the official file"),
        ("api.query_by_index(1, 'cifar10', hp='200')", "nasx bench import nb201 FILE"),
        ("api.get_net_param(1, 'cifar10', None)", "trained weights are not in nasx's table"),
    ],
)
def test_what_the_table_does_not_hold_says_what_brings_it(code: str, said: str) -> None:
    api = nb201_api(verbose=False)
    with pytest.raises(NotKnown) as caught:
        eval(code, {"api": api})
    assert said in str(caught.value)
    assert isinstance(caught.value, UserError)
    assert isinstance(caught.value, KeyError)


def test_a_mean_is_not_given_for_a_seed(full: Path, tmp_path: Path) -> None:
    """As after `nasx bench get nb201-test`, which brings means over seeds."""
    held = dict(Table.read(EMBEDDED).columns)
    name = name_of("cifar10", "test", 200, "mean")
    held[name] = column(name, np.full(CELLS, 94.25), "made up")
    (tmp_path / "means.npz").write_bytes(Table(held).packed())
    api = nb201_api(str(tmp_path / "means.npz"), verbose=False)
    assert api.get_more_info(5, "cifar10", hp="200", is_random=False)["test-accuracy"] == 94.25
    for call in (lambda: api.get_more_info(5, "cifar10", hp="200"), lambda: api.query_by_index(5, "cifar10", hp="200")):
        with pytest.raises(NotKnown, match="the mean over seeds only; use is_random=False"):
            call()


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda api: api.get_more_info(1, "cifar10", hp="90"), UserError, "use hp='12' or hp='200'"),
        (lambda api: api.get_more_info(1, "cifar11", hp="200", is_random=False), UserError, "is not a dataset"),
        (lambda api: api.get_cost_info(1, "imagenet"), UserError, "is not a dataset"),
        (
            lambda api: api.get_more_info(1, "cifar10-valid", iepoch=200, hp="200"),
            UserError,
            "is not an epoch of a training run",
        ),
        (lambda api: api.get_more_info(CELLS, "cifar10-valid", hp="200"), ValueError, "Invalid architecture index"),
        (lambda api: api.get_more_info("|none~0|", "cifar10-valid", hp="200"), ValueError, "no results"),
        (lambda api: api.get_more_info(1, "cifar10-valid", hp="200", is_random=5), ValueError, "seed 5 is not among"),
        (lambda api: api.get_more_info(1, "cifar10-valid", hp="200", is_random=False)["valid"], KeyError, "valid"),
        (lambda api: nb201_api(device="raspi4"), UserError, "nasx bench get nb201-latency"),
    ],
)
def test_faults(call: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error) as caught:
        call(nb201_api(verbose=False))
    assert said in str(caught.value)
    assert not isinstance(caught.value, NotKnown)


def test_latency_of_a_device_in_seconds(full: Path) -> None:
    api = nb201_api(str(full), device="raspi4", verbose=False)
    ms = float(Table.read(full).columns["latency.raspi4"].values[official_order()[7]])
    assert api.get_latency(7, "cifar10") == api.get_cost_info(7, "cifar10")["latency"] == ms / 1000
    with pytest.raises(UserError, match="it has raspi4"):
        nb201_api(str(full), device="pixel3")


# --------------------------------------------------------------------------------------------------------- imports
def test_importing_the_benchmarks_stays_cheap_and_the_missing_package_is_named() -> None:
    code = (
        "import sys, nasx.benchmarks\n"
        "assert not {'nas_201_api', 'torch', 'numpy'} & set(sys.modules)\n"
        "sys.modules['nas_201_api'] = None\n"
        "try:\n    nasx.benchmarks.nb201_api()\n"
        "except Exception as error:\n    print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.stdout.startswith("UserError nb201_api(): the package nas-bench-201 is not installed")


def test_the_documented_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "nb201_api.md").read_text(encoding="utf-8")
    exec(text.split("```python\n")[1].split("```")[0], {})
    index, accuracy, seconds = capsys.readouterr().out.splitlines()[0].split()
    assert (index, f"{float(accuracy):.2f}") == ("1", "90.77")
    assert float(seconds) == pytest.approx(2169.641, abs=1e-3)  # of the public table, column cifar10_train_time_s


def test_answers_can_be_copied_and_sent(full: Path) -> None:
    api = nb201_api(str(full), verbose=False)
    info = api.get_more_info(1, "cifar100", hp="200", is_random=False)
    for other in (copy.deepcopy(info), pickle.loads(pickle.dumps(info))):
        assert other == info
        with pytest.raises(NotKnown, match="use the official file"):
            other["valtest-accuracy"]
    assert copy.deepcopy(api).arch(1) == api.arch(1)


def test_all_columns_have_names_that_the_interface_reads() -> None:
    assert set(OFFICIAL.values()) == set(columns.IMAGES)
