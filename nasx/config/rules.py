"""Consistency checks of configuration values, as pure functions of the plain configuration.

`nasx.config.check.faults` calls each function with the configuration and the command. A function may raise TypeError
for a value of the wrong type, because that error is reported separately.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping

from nasx.config import budget_rules, process_rules, schema, search_rules, space_rules
from nasx.config.commands import COMMANDS, TRAINING_GROUPS
from nasx.core.constraints import SEEDS
from nasx.core.plain import Config
from nasx.core.quantities import value_at
from nasx.errors import UserError
from nasx.spaces import rules

LONGEST_NAME = 200
"""Maximum length of a folder name in bytes: file systems allow 255, and nasx appends suffixes such as -retrain."""


def _device(cfg: Mapping[str, object], command: str) -> Iterator[UserError]:
    device = cfg.get("device")
    if device is not None and not re.fullmatch(r"auto|cpu|cuda(:\d+)?", str(device)):
        yield UserError(f"device={device}", "unknown device", "use auto, cpu, cuda, or cuda:N")


def _folder_name(cfg: Mapping[str, object], command: str) -> Iterator[UserError]:
    name = cfg.get("name")
    if name is not None and not re.fullmatch(r"[\w+,=-][\w.+,=-]*", str(name)):
        yield UserError(
            f"name={name}",
            "is not a plain folder name",
            "use letters, digits and . _ -; set the parent folder with out=",
        )
    elif name is not None and (length := len(str(name).encode())) > LONGEST_NAME:
        yield UserError(
            f"name={str(name)[:20]}...",
            f"is {length} bytes long, but a folder name may have at most {LONGEST_NAME}",
            "shorten it",
        )


def _seeds(cfg: Config, command: str) -> Iterator[UserError]:
    """Check that the largest of the consecutive seeds starting at `seed` is allowed."""
    first, study = cfg.get("seed") or 0, cfg.get("study") or {} if command == "study" else {}
    last = first + max(cfg.get("seeds_per_job") or 1, study.get("searches", 0) + study.get("retrains", 0), 1) - 1
    if first < SEEDS <= last:
        yield UserError(
            f"seed={first}",
            f"would use seeds up to {last}, but the largest allowed seed is {SEEDS - 1}",
            "use a smaller seed",
        )


def _seeds_per_job(cfg: Config, command: str) -> Iterator[UserError]:
    """Check `seeds_per_job`: only `nasx search` supports it, and each search needs a folder named after its seed."""
    count, name = cfg.get("seeds_per_job") or 1, cfg.get("name")
    if count > 1 and TRAINING_GROUPS[command] and command != "search":
        yield UserError(
            f"seeds_per_job={count}",
            f"nasx {command} takes one seed at a time",
            "use --multirun seed=0,1,2, or nasx search",
        )
    elif count > 1 and name:
        yield UserError(
            f"name={name}",
            f"would put all runs of seeds_per_job={count} into one folder",
            "leave the name out: each run is then named after its seed",
        )
    elif count > 1 and cfg.get("profile"):
        yield UserError(
            f"seeds_per_job={count}", "cannot be profiled: torch profiles one run at a time", "use profile=0"
        )


def _auxiliary(cfg: Mapping[str, object], command: str) -> Iterator[UserError]:
    kind = _text(cfg, "space", "read_as")
    for group in TRAINING_GROUPS[command]:
        weight, layers = value_at(cfg, f"{group}.auxiliary"), value_at(cfg, f"{group}.layers")
        if weight and kind in ("nb201", "nb1shot1"):
            yield UserError(
                f"{group}.auxiliary={weight}",
                f"the networks of {kind} have no auxiliary head",
                f"set {group}.auxiliary=0",
            )
        elif weight and kind == "darts" and layers == 1:
            yield UserError(
                "retrain.layers=1",
                "has only one reduction, but the auxiliary head needs two",
                "use 3 or more, or set retrain.auxiliary=0",
            )


def _benchmark_networks(cfg: Config, command: str) -> Iterator[UserError]:
    """Check the layers and the stem of a retraining if the space uses the networks of a benchmark."""
    if "retrain" in TRAINING_GROUPS[command]:
        yield from rules.benchmark_size(_text(cfg, "space", "read_as"), "retrain", cfg.get("retrain") or {})


def _benchmark(cfg: Mapping[str, object], command: str) -> Iterator[UserError]:
    target, space = str(value_at(cfg, "benchmark._target_")), str(value_at(cfg, "space._target_"))
    if "benchmark" in COMMANDS[command].unread:
        return
    for name, home, example in (("nb201", "nb201", "nb201"), ("nb101", "nb1shot1", "nb1shot1_1")):
        if target.startswith(f"nasx.benchmarks.{name}.") and not space.startswith(f"nasx.spaces.{home}."):
            yield UserError(
                f"benchmark={name}",
                f"has no architectures of {space.rpartition('.')[2]}",
                f"use space={example}, or benchmark=none",
            )


def _images_or_text(cfg: Mapping[str, object], command: str) -> Iterator[UserError]:
    """Check that the dataset, search protocol and recipe match the input of the space: images or text."""
    wanted = _text(cfg, "space", "data")
    if not wanted:
        return
    fits = {"text": "dataset=ptb search=ptb retrain=ptb", "images": "dataset=cifar10 search=darts retrain=darts_cifar"}
    for group in ("dataset", *TRAINING_GROUPS[command]):
        found = _text(cfg, group, "data")
        if found not in ("", wanted):
            remedy = next(word for word in fits[wanted].split() if word.startswith(group))
            yield UserError(
                f"{group}={_class_name(cfg, group)}",
                f"is for {found}, but the networks in this space take {wanted}",
                f"use {remedy}, or a space whose networks take {found}",
            )


def _needs_two_cells(cfg: Mapping[str, object], command: str) -> Iterator[UserError]:
    """Check that the supernet has at least two cells if the method compares cells."""
    needs_two_cells = any(_flag(cfg, place, "needs_two_cells") for place in _method_places(cfg))
    if "search" in TRAINING_GROUPS[command] and needs_two_cells and _flag(cfg, "space", "single"):
        yield UserError(
            f"method={_class_name(cfg, 'method')}",
            "compares the cells of a supernet, but this space has only one",
            "use another method, for example method=darts",
        )


def _method_reads(cfg: Mapping[str, object], command: str) -> Iterator[UserError]:
    """Check that the method supports the input of the space: images or text."""
    found = _text(cfg, "space", "data")
    for place in _method_places(cfg) if "search" in TRAINING_GROUPS[command] else ():
        wanted = _text(cfg, place, "reads")
        if found and wanted not in ("", found):
            yield UserError(
                f"method={_class_name(cfg, place)}",
                f"is for networks that take {wanted}, but those in this space take {found}",
                f"use a space whose networks take {wanted}, or another method, for example method=random",
            )


def _class_name(cfg: Mapping[str, object], place: str) -> str:
    """Return the class name, without its module, of the component at a dotted key."""
    return str(value_at(cfg, f"{place}._target_")).rpartition(".")[2]


def _text(cfg: Mapping[str, object], place: str, name: str) -> str:
    """Return a string class constant of the component at a dotted key; empty if it is unknown."""
    return schema.text_constant(value_at(cfg, f"{place}._target_"), name)


def _flag(cfg: Mapping[str, object], place: str, name: str) -> bool:
    """Return whether a class constant of the component at a dotted key is known to be true."""
    return schema.constant(str(value_at(cfg, f"{place}._target_")), name) is True


def _method_places(cfg: Mapping[str, object]) -> Iterator[str]:
    """Yield the keys of the method and of the methods that it wraps: method, method.inner, ..."""
    place = "method"
    while isinstance(value_at(cfg, place), Mapping):
        yield place
        place += ".inner"


def _text_sizes(cfg: Mapping[str, object], command: str) -> Iterator[UserError]:
    words, batch = value_at(cfg, "search.evaluate_words"), value_at(cfg, "search.batch")
    if "search" not in TRAINING_GROUPS[command] or _text(cfg, "space", "data") != "text" or batch is None:
        return
    if batch == 1:
        yield UserError("search.batch=1", "is too small for batch norm", "use 2 or more")
    if words is not None and words < 2 * batch:
        yield UserError(
            f"search.evaluate_words={words}",
            f"is fewer than two words for each of the search.batch={batch} rows",
            f"use {2 * batch} or more, or null for all",
        )


def _rates(cfg: Mapping[str, object], command: str) -> Iterator[UserError]:
    for group in TRAINING_GROUPS[command]:
        lr, low = value_at(cfg, f"{group}.lr"), value_at(cfg, f"{group}.lr_min")
        if lr is not None and low is not None and low > lr > 0:
            yield UserError(f"{group}.lr_min={low}", f"is above {group}.lr={lr}", f"set it to at most {lr}")
        warmup, epochs = value_at(cfg, f"{group}.warmup_epochs"), value_at(cfg, f"{group}.epochs")
        if warmup is not None and epochs is not None and warmup >= epochs and warmup > 0:
            yield UserError(
                f"{group}.warmup_epochs={warmup}",
                f"is not less than {group}.epochs={epochs}",
                f"set it lower, or {group}.warmup_epochs=0",
            )


def _eval_mode(cfg: Mapping[str, object], command: str) -> Iterator[UserError]:
    """Check that the supernet tracks running statistics if an adversarial perturbation is computed in eval mode."""
    if "search" not in TRAINING_GROUPS[command] or value_at(cfg, "space.batch_norm") != "batch":
        return
    for place in _method_places(cfg):
        if value_at(cfg, f"{place}.perturbation") == "adversarial" and value_at(cfg, f"{place}.ascent") == "eval":
            yield UserError(
                f"{place}.ascent=eval",
                "needs batch norm's running statistics, but this supernet keeps none",
                f"set space.batch_norm=tracked, as in the released code, or {place}.ascent=train",
            )


def _optimizer(cfg: Config, command: str) -> Iterator[UserError]:
    for group in TRAINING_GROUPS[command]:
        if value_at(cfg, f"{group}.nesterov") and value_at(cfg, f"{group}.momentum") == 0:
            yield UserError(
                f"{group}.nesterov=true",
                f"needs momentum, but {group}.momentum=0",
                f"set {group}.nesterov=false, or {group}.momentum=0.9",
            )
    if "search" in TRAINING_GROUPS[command] and isinstance(cfg.get("search"), Mapping):
        yield from search_rules.faults(cfg["search"], str(value_at(cfg, "space._target_")))


def _accumulate(cfg: Mapping[str, object], command: str) -> Iterator[UserError]:
    if "retrain" not in TRAINING_GROUPS[command]:
        return
    batch, pieces = value_at(cfg, "retrain.batch"), value_at(cfg, "retrain.accumulate")
    if batch and pieces and batch % pieces:
        yield UserError(f"retrain.accumulate={pieces}", f"does not divide retrain.batch={batch}", "use a divisor of it")


def _given_architecture(cfg: Mapping[str, object], command: str) -> Iterator[UserError]:
    if command == "retrain" and (cfg.get("from") is None) == (cfg.get("genotype") is None):
        both = cfg.get("from") is not None
        yield UserError(
            "retrain",
            "from= and genotype= are mutually exclusive" if both else "no architecture is given",
            "give one: from=<a run of nasx search>, or genotype=<its text>",
        )


def _relaxed(cfg: Mapping[str, object], command: str) -> Iterator[UserError]:
    if command != "retrain" or not cfg.get("relaxed"):
        return
    if cfg.get("from") is None:
        yield UserError("relaxed=true", "trains the supernet of a search, but none is given", "add from=RUN")
    weight = value_at(cfg, "retrain.auxiliary")
    if weight and not value_at(cfg, "space.auxiliary"):
        yield UserError(f"retrain.auxiliary={weight}", "the supernet has no auxiliary head", "set retrain.auxiliary=0")


def _study(cfg: Mapping[str, object], command: str) -> Iterator[UserError]:
    yield from search_rules.varied(cfg)
    if command != "study":
        return
    searches, given = value_at(cfg, "study.searches"), [key for key in ("from", "genotype") if cfg.get(key) is not None]
    if searches and given:
        yield UserError(
            f"{given[0]}={cfg[given[0]]}",
            f"is not used when the study includes searches (study.searches={searches})",
            "use study=transfer, or leave it out",
        )
    if searches == 0 and len(given) != 1:
        yield UserError(
            "study.searches=0",
            "trains a given cell, but " + ("both from= and genotype= are given" if given else "none is given"),
            "give one: from=<a run of nasx search>, or genotype=<its text>",
        )
    if searches == 0 and value_at(cfg, "study.rank") != "none":
        yield UserError(
            f"study.rank={value_at(cfg, 'study.rank')}",
            "has nothing to choose from without searches",
            "set study.rank=none",
        )


def _held_out(cfg: Mapping[str, object], command: str) -> Iterator[UserError]:
    short = command == "study" and value_at(cfg, "study.rank") == "short"
    held = command in ("retrain", "run") and value_at(cfg, "retrain.held_out")
    if (short or held) and value_at(cfg, "dataset.split") == "full":
        yield UserError(
            "study.rank=short" if short else "retrain.held_out=true",
            "needs held-out images, but dataset.split=full holds out none",
            "choose another dataset.split",
        )
    warmup, epochs = value_at(cfg, "retrain.warmup_epochs"), value_at(cfg, "study.rank_epochs")
    if short and warmup is not None and epochs is not None and warmup >= epochs:
        yield UserError(f"study.rank_epochs={epochs}", f"does not exceed retrain.warmup_epochs={warmup}", "increase it")


def _needed_operations(cfg: Mapping[str, object], command: str) -> Iterator[UserError]:
    """Check that the space has the operations that the method needs."""
    needed = {name for place in _method_places(cfg) if (name := _text(cfg, place, "operation"))}
    space = cfg.get("space")
    if "search" not in TRAINING_GROUPS[command] or not needed or not isinstance(space, Mapping):
        return
    names = {
        str(name)
        for key in ("operations", "normal", "reduce", "cell")
        for row in space.get(key) or ()
        for name in ([row] if isinstance(row, str) else row)
    }
    for name in sorted(needed - names) if str(space.get("_target_")).startswith("nasx.spaces.") else ():
        yield UserError(
            "method", f"needs the operation {name}, which this space does not have", f"use a space with {name}"
        )


def _keep(cfg: Mapping[str, object], command: str) -> Iterator[UserError]:
    """Check that `space.keep` is a genotype."""
    keep = value_at(cfg, "space.keep")
    if "search" not in TRAINING_GROUPS[command] or not isinstance(keep, str):
        return
    from nasx.spaces import published

    try:
        published.check(keep, "darts")
    except UserError as error:
        short = keep if len(keep) <= 60 else f"{keep[:57]}..."
        yield UserError(
            f"space.keep={short}",
            f"is not a genotype ({error.fault})",
            "give a finished run of the first stage (space.edges=searched), or the genotype that it found",
        )


def _genotype(cfg: Config, command: str) -> Iterator[UserError]:
    """Check that `genotype` can be parsed and that the space contains it."""
    text, kind = cfg.get("genotype"), _text(cfg, "space", "read_as")
    if not isinstance(text, str) or not kind:
        return
    from nasx.spaces import published

    try:
        yield from space_rules.missing_from(cfg["space"], published.check(text, kind))
    except UserError as error:
        yield (
            error
            if not os.path.isfile(text)
            else UserError(
                f"genotype={text}",
                "is a file, not a genotype",
                f'pass its contents: genotype="$(cat {shlex.quote(text)})"',
            )
        )


COMBINATIONS: tuple[Callable[[Mapping[str, object], str], Iterator[UserError]], ...] = (
    _device,
    _folder_name,
    _seeds,
    _seeds_per_job,
    _auxiliary,
    _benchmark_networks,
    _benchmark,
    _images_or_text,
    _needs_two_cells,
    _method_reads,
    _text_sizes,
    _rates,
    _eval_mode,
    _optimizer,
    _accumulate,
    _given_architecture,
    _relaxed,
    _study,
    _held_out,
    _needed_operations,
    _keep,
    _genotype,
    budget_rules.faults,
    process_rules.faults,
)
