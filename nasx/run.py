"""One experiment, top to bottom: build the components, open the run folder, search, discretize, look up, record.

`search`, `retrain` and `run` take the checked configuration as plain values and return the record that they wrote.
Nothing here names a method, a space or a benchmark.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import torch

from nasx import config, ending, records, verdict
from nasx.bilevel import Search, Tree, detached
from nasx.data.augment import Augment
from nasx.data.stream import Stream, device_images, evaluation, hashed, splits
from nasx.diagnose import Watch
from nasx.errors import UserError
from nasx.progress import Display, text
from nasx.relaxed import RelaxedProblem, weights
from nasx.search import Loop
from nasx.session import Config, Result, Session, session

log = logging.getLogger("nasx")


# --------------------------------------------------------------------------------------------------- search
def search(cfg: Config, info: Config) -> Result:
    """Search, discretize and look up; resumes an unfinished run, returns a finished one's record at once."""
    with session(cfg, info) as here:
        done = records.finished(here.run.folder)
        if done is not None:
            ending.show(done, here.run.folder)
            return done
        return _search(here)


def _search(here: Session) -> Result:
    cfg, settings = here.config, config.build(here.config["search"])
    space, method = config.build(cfg["space"]), config.build(cfg["method"])
    benchmark, engine = config.build(cfg["benchmark"]), config.build(cfg["engine"])
    source = config.build(cfg["dataset"])
    images = source.load()
    on_device = device_images(images, here.device)
    w_index, a_index = splits(images, source, cfg["seed"])
    augment = Augment.of(source, images, cutout=settings.cutout)
    streams = [Stream(on_device.train_x, on_device.train_y, index, batch=settings.batch, seed=cfg["seed"],
                      augment=augment, name=name) for name, index in (("w", w_index), ("a", a_index))]

    torch.manual_seed(cfg["seed"])
    supernet = space.supernet(len(images.classes), naive=engine.supernet == "naive").to(here.device)
    problem = RelaxedProblem(space, supernet, method.activate, auxiliary=settings.auxiliary)
    gen = torch.Generator().manual_seed(hashed(cfg["seed"], "architecture"))
    a = {k: x.to(here.device).requires_grad_() for k, x in method.start(space.init(gen)).items()}
    w = weights(supernet)
    state = Search(problem, w, a, weight_optimizer(w, settings), architecture_optimizer(a, settings), settings.clip)
    watch = Watch(state, space, supernet, *streams, every=settings.diagnose_every, epochs=settings.epochs,
                  weight_decay=settings.arch_weight_decay, stop=config.build(cfg["stop"]))

    def genotype_of(mix: Tree) -> Any:
        return space.discretize({k: x.detach().cpu() for k, x in mix.items()})

    def lookup(mix: Tree) -> Result | None:
        score = benchmark.query(genotype_of(mix))
        return None if score is None else score.as_record()

    def valid_score(mix: Tree) -> float | None:
        found = lookup(mix)
        key = benchmark.dataset_key(cfg["dataset"]["_target_"].rsplit(".", 1)[-1]) or "cifar10"
        return None if found is None or key not in found else found[key]["valid"]

    def evaluate() -> dict[str, float]:
        means = problem.evaluate(state.w, problem.relax(state.a), evaluation(
            on_device.train_x, on_device.train_y, a_index, batch=4 * settings.batch, augment=augment))
        return {"valid_loss": means["loss"], "valid_accuracy": means["accuracy"]}

    updates = settings.updates_per_epoch or -(-len(w_index) // settings.batch)
    loop = Loop(state, method, supernet, *streams, epochs=settings.epochs, updates_per_epoch=updates, lr=settings.lr,
                lr_min=settings.lr_min, warmup=settings.arch_warmup)
    saved = here.resume()
    if saved is not None:
        loop.load(saved)
        problem.passes, watch.rows = saved["passes"], here.run.rows()
        loop.stopped = watch.stopped
        log.info("%s: resuming at update %d of %d", here.run.folder, state.updates, loop.total)

    def save() -> None:
        here.save({**loop.state(), "passes": problem.passes}, state.updates, len(watch.rows))

    def begin_epoch(epoch: int) -> None:
        problem.drop_path = settings.drop_path * epoch / settings.epochs

    def tick(_: Loop) -> None:
        here.check_signals(save)
        if here.device.type == "cpu" or display.due():
            means = loop.meter.means()
            loop.guard(means)
            if display.due():
                display.show(state.updates, f"{state.epoch + 1}/{settings.epochs}", means)
        if time.monotonic() - here.saved > cfg["checkpoint_s"]:
            save()

    def end_epoch(row: dict[str, Any]) -> None:
        mix = detached(problem.relax(state.a))
        if settings.evaluate_every and row["epoch"] % settings.evaluate_every == 0:
            row |= evaluate()
        row |= {"genotype": str(genotype_of(mix)), "lookup": lookup(mix)}
        row |= watch.entries(row["epoch"], mix, row["genotype"]) | {"wall_s": round(here.elapsed_s, 3)}
        here.run.append(row)
        watch.rows.append(row)
        loop.stopped = watch.stopped
        save()
        log.info("epoch %d/%d  %s%s", row["epoch"], settings.epochs, text(row), table_text(row["lookup"]))

    loop.begin_epoch, loop.end_epoch, loop.tick = begin_epoch, end_epoch, tick
    with Display(here.run.folder, total=loop.total, done=state.updates, quiet=cfg["quiet"]) as display:
        loop.run()
        stopped = watch.ended()
        mix = space.encode(space.parse(stopped["genotype"])) if stopped and loop.stopped else method.choose(
            state, valid_score, streams[1], torch.Generator().manual_seed(hashed(cfg["seed"], "choose")))
        genotype = genotype_of(mix)
        final = evaluate() if method.trains else {}
        found = lookup(mix)
        result = here.record(
            "search", protocol=settings.protocol, labels=[name for name in method.labelled if getattr(method, name)],
            genotype=str(genotype), operations=genotype.operations(), lookup=found, reference=reference(benchmark),
            supernet={**final, "params": sum(x.numel() for x in w.values())}, parent=None, test_accuracy=None,
            params=None if found is None else found["params"], updates=state.updates, passes=problem.passes,
            stopped=stopped, diagnostics=watch.cost(), changed=changed(here))
        result["verdict"] = verdict.verdict(watch.rows, result)
        records.write_atomic(here.run.folder / "genotype.txt", f"{genotype}\n")
        here.run.finish(result)
    pictures(here.run.folder)
    ending.show(result, here.run.folder)
    return result


def weight_optimizer(w: Tree, settings: Any) -> torch.optim.SGD:
    return torch.optim.SGD(list(w.values()), lr=settings.lr, momentum=settings.momentum, nesterov=settings.nesterov,
                           weight_decay=settings.weight_decay)


def architecture_optimizer(a: Tree, settings: Any) -> torch.optim.Optimizer:
    """Adam with the protocol's betas, or plain SGD (Single-DARTS' ablations)."""
    if settings.arch_optimizer == "sgd":
        return torch.optim.SGD(list(a.values()), lr=settings.arch_lr, weight_decay=settings.arch_weight_decay)
    return torch.optim.Adam(list(a.values()), lr=settings.arch_lr, betas=tuple(settings.arch_betas),
                            weight_decay=settings.arch_weight_decay)


def reference(benchmark: Any) -> Result:
    """Optimum, median and random mean of each data set that the benchmark answers for."""
    found = {name: benchmark.reference(name) for name in ("cifar10", "cifar100", "imagenet16")}
    return {name: values for name, values in found.items() if values}


def changed(here: Session) -> Result:
    """Settings that differ from the published configuration: key -> [published, used]."""
    published = here.info.get("published")
    if not published:
        return {}
    old, new = records.flatten(published), records.flatten(config.identifying(here.config))
    return {k: [old.get(k), new.get(k)] for k in sorted(old.keys() | new.keys())
            if old.get(k) != new.get(k) and k != "seed"}


def table_text(lookup: Result | None) -> str:
    """A look-up in a few words."""
    found = [f"{name} {values['valid']:.2f}" for name, values in (lookup or {}).items()
             if type(values) is dict and values.get("valid") is not None]
    return "  table valid: " + ", ".join(found) if found else ""


def pictures(folder: Path) -> None:
    """Draw the cell and the curves; a run is complete without them, so a fault is told and not raised."""
    from nasx import cells, curves

    for draw in (cells.draw, curves.search_picture):
        try:
            draw(folder)
        except (UserError, OSError, ValueError) as error:
            log.warning("%s: no picture: %s", folder, error)


# -------------------------------------------------------------------------------------------------- retrain
def retrain(cfg: Config, info: Config) -> Result:
    """Train a found or named genotype from scratch; resumes an unfinished run."""
    from nasx.retrain import train

    with session(cfg, info, "retrain") as here:
        done = records.finished(here.run.folder)
        result = train(here) if done is None else done
        ending.show(result, here.run.folder)
        return result


def run(cfg: Config, info: Config) -> Result:
    """Search, then look up or retrain what was found, in one configuration."""
    found = search(cfg, info)
    then = cfg["then"]
    if then == "lookup" or (then == "auto" and found["lookup"] is not None):
        return found
    folder = Path(cfg["out"]) / found["name"]
    again = {**cfg, "from": str(folder), "genotype": None, "name": f"{cfg['name']}-retrain" if cfg["name"] else None}
    return retrain(again, info)
