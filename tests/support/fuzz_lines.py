"""Fuzz targets: genotypes, command lines and configuration files."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import genotype_texts
from fuzzing import mangled, twisted
from hydra.types import RunMode
from hypothesis import strategies as st
from omegaconf import OmegaConf

from nasx.benchmarks.isomorphism import cell_code
from nasx.benchmarks.nb101 import graph_of, prune
from nasx.cli import arguments, listing, preflight
from nasx.cli import help as help_
from nasx.config import commands, compose, instantiate, paths
from nasx.errors import UserError


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
    *genotype_texts.DIALECTS,
    str(genotype_texts.BEST),
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
    with contextlib.suppress(ValueError):  # `nasx bench query` turns it into a UserError
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
    if any("\x00" in word for word in words):  # no shell can pass it
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
            OmegaConf.to_container(OmegaConf.load(path))  # OmegaConf reads 6e-4 as a number
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
