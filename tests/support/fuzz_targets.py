"""The targets of the fuzzers: each parser may raise only UserError."""

from __future__ import annotations

import base64
import bz2
import contextlib
import io
import json
import pickle
from pathlib import Path
from typing import Any

import finished
import nb101_files
import nb201_files
import numpy as np
import torch
from fuzz_lines import CELLS, _cached, asked_lines, composed, examined, plans, read_genotype, yaml_files
from fuzz_records import (
    READERS,
    SAMPLES,
    damaged_checkpoints,
    lines_of_rows,
    read_checkpoint,
    read_rows,
    read_run,
    write_report,
    write_run,
)
from fuzzing import Target, as_json, mangled, twisted
from hypothesis import strategies as st

from nasx.benchmarks import nb101_import, nb201_import
from nasx.benchmarks.nb201 import Nb201
from nasx.cli import main
from nasx.data import folder, splits
from nasx.errors import UserError
from nasx.export import model


def nb201_tables(root: Path) -> st.SearchStrategy[Any]:
    head = "arch_str,cifar10_valid,cifar10_test_s777,ep12_cifar100_test,cifar10_train_time_s,other\n"
    lines = [f"{cell},{90.0 + i},{94.0},{50.5},{100},x\n" for i, cell in enumerate(nb201_files.SAMPLE[:2])]
    state = {"12": nb201_files.state(0, nb201_files.BEST, "12"), "200": nb201_files.state(0, nb201_files.BEST, "200")}
    old = io.BytesIO()
    torch.save(nb201_files.official(nb201_files.SAMPLE[:1]), old, _use_new_zipfile_serialization=False)
    texts = mangled([head + "".join(lines), head]).map(lambda text: text.encode("utf-8", "surrogatepass"))
    csvs = st.tuples(st.just("csv"), texts)
    cells = st.tuples(st.just("folder"), mangled([pickle.dumps(state, p) for p in (2, 4)]))
    trees = st.tuples(st.just("folder"), twisted([_plain(state)]).map(pickle.dumps))
    return csvs | cells | trees | st.tuples(st.just("pth"), mangled([old.getvalue()]))


def _plain(tree: Any) -> Any:
    """Return the plain values of a state without the epochs before the last, which is quick to twist."""
    if isinstance(tree, dict):
        return {
            key: _plain(value)
            for key, value in tree.items()
            if not (isinstance(key, str) and "@" in key) or key.endswith(("@11", "@199"))
        }
    if isinstance(tree, list):
        return [_plain(value) for value in tree]
    return tree.item() if isinstance(tree, np.generic) else tree


def import_nb201(root: Path, drawn: tuple[str, bytes]) -> None:
    kind, data = drawn
    path = root / f"source.{kind}" if kind != "folder" else root / "source"
    if kind == "folder":
        path.mkdir()
        (path / "000000.pickle.pbz2").write_bytes(bz2.compress(data, 1))
    else:
        path.write_bytes(data)
    nb201_import.import_nb201(path, root / "out.npz", complete=False)
    assert Nb201(path=str(root / "out.npz")).info()


def nb101_records(root: Path) -> st.SearchStrategy[Any]:
    metrics = nb101_files.message(0.9, 0.8)
    graph = "".join(str(x) for row in nb101_files.OFFICIAL for x in row)
    whole = [nb101_files.HASH, 108, graph, ",".join(nb101_files.LABELS), base64.b64encode(metrics).decode()]
    messages = mangled([metrics]).map(lambda m: as_json([*whole[:4], base64.b64encode(m).decode()]))
    framed = st.lists(messages | twisted([whole]).map(as_json) | mangled([as_json(whole)]), min_size=1, max_size=3)
    files = framed.map(lambda found: b"".join(map(nb101_files.frame, found)))
    return files | mangled([nb101_files.frame(as_json(whole)) * 2])


def import_nb101(root: Path, data: bytes) -> None:
    (root / "source.tfrecord").write_bytes(data)
    nb101_import.import_nb101(root / "source.tfrecord", root / "out.npz", complete=False)


def packed(root: Path) -> st.SearchStrategy[Any]:
    few = _cached("table", lambda: Nb201().table().packed())
    images = io.BytesIO()
    np.savez(images, x=np.zeros((8, 8, 8, 3), np.uint8), y=np.arange(8) % 2)
    objects = io.BytesIO()
    np.savez(objects, x=np.array([{"a": 1}], dtype=object), y=np.arange(1))
    return mangled([few, images.getvalue(), objects.getvalue()])


def read_packed(root: Path, data: bytes) -> None:
    (root / "x.npz").write_bytes(data)
    for read in (lambda: Nb201(path=str(root / "x.npz")).info(), lambda: folder.read_npz(root / "x.npz", 0.2)):
        with contextlib.suppress(UserError):
            read()


def pickled_data(root: Path) -> st.SearchStrategy[Any]:
    content = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1], "label_names": ["a", "b"]}
    lists = {"train": ["int", ["1", "2"]], "valid": ["int", ["0", "3"]]}
    pickles = mangled([pickle.dumps(content, protocol) for protocol in (2, 3, 4)])
    return pickles | twisted([lists]).map(as_json) | mangled([as_json(lists)])


def read_pickled(root: Path, data: bytes) -> None:
    (root / "x").write_bytes(data)
    splits.read_split(str(root / "x"), 4)


def _export() -> tuple[dict[str, Any], dict[str, Any]]:
    facts = {
        "format": model.FORMAT,
        "genotype": finished.CELL,
        "recipe": "nb201",
        "space": {
            "_target_": "nasx.spaces.nb201.space.Nb201",
            "layers": 1,
            "channels": 4,
            "operations": ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"],
            "batch_norm": "batch",
            "affine": False,
        },
        "settings": {"layers": 1, "channels": 4, "stem": "cifar"},
        "classes": ["a", "b"],
        "normalization": {"mean": [0.5] * 3, "std": [0.5] * 3},
        "image": [3, 8, 8],
        "dataset": {},
        "test": {"batch": 4, "amp": False, "channels_last": False},
        "accuracy": 0.5,
        "commit": "x",
        "seed": 0,
        "run": "x",
        "nasx": "0",
    }
    return facts, model.build(facts).state_dict()


def exports(root: Path) -> st.SearchStrategy[Any]:
    from safetensors.torch import save

    facts, weights = _cached("export", _export)
    whole = save({name: x.contiguous() for name, x in weights.items()}, model.text(facts))
    return twisted([facts]) | mangled([whole])


def load_export(root: Path, drawn: Any) -> None:
    from safetensors.torch import save

    if not isinstance(drawn, bytes):
        facts, (_, weights) = drawn, _cached("export", _export)
        if not isinstance(facts, dict):
            return
        told = {str(k): v if isinstance(v, str) and k in model.PLAIN else json.dumps(v) for k, v in facts.items()}
        try:
            drawn = save({name: x.contiguous() for name, x in weights.items()}, told)
        except UnicodeError:  # safetensors itself refuses to write it
            return
    (root / "model.safetensors").write_bytes(drawn)
    model.load(root)


COMMANDS = [
    ["status"],
    ["status", "runs"],
    ["compare", "method=darts", "method=random"],
    ["info", "genotype=DARTS_V2"],
    ["info", "space=nb201", "layers=1"],
    ["bench", "query", finished.CELL],
    ["bench", "query", "421211"],
    ["bench", "info"],
    ["bench", "fill", "runs"],
    ["bench", "import", "nb201", "x.csv"],
    ["export", "from=runs/a"],
    ["evaluate", "runs/a", "batch=2"],
    ["report", "runs", "title=x"],
    ["diagnose", "from=runs/a"],
    ["whatif", "runs/a", "epoch=1", "search.lr=0.1"],
    ["completion", "bash"],
    ["nonsense"],
    ["--version"],
    ["search", "--help"],
    ["list", "methods"],
    ["table", "--help"],
]


def spoken(root: Path) -> st.SearchStrategy[Any]:
    known = ["retrain=nb201", "dataset=digits", "metric=params"]
    words = mangled([word for line in COMMANDS for word in line[1:]] + known)
    return st.tuples(st.sampled_from(COMMANDS), st.lists(words, max_size=3)).map(
        lambda drawn: [*drawn[0][:1], *(drawn[1] or drawn[0][1:])]
    )


def obey(root: Path, words: list[str]) -> None:
    if any("0" * 2 in word or len([c for c in word if c.isdigit()]) > 8 for word in words):
        return  # sizes that nobody could compute are not a finding
    if any("\x00" in word for word in words):  # no shell can pass it
        return
    write_run(root, SAMPLES[0])
    main.dispatch(words)


TARGETS = {
    "genotype": Target(lambda root: mangled(CELLS), read_genotype),
    "overrides": Target(asked_lines, examined),
    "yaml": Target(yaml_files, composed),
    "plans": Target(plans, composed),
    "checkpoint": Target(damaged_checkpoints, read_checkpoint),
    "rows": Target(lines_of_rows, read_rows),
    "record": Target(lambda root: st.tuples(twisted(SAMPLES), st.sampled_from(READERS)), read_run),
    "report": Target(lambda root: twisted(SAMPLES), write_report),
    "nb201": Target(nb201_tables, import_nb201),
    "nb101": Target(nb101_records, import_nb101),
    "npz": Target(packed, read_packed),
    "data": Target(pickled_data, read_pickled),
    "export": Target(exports, load_export),
    "words": Target(spoken, obey),
}
