"""Records of finished runs for tests of tables."""

from __future__ import annotations

import json

CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"


def writer(tmp_path):
    """Return a function that writes the record of one finished run; keywords replace its fields."""
    count = iter(range(10_000))

    def write(method="darts", seed=0, valid=90.0, **fields):
        number = next(count)
        choices = {"method": method, "space": "nb201", "dataset": "cifar10", "search": "nb201_v1"}
        record = {
            "kind": "search",
            "name": f"run{number}",
            "status": "finished",
            "choices": choices | fields.pop("choices", {}),
            "protocol": "nb201-v1",
            "seed": seed,
            "identity": f"{number:08x}",
            "overrides": [f"seed={seed}"],
            "labels": [],
            "genotype": CELL,
            "supernet": {"valid_accuracy": 0.5},
            "test_accuracy": None,
            "lookup": {
                "benchmark": "nb201",
                "source": "built-in",
                "params": 1288506,
                "cifar10": {"valid": valid, "test": None},
            },
            "params": None,
            "wall_s": 7200.0,
            "peak_mb": 100,
            "reduced": False,
            "hardware": {"device": "cuda:0", "name": "A GPU"},
            "versions": {"nasx": "0"},
            "commit": None,
            **fields,
        }
        folder = tmp_path / "runs" / record["name"]
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(record))
        return folder

    write.root = tmp_path / "runs"
    write.root.mkdir()
    return write


def retrained(make, parent, accuracy, seed=0, **fields):
    return make(
        choices={"method": None, "space": None, "search": None},
        kind="retrain",
        protocol="darts-cifar",
        parent=parent,
        lookup=None,
        test_accuracy=accuracy,
        params=3_300_000,
        seed=seed,
        overrides=[f"from=outputs/{parent}"],
        genotype=f"cell of {parent}",
        **fields,
    )


def only(table, **wanted):
    rows = [row for row in table.to_dict("records") if all(row[k] == v for k, v in wanted.items())]
    assert len(rows) == 1, rows
    return rows[0]
