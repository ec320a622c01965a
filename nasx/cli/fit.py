"""Search, train, export and measure a small network for a folder of images, in one resumable command.

    nasx fit FOLDER [macs=20M | params=1M | latency=3ms] [minutes=30] [proxy=32] [out=model.onnx] [runs=outputs]
             [KEY=VALUE ...]

FOLDER contains one folder of images per class (docs/data.md lists the layouts). The result is an ONNX file with its
model card, FILE.md next to FILE.onnx, which reports the accuracy on test images that are used for nothing else.

    macs, params   maximum number of multiply-adds or parameters of the network
    latency        maximum latency in milliseconds for one image, in onnxruntime on one thread of this CPU
    minutes        time limit for the whole run, at least 3; the first updates are timed to choose the number of updates
    proxy          maximum height and width of the images in the search; the network is trained at dataset.size

All other arguments are settings of `nasx search` and `nasx retrain`: method=, space=, search.epochs=, retrain.epochs=,
dataset.size=, seed=, device=, threads=, ... The steps are ordinary runs under `runs`, named after the folder and a hash
of its images and the settings; a JSON file of the same name records the decisions made. The same command resumes a
killed run bit for bit (minutes= does not include time lost to kills) and shows the result of a finished run.

Defaults (explained in nasx/cli/fit.py):

    images     the centred square at 32 x 32 pixels, or at the original size if the images are smaller
    search     TSE-DrNAS on NAS-Bench-201, as in nasx quickstart; with a budget, limited to the mean cost of all cells
    width      the most channels within the budget, or 16 without one; fewer if 3 passes over the images take too long
    training   60 passes over the images (GPU: 200), or as many as about ten minutes on one CPU core allow
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import re
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

from nasx.cli import arguments, fit_report, fit_width, invoke
from nasx.config import commands, instantiate, overrides
from nasx.core import budgets, extras, files
from nasx.core.plain import Config
from nasx.data import survey
from nasx.data.source import SMALLEST
from nasx.data.splits import splits
from nasx.errors import UserError
from nasx.tracking import lineage, records

if TYPE_CHECKING:
    from nasx.data.images import Folder
    from nasx.data.listing import Listing

T = TypeVar("T")
OPTIONS = {"macs": "", "params": "", "latency": "", "minutes": "", "proxy": "", "out": "model.onnx", "runs": "outputs"}
SEARCH = ("method", "space", "dataset", "search", "budget", "benchmark", "stop")
BOTH = ("seed", "device", "threads", "workers", "checkpoint_s", "deterministic", "allow", "engine", "logger", "quiet")
RETRAIN = ("retrain",)
"""Keys of settings for the search, for both steps, and for the retraining, which inherits its space and dataset."""
FIXED = ("epochs", "updates_per_epoch")
"""Settings for the length of a step; minutes= sets them automatically."""
SIDE = 32
"""Default image height and width in pixels, as in CIFAR-10, for which the space and its recipe were designed; larger
images take longer. Also the default of proxy=, because a search at 64 x 64 pixels would take four times as long."""
SAMPLE = 300
"""Number of images, evenly spaced in the listing, whose sizes are read from their headers."""
BATCH = 64
"""Batch size, as in the NAS-Bench-201 searches; limited to an eighth of the training images."""
SLICES = {"search": 48, "retrain": 20}
"""Number of epochs over which the updates of a step are spread, because learning rates change only between epochs.
search: as in nasx quickstart."""
WARM_UP, ARCH_LR = 3, 0.01
"""As in nasx quickstart: only the weights are updated in the first third of the epochs, and the architecture learning
rate is higher than the usual 3e-4, which is too low for so few updates."""
EVALUATED = 1000
"""Number of images for the only evaluation of the supernet; no decision depends on the result."""
LEAST_PASSES = 3
"""Minimum number of passes over the images; it limits the width of the network."""
VERSION = 2
"""Version of these defaults; after a change of version, a fit starts from scratch."""
RESERVE, SHARE, TIMED = 0.15, 0.25, 10
"""Share of the time limit that is reserved for startup, export and measurement (at least one minute), share of the
remaining time for the search, and number of timed updates."""
STEPS = ("speed-search", "search", "speed-retrain")
"""Names of the runs that precede the training."""


class Size(NamedTuple):
    """Defaults for a device type."""

    layers: int
    """Cells per stage."""
    channels: int
    """Channels of the supernet."""
    updates: int
    """Updates in the search."""
    passes: int
    """Epochs of training."""
    work: float
    """Maximum number of multiply-adds for all forward passes of the training."""


SIZES = {"cpu": Size(1, 8, 576, 60, 1e12), "cuda": Size(5, 16, 5000, 200, 1e15)}
"""cpu: layers, channels and updates as in nasx quickstart; 1e12 multiply-adds take ten minutes on an AMD EPYC core, at
1.7e9 per second. cuda: size and passes as in NAS-Bench-201; updates and work are not based on measurements."""


class Request(NamedTuple):
    """A parsed command line; each argument has been checked separately."""

    folder: str
    quantity: str
    """Quantity limited by the budget: macs, params or latency; empty without a budget."""
    target: float
    minutes: float | None
    proxy: int
    """Maximum height and width of the images in the search; larger images are reduced."""
    out: Path
    runs: str
    words: tuple[str, ...]

    @property
    def keys(self) -> set[str]:
        return {word.partition("=")[0].lstrip("+~") for word in self.words}

    def of(self, *groups: str) -> list[str]:
        """Return the settings in these configuration groups."""
        return [word for word in self.words if overrides.first_part(word) in groups]

    def defaults(self, **values: object) -> list[str]:
        """Return overrides for default values that the command line does not set; `__` in a name stands for a dot."""
        dotted = {key.replace("__", "."): value for key, value in values.items()}
        return [lineage.override(key, value) for key, value in dotted.items() if key not in self.keys]


def main(words: Sequence[str]) -> int:
    """Run `nasx fit FOLDER [KEY=VALUE ...]`."""
    asked = request(words)
    fit = opened(asked)
    if fit_report.finished(fit.plan.get("result"), asked.out):
        print(f"{fit.name} is finished")
    else:
        fit.do()
    fit_report.show(fit.plan["result"], asked.out, asked.folder)
    return 0


def request(words: Sequence[str]) -> Request:
    """Parse and check the command line, without importing torch. Raises one UserError with all faults."""
    settings = [word for word in words if "=" in word and overrides.first_part(word) in (*SEARCH, *BOTH, *RETRAIN)]
    given = arguments.parse("fit", [word for word in words if word not in settings], OPTIONS, positional="FOLDER")
    options, out = given.options, Path(given.options["out"]).expanduser()
    faults, amount = [], math.inf
    if len(given.positional) != 1:
        faults.append(UserError("nasx fit", "needs one folder of images", "for example nasx fit my_images macs=20M"))
    wanted = [name for name in budgets.NAMES if options[name]]
    if len(wanted) > 1:
        said = " ".join(f"{name}={options[name]}" for name in wanted)
        faults.append(UserError(said, "cannot be combined", "give one of them"))
    for name in wanted:
        try:
            amount = budgets.target(options[name], name, absolute="which is not known here").amount
        except UserError as error:
            faults.append(UserError(f"{name}={options[name]}", error.fault, error.remedy))
    minutes = options["minutes"]
    number = re.fullmatch(r"\d+(\.\d+)?", minutes) is not None
    if minutes and (not number or float(minutes) < 3):
        said = "is less than 3" if number else "is not a number"
        faults.append(UserError(f"minutes={minutes}", said, "give at least 3, for example minutes=30"))
    proxy = options["proxy"] or str(SIDE)
    if not proxy.isdecimal() or int(proxy) < SMALLEST:
        faults.append(UserError(f"proxy={proxy}", f"is not an integer of at least {SMALLEST}", "for example proxy=32"))
    for word in settings:
        key = word.partition("=")[0]
        if minutes and key.partition(".")[2] in FIXED:
            faults.append(
                UserError(word, "cannot be combined with minutes=, which sets it automatically", "remove one of them")
            )
        if key in ("dataset", "dataset.path"):
            faults.append(
                UserError(
                    word, "cannot be set: nasx fit always uses the given folder", "leave it out, or use nasx search"
                )
            )
    above = next(path for path in out.absolute().parents if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        faults.append(UserError(f"out={out}", f"cannot be written: {above} is not a writable folder", "choose another"))
    if out.suffix != ".onnx" or out.is_dir():
        faults.append(UserError(f"out={out}", "is not the name of an ONNX file", "for example out=model.onnx"))
    elif (card := fit_report.card_of(out)).exists() and "library_name: nasx" not in card.read_text(errors="replace"):
        fault = f"would replace {card}, which is not a model card written by nasx"
        faults.append(UserError(f"out={out}", fault, f"choose another out=, or rename {card}"))
    if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]:
        faults.append(UserError("nasx fit", f"needs {' and '.join(missing)}", extras.install("onnx")))
    if faults:
        raise UserError.join(faults)
    limit, quantity = float(minutes) if minutes else None, wanted[0] if wanted else ""
    return Request(given.positional[0], quantity, amount, limit, int(proxy), out, options["runs"], tuple(settings))


def opened(asked: Request) -> Fit:
    """Return the requested fit with the decisions recorded so far. Raises one UserError with all faults."""
    if not Path(asked.folder).is_dir():
        raise UserError(asked.folder, "is not a folder", "give a folder with one folder of images per class")
    where = ["dataset=folder", lineage.override("dataset.path", asked.folder)]
    words = [*where, *asked.defaults(dataset__size=SIDE, method="tse_drnas"), *asked.words]
    _, cfg, choices = invoke.composed("run", [*words, "then=retrain", lineage.override("out", asked.runs)])
    source: Folder = instantiate.build(cfg["dataset"], cfg["allow"])
    found = source.listed()
    sides = fit_report.sides(found, SAMPLE)
    if "dataset.size" not in asked.keys and sides:
        source = replace(source, size=max(SMALLEST, min(SIDE, sides[len(sides) // 2])))
    where += asked.defaults(dataset__size=source.size)
    same = tuple(word for word in asked.words if overrides.first_part(word) not in commands.NON_IDENTITY_KEYS)
    key = hashlib.sha256(repr((*asked._replace(out=Path(), runs="", words=same), VERSION)).encode())
    key.update(survey.stamps(found.train.joined(found.test)).tobytes())
    stem = re.sub(r"[^\w.]+", "_", Path(asked.folder).resolve().name)[:60].lstrip(".") or "images"
    return Fit(asked, cfg, source, found, sides, where, choices["space"], f"fit-{stem}-{key.hexdigest()[:8]}")


@dataclass
class Fit:
    """A request with its images, configuration and name, and the decisions recorded so far."""

    asked: Request
    cfg: Config
    source: Folder
    listing: Listing
    sides: Sequence[int]
    where: list[str]
    """Settings of the dataset."""
    space: str
    name: str

    def __post_init__(self) -> None:
        self.path = Path(self.asked.runs).expanduser() / f"{self.name}.json"
        self.plan = files.read_json(self.path) or {}
        self.began, self.before = time.monotonic(), self.plan.get("spent", 0.0)

    def decide(self, key: str, choose: Callable[[], T]) -> T:
        """Return the recorded decision for `key`; if there is none, record and return the result of `choose()`."""
        if key not in self.plan:
            self.plan[key] = choose()
            self.plan["spent"] = self.before + time.monotonic() - self.began
            files.write_atomic(self.path, json.dumps(self.plan, indent=1) + "\n")
        decided: T = self.plan[key]
        return decided

    def run(self, kind: Literal["search", "retrain"], words: Sequence[str], step: str = "") -> invoke.Done:
        """Run a step unless it is finished, and return the finished run."""
        place = [f"name={self.name}-{step or kind}", lineage.override("out", self.asked.runs)]
        return invoke.call(kind, [*words, *self.asked.of(*BOTH), *place])

    def do(self) -> None:
        """Run the remaining steps, and record the result."""
        images = self.source.load()
        asked, n, allow = self.asked, len(images.train_y), self.cfg["allow"]
        side = min(images.train_x.shape[2:])
        self.proxy = asked.proxy if asked.proxy < side else None
        split = splits(images, self.source, 0)
        fit_report.understood(self.listing, self.source, images, self.sides, split, self.proxy)
        from nasx.tracking import environment

        self.size = SIZES[environment.device(str(self.cfg["device"])).type]
        self.batch = min(BATCH, max(2, n // 8))
        ours = self.space == "nb201" and "space.layers" not in asked.keys
        layers = self.size.layers if ours else self.cfg["space"]["layers"]
        network = fit_width.Networks(
            instantiate.build(self.cfg["space"], allow),
            images,
            self.cfg["retrain"]["layers"] if "retrain.layers" in asked.keys else layers,
            self.cfg["retrain"]["stem"],
        )
        network.feasible(asked.quantity, asked.target)
        words = self.decide("search", lambda: self.planned_search(side))
        said = "the estimated duration is logged after the first updates"
        print(f"[1/3] search, {steps(words, 'search')}; {said}", flush=True)
        found = self.run("search", words)
        given = [lineage.override("from", str(found.folder)), *asked.of(*RETRAIN)]
        if self.proxy:
            given.append(lineage.override("dataset.size", self.source.size))
        if "retrain.channels" in asked.keys:
            channels = self.cfg["retrain"]["channels"]
        else:
            work = self.size.channels, self.size.work / (LEAST_PASSES * n)
            cell = found.record["genotype"]
            channels = self.decide("channels", lambda: network.widest(cell, asked.quantity, asked.target, work))
        macs = network.cost(found.record["genotype"], channels).macs
        words = self.decide("retrain", lambda: self.planned_retrain(given, network.layers, channels, macs, n))
        print(f"[2/3] training of {found.record['genotype']}, {steps([*given, *words], 'retrain')}", flush=True)
        trained = self.run("retrain", [*given, *words])
        print("[3/3] export, test and latency of the ONNX file", flush=True)
        self.plan.pop("result", None)
        budget = asked.quantity, asked.target
        self.decide("result", lambda: fit_report.written(asked.out, *budget, trained, images, allow))

    def planned_search(self, side: int) -> list[str]:
        """Return the settings of the search: those on the command line, and the supernet size, budget and length.

        `side`: image height and width in pixels for the trained network.
        """
        asked, size = self.asked, self.size
        words = asked.defaults(method="tse_drnas", benchmark="none", search__batch=self.batch, search__arch_lr=ARCH_LR)
        words += asked.defaults(search__evaluate_every=0, search__evaluate_images=EVALUATED)
        if self.space == "nb201":  # other spaces keep the size set in their files
            words += asked.defaults(space__layers=size.layers, space__channels=size.channels)
        if asked.quantity:
            quantity = "params" if asked.quantity == "params" else "macs"  # multiply-adds are a proxy for latency
            words += asked.defaults(budget=quantity, budget__target=1.0)
        words = [*self.where, *words, *asked.of(*SEARCH)]
        if self.proxy:
            words = [word for word in words if not word.startswith("dataset.size=")] + [f"dataset.size={self.proxy}"]
            words += asked.defaults(budget__image=side) if asked.quantity else []
        updates = float(size.updates)
        if asked.minutes:
            updates = self.affordable("search", updates, words)
        words += length("search", updates, asked.keys)
        epochs = next((int(w.partition("=")[2]) for w in words if w.startswith("search.epochs=")), SLICES["search"])
        return words + asked.defaults(search__arch_warmup=epochs // WARM_UP)

    def planned_retrain(self, given: Sequence[str], layers: int, channels: int, macs: int, n: int) -> list[str]:
        """Return the settings of the training: network size, batch size, learning rate and length.

        `given`: settings already chosen. `macs`: multiply-adds for one image. `n`: number of training images.
        """
        asked, recipe, size = self.asked, self.cfg["retrain"], self.size
        batch = recipe["batch"] if "retrain.batch" in asked.keys else self.batch
        rate = round(recipe["lr"] * batch / recipe["batch"], 6)  # Goyal et al. 2017: proportional to the batch size
        words = asked.defaults(retrain__layers=layers, retrain__channels=channels, retrain__batch=batch)
        words += asked.defaults(retrain__lr=rate, retrain__evaluate_every=0)
        passes = size.passes * n / batch
        updates = min(passes, size.work / (macs * batch))
        if asked.minutes:
            updates = self.affordable("retrain", passes, [*given, *words])
        return words + length("retrain", updates, asked.keys)

    def affordable(self, kind: Literal["search", "retrain"], most: float, words: Sequence[str]) -> int:
        """Return how many updates, at most `most`, fit within the time limit. Raises UserError for fewer than `TIMED`.

        Updates are timed in a run of three epochs: the first is a warm-up, and the last ends with an evaluation. The
        plan records the measurements.
        """
        short = [f"{kind}.epochs=3", f"{kind}.updates_per_epoch={TIMED}"]
        first, second, third = (
            row["wall_s"] for row in records.read_rows(self.run(kind, [*words, *short], f"speed-{kind}").folder)
        )
        done = [records.finished(self.path.with_name(f"{self.name}-{step}")) for step in STEPS]
        spent = max(self.before + time.monotonic() - self.began, sum(record["wall_s"] for record in done if record))
        each, end = (second - first) / TIMED, max(0.0, third - 2 * second + first)
        self.plan[f"speed of {kind}"] = {"update_s": each, "evaluation_s": end, "spent_s": spent}
        return affordable(kind, most, 60 * (self.asked.minutes or 0), each, end, spent)


def affordable(kind: str, most: float, total: float, each: float, end: float, spent: float) -> int:
    """Return how many updates of `each` seconds, at most `most`, fit into `total` seconds.

    The seconds already `spent`, the reserve and the evaluations are subtracted first. One evaluation takes `end`
    seconds; training needs two, one in torch and one of the exported file. Raises UserError for fewer than `TIMED`.
    """
    left = total - max(60, RESERVE * total) - spent
    left = SHARE * left - end if kind == "search" else left - 2 * end
    updates = math.floor(min(most, left / each))
    if updates < TIMED:
        needs = f"one update takes {each:.2g} s on this machine, and at least {TIMED} are needed"
        said = f"leaves {max(left, 0):.0f} s, but {needs}"
        raise UserError(f"minutes={total / 60:g}", said, "increase minutes=, or lower dataset.size")
    return updates


def length(kind: str, updates: float, given: Collection[str]) -> list[str]:
    """Return settings for epochs and updates per epoch, or [] if the command line sets either (`given`: its keys)."""
    if any(f"{kind}.{key}" in given for key in FIXED):
        return []
    epochs = min(SLICES[kind], math.ceil(updates))
    return [f"{kind}.epochs={epochs}", f"{kind}.updates_per_epoch={math.ceil(updates / epochs)}"]


def steps(words: Sequence[str], kind: str) -> str:
    """Describe the number of updates and the batch size of a step, as far as its settings determine them."""
    found = dict(word.partition("=")[::2] for word in words)
    each, epochs, batch = (found.get(f"{kind}.{key}") for key in (*FIXED[::-1], "batch"))
    said = f"{int(epochs) * int(each):,} updates" if each and epochs else f"{epochs or 'given'} epochs"
    return said + (f" of {batch} images" if batch else "")
