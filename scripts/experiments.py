"""Run a reduced experiment for every printed table and for every system (method and stages), and check that its command
runs to its end and that its run is then compared with the rows that its file names.

    NASX_DATA=DIR uv run python scripts/experiments.py OUT

One experiment may cover several tables: those that cover most come first, each with the overrides of its row; then one
file follows for each system that none of them has.
Searches and retrainings are tiny (one to three cells, 4 channels, a few updates), on CIFAR-10 if that is the
experiment's dataset, otherwise on images and a text generated here. OUT contains the runs; OUT/experiments.md lists the
result of each command and the rows with which it is compared. Finished commands are not repeated.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from forks import Server
from kills import SMALL, Command, family
from PIL import Image

from nasx.config import experiments, plugins
from nasx.config.paths import conf_dir
from nasx.results import published, targets
from nasx.results.aggregate import summary
from nasx.results.collect import collect

SEARCH = [
    "search.epochs=2",
    "search.updates_per_epoch=1",
    "search.batch=8",
    "search.warmup_epochs=0",
    "search.evaluate_every=0",
    "search.evaluate_images=64",
]
STUDY = ["study.searches=1", "study.retrains=1", "study.rank_epochs=1"]
RETRAIN = [
    "retrain.epochs=1",
    "retrain.updates_per_epoch=2",
    "retrain.batch=16",
    "retrain.layers=3",
    "retrain.channels=4",
    "retrain.evaluate_every=0",
    "retrain.warmup_epochs=0",
]
TEXT = {
    "search": ["search.epochs=2", "search.updates_per_epoch=2", "search.batch=8", "search.bptt=8"],
    "retrain": [
        "retrain.epochs=1",
        "retrain.updates_per_epoch=2",
        "retrain.batch=8",
        "retrain.bptt=8",
        "retrain.valid_batch=4",
        "retrain.channels=8",
    ],
    "space": ["space.channels=8", "space.nodes=3"],
}
PLACES = ["device=cpu", "threads=1", "quiet=true"]


def table(printed: experiments.Printed) -> str:
    """Return the paper and table in a row's name, such as `iDARTS, Table 1`."""
    return ", ".join(printed.row.split(", ")[:2])


def system(head: experiments.Experiment) -> tuple[str | None, str | None]:
    """Return the system that searches: method and stages."""
    return head.choices.get("method"), head.choices.get("stages")


def chosen() -> Iterator[tuple[str, experiments.Experiment, experiments.Printed, list[str]]]:
    """Yield (name, experiment, row, tables that it covers), those that cover most first, with the papers' own rows if
    possible."""
    found = {name: experiments.find(name) for name in plugins.choices("experiment", conf_dir())}
    lines = targets.load()
    lines = lines[
        lines["metric"].isin(["test_accuracy", "test_error", "top1_accuracy", "top1_error", "test_perplexity"])
    ]
    known, own = set(lines["row"]), set(lines[lines["own"] == 1]["row"])
    left = {table(printed) for head in found.values() if head for printed in head.published if printed.row in known}
    ways = [
        (
            name,
            head,
            printed,
            [row for row in head.published if row.overrides == printed.overrides and row.row in known],
        )
        for name, head in found.items()
        if head
        for printed in head.published
        if "space.keep" not in " ".join(head.commands) and "search.epochs" not in printed.settings
    ]

    def worth(way: tuple[Any, Any, Any, list[experiments.Printed]]) -> tuple[int, int]:
        return (len({table(row) for row in way[3] if row.row in own} & left), len({*map(table, way[3])} & left))

    systems = set()
    while ways:
        name, head, printed, rows = max(ways, key=worth)
        places = {*map(table, rows)} & left
        if not places:
            break
        systems.add(system(head))
        yield name, head, printed, sorted(places)
        left -= places
    for name, head, printed, _ in ways:
        if system(head) not in systems and "from" not in printed.settings:
            systems.add(system(head))
            yield name, head, printed, []


def made(folder: Path) -> Path:
    """Write a small set of images in the layout of ImageNet and a text in that of the Penn Treebank, all noise."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", 300), ("valid", 40), ("test", 40)):
        lines = (" ".join(rng.choice(list("abcdefgh"), 6)) for _ in range(count))
        (folder / f"{part}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for part, count in (("train", 40), ("val", 2)):  # a fortieth of each class is one image
        for kind in range(4):
            (folder / part / f"n{kind}").mkdir(parents=True, exist_ok=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (256, 256, 3), np.uint8)).save(folder / part / f"n{kind}/{i}.JPEG")
    return folder


def small(verb: str, words: list[str], head: experiments.Experiment, images: Path) -> list[str]:
    """Return the overrides that make a command small."""
    settings = {**head.choices, **dict(word.split("=", 1) for word in words)}
    given = {word.partition("=")[0] for word in words}
    if settings["dataset"] == "ptb":
        return [*PLACES, *TEXT["space"], *TEXT["search"], *TEXT["retrain"], *STUDY, f"dataset.path={images}"]
    stages = settings.get("stages", "none")
    sizes = [
        word
        for word in SMALL[family(settings["space"])]
        if word != "space.layers=3" or settings["space"] != "amended_s2"
    ]  # untied cells: as many as in the retrained network
    if "pdarts" in stages:  # each stage has its own depth
        sizes = ["stages.space.layers=[3,4,5]" if word == "space.layers=3" else word for word in sizes]
    if stages == "drnas_darts":  # 1/6 and 1/4 of the channels
        sizes = ["space.channels=24" if word == "space.channels=4" else word for word in sizes]
    added = [*PLACES, *(SEARCH + sizes if verb != "retrain" else [])]
    added += RETRAIN if verb != "search" else []
    added += STUDY if verb == "study" else []
    if "study=best_of_four" in words:  # fewer than four searches are not compared with such a number
        added.remove("study.searches=1")
    if settings.get("retrain") == "imagenet_600m":  # which chooses the channels
        added = [word.replace("retrain.channels=4", "retrain.max_macs=40000000") for word in added]
    if settings["dataset"] == "imagenet":
        added += [f"dataset.path={images}"]
    return [word for word in added if word.partition("=")[0] not in given]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default="", help="only these experiments of the sample, comma-separated")
    parser.add_argument("--fork", action="store_true", help="fork the commands instead of starting Python for each")
    args = parser.parse_args()
    start = Server().command if args.fork else Command
    images = made(args.out / "images")
    lines, bad = ["| experiment | command | seconds | compared with |", "|---|---|---|---|"], 0
    only = set(filter(None, args.only.split(",")))
    for name, head, printed, places in chosen():
        if only and name not in only:
            continue
        out, began = args.out / re.sub("[=/]", "_", "-".join([name, *printed.overrides])), time.monotonic()
        commands = [experiments.command(name, head, printed)]
        if "from" in printed.settings:  # first the search whose cell is trained
            commands.insert(0, f"nasx search experiment={name} name=RUN")
        for command in commands:
            verb, *words = command.replace("from=RUN", f"from={out / 'RUN'}").split()[1:]
            words = [word for word in words if not word.startswith("study.")]
            code, said = start([verb, *words, *small(verb, words, head, images), f"out={out}"]).end()
            if code:
                break
        beside = beside_which(out, {table(printed).partition(",")[0] for printed in head.published}) if not code else []
        bad += bool(code) or not beside
        told = "; ".join(beside) or (f"failed: {said.strip()[-200:]}" if code else "nothing")
        lines.append(f"| {name} | `{commands[-1]}` | {time.monotonic() - began:.0f} | {told} |")
        print(lines[-1], *places, sep="\n    ", flush=True)
    (args.out / "experiments.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines) - 2 - bad} of {len(lines) - 2} ran and are compared with a printed row")
    return int(bool(bad))


def beside_which(out: Path, papers: set[str]) -> list[str]:
    """Return the printed rows with which the runs of a folder are compared."""
    ours, found = summary(collect(out), reference=False), []
    for paper, short in targets.SHORT.items():
        if short in papers:
            _, numbers = published.compare(ours, paper)
            found += list(numbers[numbers["source"] == "nasx"]["row"].unique()) if "source" in numbers else []
    return found


if __name__ == "__main__":
    sys.exit(main())
