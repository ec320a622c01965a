"""Describe an architecture or a space and its cost, before anything is trained.

    nasx info genotype=NAME|TEXT [space=...] [retrain=RECIPE] [dataset=...]     an architecture as the recipe trains it
    nasx info from=RUN [...]                            the architecture of RUN, with the space, dataset, recipe and
                                                        classes of RUN, or of its retraining if RUN is a search
    nasx info space=NAME [dataset=...]                                          a space and its supernet
    nasx info space=NAME method=NAME [batch=N]          the same, and the peak memory of a search step

    layers=N channels=N     network size, instead of the recipe's (architecture) or the space's (supernet)
    max_macs=N              the most channels within N multiply-adds
    classes=N size=N        classes and image size, instead of the dataset's; without dataset= they follow from the
                            recipe's stem: imagenet is 1000 classes at 224 x 224 pixels, cifar is 10 at 32 x 32; for
                            text, classes=N is the number of words in the vocabulary
    out=FILE.svg|FILE.png   a drawing of each cell of the architecture, or of all possible edges in the cells of a space
    allow=PACKAGE           your own package that defines the space or dataset of RUN

Parameters exclude the auxiliary head unless stated otherwise; for a supernet, they exclude architecture parameters.
Multiply-adds are counted for convolutions and linear layers on one image (one word of text), by torch on its meta
device. The peak memory covers all tensors of one step on a GPU and is computed from their shapes; the dataset, the CUDA
context and the workspaces of CUDA libraries need additional memory.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from nasx.cli.arguments import Arguments, parse
from nasx.config import identity as config_identity
from nasx.config import instantiate
from nasx.core import spelling
from nasx.core.plain import Config
from nasx.errors import UserError, printable
from nasx.tracking import lineage, records

if TYPE_CHECKING:
    from nasx.config.compose import Resolved
    from nasx.spaces.base import Space
    from nasx.spaces.edges import Edge
    from nasx.tracking.lineage import Parent

OPTIONS = (
    "genotype",
    "from",
    "space",
    "retrain",
    "dataset",
    "method",
    "batch",
    "layers",
    "channels",
    "max_macs",
    "classes",
    "size",
    "out",
    "allow",
)
IMAGES = {
    "cifar10": (10, 32),
    "cifar100": (100, 32),
    "svhn": (10, 32),
    "imagenet16": (120, 16),
    "imagenet": (1000, 224),
    "ptb": (10_000, 1),
}
"""Number of classes and image size of standard datasets; other datasets are opened to determine them."""
DRAWN = 400
"""Architectures drawn to find all possible edges of a space; an edge in 1 of 18 is missed with probability 1e-10."""
Facts = dict[str, object]


def main(words: Sequence[str]) -> int:
    """Print one fact per line."""
    args = parse("info", words, dict.fromkeys(OPTIONS, ""))
    given = args.options
    if given["genotype"] and given["from"]:
        raise UserError("nasx info", "genotype and from are both given", "give one of them")
    if not (given["genotype"] or given["from"] or given["space"]):
        raise UserError(
            "nasx info", "needs a genotype, a run or a space", "give genotype=DARTS_V2, from=<a run> or space=s1"
        )
    if given["out"] and Path(given["out"]).suffix not in (".svg", ".png"):
        raise UserError(
            f"out={given['out']}", "is not the name of an image file", "use a name that ends in .svg or .png"
        )
    if (given["method"] or given["batch"]) and not given["space"]:
        raise UserError("nasx info", "method and batch apply only to a search space", "give space=NAME")
    facts = architecture(args) if given["genotype"] or given["from"] else supernet(args)
    width = max(map(len, facts)) + 2
    for name, value in facts.items():
        print(printable(f"{name.ljust(width)}{value}"))
    return 0


# --------------------------------------------------------------------------------------------- an architecture
def architecture(args: Arguments) -> Facts:
    """Return facts about the architecture in `genotype=` or `from=`, as the recipe trains it. Raises UserError."""
    given, allow = dict(args.options), args.allowed
    compose_job(given)  # an unknown choice is reported before anything heavy is imported
    run = lineage.open_parent(lineage.run_folder(given["from"], "outputs")) if given["from"] else None
    text, source = genotype_and_source(given, run)
    sizes = [name for name in ("layers", "channels", "max_macs") if given[name]]
    cfg, choices = retrain_config(given, text, run, [f"retrain.{name}={args.number(name)}" for name in sizes])
    space, settings = instantiate.build(cfg["space"], allow), instantiate.build(cfg["retrain"])
    genotype = space.parse(text)
    classes, size = images(args, cfg, space, settings.stem, run)

    from nasx.spaces.cost import cost
    from nasx.train.job import built, sized

    limits = instantiate.build(cfg["budget"]).width_limits()
    settings = sized(settings, space, genotype, classes, shape(space, size), limits)
    price = cost(built(settings, space, genotype, classes), space.example(1, shape(space, size)))
    held = [name for name in ("layers", "channels", "stem") if name in cfg["retrain"]]
    facts: Facts = {
        "genotype": genotype,
        "source": source,
        "space": choices["space"],
        "recipe": f"{settings.recipe} (retrain={choices['retrain']})",
        **{name: getattr(settings, name) or "the space's own" for name in held},
        **input_facts(space, classes, size),
        "parameters": price.params,
    }
    if settings.auxiliary:
        facts["parameters with auxiliary head"] = price.params_with_auxiliary
    counts = Counter(genotype.operations()).most_common()
    facts |= {"multiply-adds": price.macs, "operations": ", ".join(f"{name} {n}" for name, n in counts)}
    if given["out"]:
        from nasx.report import cells

        facts["drawing"] = " ".join(map(str, cells.draw_cells(genotype.edges(), given["out"])))
    return facts


def genotype_and_source(given: Mapping[str, str], run: Parent | None) -> tuple[str, str]:
    """Return the genotype as text, and a description of its source. Raises UserError."""
    from nasx.spaces import published

    if run is not None:
        found = records.finished(run.folder) or {}
        if not found.get("genotype"):
            fault = f"{run.folder} contains no finished run"
            raise UserError(f"from={given['from']}", fault, "run that run's command again: it will resume and finish")
        if found.get("relaxed"):
            raise UserError(f"from={given['from']}", "contains a supernet, not a cell", f"use from={found['parent']}")
        return str(found["genotype"]), f"{run.folder}: {found['command']}"
    text = given["genotype"].strip()
    cell = published.find(text) or next((c for c in published.cells().values() if c.text == text), None)
    if cell is None and re.fullmatch(r"[A-Za-z]\w*", text):
        remedy = spelling.suggest(text, published.cells(), "write the genotype itself, or one of")
        raise UserError(f"genotype={text}", "no published cell has that name", remedy)
    return (text, "given as text") if cell is None else (cell.text, f"{cell.name}, {cell.source}")


def retrain_config(given: Mapping[str, str], text: str, run: Parent | None, values: Sequence[str]) -> Resolved:
    """Return (configuration, choices) of `nasx retrain` for a genotype.

    Choices in `given` take precedence over those of `run`, which take precedence over the defaults. A search determines
    the space and dataset, and a retraining also the recipe and budget. Raises UserError.
    """
    from nasx.config import compose
    from nasx.config.compose import Resolved

    retrained = run is not None and run.record.get("kind") == "retrain"
    groups = (*lineage.INHERITED_GROUPS, *(["retrain", "budget"] if retrained else []))
    theirs = {group: (str(run.choices.get(group) or ""), run.block(group)) for group in groups} if run else {}
    loader, keys = compose.make_loader(), [value.partition("=")[0].partition(".")[2] for value in values]
    chosen = dict(given)
    for group, (choice, _) in theirs.items():
        if choice in compose.options(loader, group):
            chosen[group] = given.get(group) or choice
    chosen["space"] = chosen["space"] or find_space(text)
    cfg, choices = compose_job(chosen, values)
    for group, (choice, block) in theirs.items():
        if choices[group] == choice:
            cfg[group] = lineage.adopt_settings(cfg[group], block, keys if group == "retrain" else ())
        elif not given.get(group) and block:  # a user's own file, which is not read here
            cfg[group], choices[group] = dict(block), choice
    if {"channels", "max_macs"} & {*keys}:  # these replace the run's limits, which would determine the channels
        cfg |= config_identity.NO_BUDGET
        if "max_macs" not in keys and "max_macs" in cfg["retrain"]:
            cfg["retrain"]["max_macs"] = None
    return Resolved(cfg, choices)


def find_space(text: str) -> str:
    """Return the first space that contains the genotype; darts and nb201 are tried first. Raises UserError."""
    from nasx.config import compose

    loader = compose.make_loader()
    names = sorted(compose.options(loader, "space"), key=lambda name: (name not in ("darts", "nb201"), name))
    for name in names:
        space: Space = instantiate.build(compose_job({"space": name})[0]["space"])
        try:
            space.parse(text)
        except UserError:
            continue
        return name
    raise UserError(
        f"genotype={text if len(text) <= 60 else text[:57] + '...'}",
        "does not belong to any search space of nasx",
        "check the text, or give space=... to see what is wrong with it",
    )


def compose_job(given: Mapping[str, str], values: Sequence[str] = (), command: str = "retrain") -> Resolved:
    """Compose a command with the choices `given` and the overrides `values`. Raises UserError for an unknown choice."""
    from nasx.cli import arguments, preflight
    from nasx.config import compose

    groups = ("space", "dataset", "retrain" if command == "retrain" else "method")
    chosen = [f"{group}={given[group]}" for group in groups if given.get(group)]
    line = arguments.Line(("--cfg=job",), (*chosen, *values))
    preflight.check_line(command, line)
    return compose.make_loader().compose(command, line.overrides)


def images(args: Arguments, cfg: Config, space: Space, stem: str, run: Parent | None = None) -> tuple[int, int]:
    """Return the number of classes and the image side in pixels: as given, else of the dataset, else of the stem."""
    source = instantiate.build(cfg["dataset"], args.allowed)
    recorded = run.record.get("images") if run is not None and not args.options["dataset"] else None
    if isinstance(recorded, Mapping) and space.data == "text":
        classes, size = recorded["words"], 1
    elif isinstance(recorded, Mapping):
        classes, size = len(recorded["classes"]), recorded["shape"][1]
    elif not args.options["dataset"] and not (run and run.block("dataset")):
        usual = "ptb" if space.data == "text" else "imagenet" if stem == "imagenet" else "cifar10"
        classes, size = IMAGES[usual]
    elif source.name in IMAGES:
        classes, size = IMAGES[source.name]
    elif args.options["classes"] and args.options["size"]:
        classes = size = 0
    else:
        found = source.open("cpu")
        classes, size = len(found.classes), found.shape[1]
    given = [args.optional(name) for name in ("classes", "size")]
    return given[0] or classes, given[1] or size


def shape(space: Space, size: int) -> tuple[int, ...]:
    """Return the shape of one input item for the networks of a space."""
    return (size,) if space.data == "text" else (3, size, size)


def input_facts(space: Space, classes: int, size: int) -> Facts:
    """Describe the inputs of the networks."""
    return {"words": classes} if space.data == "text" else {"classes": classes, "image": f"{size}x{size}"}


# ----------------------------------------------------------------------------------------------------- a space
def supernet(args: Arguments) -> Facts:
    """Return facts about a space and its supernet. Raises UserError."""
    given = args.options
    sized = [f"space.{name}={args.number(name)}" for name in ("layers", "channels") if given[name]]
    cfg, choices = compose_job(given, sized)
    space: Space = instantiate.build(cfg["space"])
    classes, size = images(args, cfg, space, cfg["space"].get("stem", "cifar"))
    params, macs = supernet_cost(space, classes, size)
    shapes = space.shapes()
    facts: Facts = {
        "space": choices["space"],
        "genotypes": space.size(),
        **{name: cfg["space"][name] for name in ("layers", "channels") if name in cfg["space"]},
        **input_facts(space, classes, size),
        "parameters": params,
        "architecture parameters": sum(prod(shape) for shape in shapes.values()),
        "shapes": ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items()),
        "multiply-adds": macs,
    }
    if given["method"] or given["batch"]:
        batch = [f"search.batch={args.number('batch')}"] if given["batch"] else []
        searched, _ = compose_job(given, [*sized, *batch], "search")
        facts |= step_memory(searched, args.allowed, classes, shape(space, size))
    if given["out"]:
        from nasx.report import cells

        facts["drawing"] = " ".join(map(str, cells.draw_cells(possible(space), given["out"])))
    return facts


def step_memory(cfg: Config, allow: Sequence[str], classes: int, shape: tuple[int, ...]) -> Facts:
    """Return the predicted peak memory of a search step, its parts, and the lower peaks with memory-saving settings."""
    from nasx.searcher.memory import Memory
    from nasx.tracking import environment
    from nasx.tracking.progress import memory

    space, method, settings, engine = (
        instantiate.build(cfg[group], allow) for group in ("space", "method", "search", "engine")
    )
    step = Memory(space, method, settings, engine, classes, shape)
    peak, there = step.peak(), environment.available(environment.device("auto"))
    return {
        "batch": settings.batch,
        "peak memory of a step": memory(peak.total),
        "of it before the step": f"weights {memory(peak.weights)}, optimizers {memory(peak.states)}",
        **{f"peak with {words}": memory(lower.total) for words, lower in step.lighter(peak)},
        **({"free memory of the GPU": memory(there)} if there else {}),
    }


def supernet_cost(space: Space, classes: int, size: int) -> tuple[int, int]:
    """Return the parameters of a supernet, and its multiply-adds for one item with operations computed separately."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), torch.no_grad():
        net = space.supernet(classes, naive=True)
        mix = {name: torch.empty(cells, *space.shapes()[name][-2:]) for name, cells in space.cells().items()}
        with FlopCounterMode(display=False) as counter:
            net(space.example(2, shape(space, size)), mix)  # two items: batch norm over a single value is an error
    return sum(x.numel() for x in net.parameters()), counter.get_total_flops() // 4


def possible(space: Space) -> dict[str, list[Edge]]:
    """Return a dictionary from cell names to all possible edges in a space, one per pair of nodes.

    The label of an edge lists its possible operations; operations of nodes are left out.
    """
    import torch

    gen = torch.Generator().manual_seed(0)
    found: dict[str, dict[tuple[str, str], set[str]]] = {}
    for _ in range(DRAWN):
        for cell, edges in space.sample(gen).edges().items():
            for source, target, operation in edges:
                pair = (source.partition("\n")[0], target.partition("\n")[0])
                found.setdefault(cell, {}).setdefault(pair, set()).add(operation)
    return {
        cell: [(*pair, "\n".join(sorted(names))) for pair, names in sorted(pairs.items(), key=_by_target)]
        for cell, pairs in found.items()
    }


def _by_target(item: tuple[tuple[str, str], object]) -> tuple[int, ...]:
    """Return a sort key for node pairs: cell inputs first, then numbered nodes in order."""
    return tuple(int(name) if name.isdigit() else -1 for name in item[0])
