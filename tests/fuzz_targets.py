"""The targets of the fuzzers: each parser may raise only UserError."""

from __future__ import annotations

import base64
import bz2
import contextlib
import hashlib
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import finished
import numpy as np
import test_bench_import as bench201
import test_genotypes
import test_nb101 as bench101
import torch
from fuzzing import Target, as_json, mangled, twisted
from hydra.types import RunMode
from hypothesis import strategies as st
from omegaconf import OmegaConf

from nasx.benchmarks import nb101_import, nb201_import
from nasx.benchmarks.isomorphism import cell_code
from nasx.benchmarks.nb101 import graph_of, prune
from nasx.benchmarks.nb201 import Nb201
from nasx.cli import arguments, listing, main, preflight, report, status, table
from nasx.cli import help as help_
from nasx.config import commands, compose, instantiate, paths
from nasx.data import folder, layouts, splits
from nasx.errors import UserError
from nasx.export import model
from nasx.results import collect, differences
from nasx.tracking import checkpoints, records, run_folder


def _spaces() -> list[Any]:
    files = sorted((paths.conf_dir() / "space").glob("*.yaml"))
    return [
        instantiate.build(
            compose.resolved(compose.make_loader().load_configuration("search", [f"space={file.stem}"], RunMode.RUN))[
                0
            ]["space"]
        )
        for file in files
    ]


CELLS = [
    *test_genotypes.DIALECTS,
    str(test_genotypes.BEST),
    "['none', 'none', 'none', 'none', 'none', 'none']",
    "421211",
    '{"matrix": [[0, 1, 1], [0, 0, 1], [0, 0, 0]], "ops": ["input", "conv3x3-bn-relu", "output"]}',
    "ModelSpec(matrix=[[0, 1], [0, 0]], ops=['input', 'output'])",
    "DARTS_V2",
    "Genotype(recurrent=[('tanh', 0), ('relu', 1)], concat=range(1, 9))",
]


def read_genotype(root: Path, text: str) -> None:
    for space in _cached("spaces", _spaces):
        with contextlib.suppress(UserError):
            assert space.parse(str(space.parse(text))) == space.parse(text)
    with contextlib.suppress(ValueError):  # what `nasx bench query` tells as a UserError
        graph = graph_of(text)
        prune(*graph) if graph is not None else None
    cell_code(text)


_kept: dict[str, Any] = {}


def _cached(name: str, make: Callable[[], Any]) -> Any:
    if name not in _kept:
        _kept[name] = make()
    return _kept[name]


WORDS = [
    "method=darts",
    "space=nb201",
    "dataset=digits",
    "seed=0",
    "method=idarts",
    "method.order=2",
    "search.epochs=3",
    "--multirun",
    "seed=0,1,2",
    "search.lr=0.1,0.2",
    "launch=joblib",
    "experiment=quickstart",
    "name=x",
    "out=runs",
    "space=darts",
    "genotype=DARTS_V2",
    "retrain.epochs=1",
    "--cfg",
    "job",
    "--info",
    "defaults",
    "from=runs/x",
    "allow=[mine]",
    "method._target_=mine.x.Y",
    "search.arch_betas=[0.5,0.9]",
    "quiet=true",
    "hydra.run.dir=x",
    "hydra/launcher=joblib",
    "--config-dir",
    "mine",
    "what=methods",
    "filter=[method=darts]",
    "+x=1",
    "~search",
    "++search.lr=1",
    "experiment=tune_arch_lr",
    "-m",
    "space.keep=runs/x",
    "threads=1",
    "stages=pdarts",
    "stages=drnas_nb201",
    "stages.keep=[5,3]",
    "stages.space.layers=[3,4,5]",
    "stages=none",
    "stages.search.epochs=[1,2]",
    "study=darts",
    "study.searches=2",
    "study.rank=full",
    "study.retrains=0",
]


def examined(root: Path, asked: tuple[str, list[str]]) -> None:
    name, words = asked
    if any("\x00" in word for word in words):  # no shell can say it
        return
    line = arguments.split_options(words)
    preflight.check_line(name, preflight.normalize(name, line))


def asked_lines(root: Path) -> st.SearchStrategy[Any]:
    lines = st.lists(mangled(WORDS) | st.sampled_from(WORDS), min_size=1, max_size=4)
    return st.tuples(st.sampled_from(sorted(commands.COMMANDS)), lines)


def yaml_files(root: Path) -> st.SearchStrategy[Any]:
    groups = ("experiment", "method", "space", "dataset", "launch", "logger", "stages", "study")
    texts = [
        (group, path.read_text()) for group in groups for path in sorted((paths.conf_dir() / group).glob("*.yaml"))
    ]
    return st.sampled_from(groups).flatmap(
        lambda group: st.tuples(st.just(group), mangled([text for kind, text in texts if kind == group]))
    )


def composed(root: Path, drawn: tuple[str, str]) -> None:
    group, text = drawn
    (root / "mine" / group).mkdir(parents=True)
    (root / "mine" / group / "own.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    list(listing.entries(group, [root / "mine"]))
    verb = "study" if group == "study" else "search"
    help_.command(verb, arguments.split_options(["--config-dir=mine", f"{group}=own"]))
    others = ["space=darts"] * (group in ("stages", "study")) + ["dataset=digits"] * (group != "dataset")
    examined(root, (verb, ["--config-dir=mine", f"{group}=own", *others]))


def plans(root: Path) -> st.SearchStrategy[Any]:
    """Files of stages and of studies whose values are wrong rather than their text."""
    trees = {
        group: [
            OmegaConf.to_container(OmegaConf.load(path))  # which reads 6e-4 as a number
            for path in sorted((paths.conf_dir() / group).glob("*.yaml"))
        ]
        for group in ("stages", "study")
    }
    return st.sampled_from(sorted(trees)).flatmap(
        lambda group: st.tuples(
            st.just(group),
            twisted(trees[group]).map(
                lambda tree: f"# @package _global_\n{json.dumps(tree)}" if group == "stages" else json.dumps(tree)
            ),
        )
    )


def _checkpoint() -> bytes:
    blob = io.BytesIO()
    torch.save(
        {
            "w": {"x": torch.arange(6.0).reshape(2, 3)},
            "rows": 2,
            "updates": 4,
            "started": "now",
            "metrics": '{"epoch": 1}\n{"epoch": 2}\n',
        },
        blob,
    )
    return blob.getvalue()


def damaged_checkpoints(root: Path) -> st.SearchStrategy[Any]:
    legacy = io.BytesIO()
    torch.save({"w": torch.ones(3), "rows": 1}, legacy, _use_new_zipfile_serialization=False)
    bodies = mangled([_checkpoint(), legacy.getvalue(), pickle.dumps({"rows": 1})])
    return st.tuples(bodies, st.booleans(), st.integers(0, 100))


def read_checkpoint(root: Path, drawn: tuple[bytes, bool, int]) -> None:
    body, signed, cut = drawn
    data = checkpoints.MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body
    (root / "checkpoints").mkdir()
    (root / "checkpoints" / "000000004.ckpt").write_bytes(data if signed else data[: len(data) - cut])
    checkpoints.last(root)


def _record(**fields: Any) -> dict[str, Any]:
    return {
        "kind": "search",
        "name": "a",
        "status": "finished",
        "seed": 0,
        "identity": "0" * 8,
        "family": "f" * 8,
        "choices": {"method": "darts", "space": "nb201", "dataset": "cifar10", "search": "nb201_v1"},
        "protocol": "nb201-v1",
        "overrides": ["seed=0", "search.epochs=2"],
        "labels": ["best_of_2", "x"],
        "genotype": finished.CELL,
        "supernet": {"valid_accuracy": 0.5, "valid_loss": 2.0},
        "test_accuracy": None,
        "lookup": {"benchmark": "nb201", "source": "built-in", "params": 1, "cifar10": {"valid": 90.0, "test": None}},
        "params": None,
        "wall_s": 7200.0,
        "peak_mb": 100,
        "updates": 6,
        "passes": 12,
        "reduced": False,
        "changed": {"search.epochs": [50, 2]},
        "hardware": {"device": "cpu", "name": "A CPU", "threads": 1},
        "versions": {"nasx": "0", "torch": "2"},
        "commit": "abc",
        "command": "nasx search",
        "parent": None,
        "operations": {"nor_conv_3x3": 6},
        "reference": {"cifar10": {"valid": {"optimum": 91.6, "mean": 83.7, "median": 87.3}}},
        "verdict": {"collapsed": False, "not_converged": True, "why": ["x"]},
        "started": "2026-11-25T18:23:06+0000",
        "finished": "2026-11-25T18:23:06+0000",
        "stopped": None,
        "missing": None,
        "diagnostics": {},
        **fields,
    }


def _row(epoch: int) -> dict[str, Any]:
    mix = [[[0.2] * 5 for _ in range(6)]]
    return {
        "epoch": epoch,
        "updates": 3 * epoch,
        "lr": 0.1,
        "train_loss": 2.0,
        "train_accuracy": 0.3,
        "val_loss": 2.1,
        "val_accuracy": 0.2,
        "valid_loss": 2.0,
        "valid_accuracy": 0.4,
        "genotype": finished.CELL,
        "wall_s": 1.0 * epoch,
        "lookup": {"cifar10": {"valid": 80.0 + epoch, "test": None}},
        "mix": {"normal": mix},
        "entropy": 1.0,
        "saturation": 0.1,
        "change": 0.1,
        "moved": 0.2,
        "cells": {"normal": {"depth": 3, "width": 2, "skip": 1, "skip_ratio": 0.2}},
        "eigenvalue": 0.5,
    }


SAMPLES = [
    [
        _record(name="a"),
        [_row(1), _row(2)],
        {"kind": "search", "search": {"epochs": 2}, "choices": {"method": "darts"}},
    ],
    [
        _record(name="a", kind="retrain", protocol="darts-cifar", lookup=None, test_accuracy=0.97, parent="b"),
        [{"epoch": 1, "train_loss": 1.0, "test_accuracy": 0.9, "test_loss": 0.3, "wall_s": 2.0}],
        {"kind": "retrain", "retrain": {"epochs": 2}, "choices": {}},
    ],
]


def write_run(root: Path, drawn: list[Any]) -> None:
    """A run folder of what was drawn (record, rows, configuration), beside one that is right."""
    right = [_record(name="right", seed=1, identity="1" * 8), [_row(1), _row(2)], SAMPLES[0][2]]
    for name, parts in (("runs/right", right), ("runs/a", drawn)):
        (root / name / "checkpoints").mkdir(parents=True)
        parts = parts if isinstance(parts, list) else [parts]
        for file, part in zip(("result.json", "metrics.jsonl", "config.yaml"), parts, strict=False):
            many = isinstance(part, list) and file == "metrics.jsonl"
            (root / name / file).write_bytes(b"".join(as_json(row) + b"\n" for row in part) if many else as_json(part))


def read_run(root: Path, drawn: tuple[list[Any], str]) -> None:
    parts, reader = drawn
    write_run(root, parts)
    differences._configuration.cache_clear()
    frame = collect.collect("runs")
    if reader in ("console", "markdown", "latex", "csv"):
        table.main({"runs": ["runs"], "format": reader})
    elif reader == "differences":
        differences.rows([list(frame["folder"])[:1], list(frame["folder"])[1:]])
    elif reader == "retrain":
        examined(root, ("retrain", ["from=runs/a", "dataset=digits"]))
    else:
        main.dispatch(reader.split())


READERS = (
    "console",
    "markdown",
    "latex",
    "csv",
    "differences",
    "status runs",
    "compare seed=0 seed=1 runs=runs",
    "bench fill runs",
    "export from=runs/a",
    "info from=runs/a",
    "diagnose from=runs/a",
    "whatif runs/a auto",
    "whatif runs/a epoch=1",
    "retrain",
)


def write_report(root: Path, drawn: list[Any]) -> None:
    write_run(root, drawn)
    differences._configuration.cache_clear()
    report.main(["runs"])
    text = (root / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "<u>" not in text


def lines_of_rows(root: Path) -> st.SearchStrategy[Any]:
    lines = b"".join(as_json(_row(n)) + b"\n" for n in (1, 2, 3))
    return mangled([lines, as_json(_row(1)), b"[" * 3000, b'{"epoch": 1' + b"0" * 5000 + b"}"])


def read_rows(root: Path, data: bytes) -> None:
    (root / "run").mkdir()
    (root / "run" / "metrics.jsonl").write_bytes(data)
    records.read_rows(root / "run")
    status.main(["run"])
    with run_folder.Run(root / "run", {"seed": 0}, {"kind": "search", "search": {"epochs": 3}}) as run:
        run.keep_rows('{"epoch": 1}\n')
        assert run.rows() == records.read_rows(root / "run") == [{"epoch": 1}]


def nb201_tables(root: Path) -> st.SearchStrategy[Any]:
    head = "arch_str,cifar10_valid,cifar10_test_s777,ep12_cifar100_test,cifar10_train_time_s,other\n"
    lines = [f"{cell},{90.0 + i},{94.0},{50.5},{100},x\n" for i, cell in enumerate(bench201.SAMPLE[:2])]
    state = {"12": bench201.state(0, bench201.BEST, "12"), "200": bench201.state(0, bench201.BEST, "200")}
    old = io.BytesIO()
    torch.save(bench201.official(bench201.SAMPLE[:1]), old, _use_new_zipfile_serialization=False)
    texts = mangled([head + "".join(lines), head]).map(lambda text: text.encode("utf-8", "surrogatepass"))
    csvs = st.tuples(st.just("csv"), texts)
    cells = st.tuples(st.just("folder"), mangled([pickle.dumps(state, p) for p in (2, 4)]))
    trees = st.tuples(st.just("folder"), twisted([_plain(state)]).map(pickle.dumps))
    return csvs | cells | trees | st.tuples(st.just("pth"), mangled([old.getvalue()]))


def _plain(tree: Any) -> Any:
    """Plain values of a state, epochs before the last left out: quick to twist."""
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
    metrics = bench101.message(0.9, 0.8)
    graph = "".join(str(x) for row in bench101.OFFICIAL for x in row)
    whole = [bench101.HASH, 108, graph, ",".join(bench101.LABELS), base64.b64encode(metrics).decode()]
    messages = mangled([metrics]).map(lambda m: as_json([*whole[:4], base64.b64encode(m).decode()]))
    framed = st.lists(messages | twisted([whole]).map(as_json) | mangled([as_json(whole)]), min_size=1, max_size=3)
    files = framed.map(lambda found: b"".join(map(bench101.frame, found)))
    return files | mangled([bench101.frame(as_json(whole)) * 2])


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
    with contextlib.suppress(UserError):
        layouts.unpickle(data, "x", "y")
    (root / "x").write_bytes(data)
    with contextlib.suppress(UserError):
        layouts.pickled_images(root / "x", hashlib.md5(data, usedforsecurity=False).hexdigest(), "labels", "y")
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
        return  # sizes that nobody could compute are no finding
    if any("\x00" in word for word in words):  # no shell can say it
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
