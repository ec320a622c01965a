"""A search as a job: its components, metrics rows, checkpoints and record."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nasx.config import identity, instantiate, stages
from nasx.core import distributed, metrics, versions
from nasx.core.bilevel import Method, Search, Selection, Step, Tree, detached
from nasx.core.plain import Result, State
from nasx.data.batch_stream import hashed
from nasx.data.source import Source
from nasx.diagnostics import verdict
from nasx.diagnostics.recorder import Watch
from nasx.errors import UserError
from nasx.searcher import cuda_graphs
from nasx.searcher import stage as search_stage
from nasx.searcher.branch import branch_state
from nasx.searcher.loop import Loop
from nasx.searcher.memory import Memory, Peak
from nasx.searcher.optimizers import architecture_optimizer, weight_optimizer
from nasx.searcher.problem import RelaxedProblem, weights
from nasx.searcher.warm_start import warm_start
from nasx.spaces.base import Genotype, Space
from nasx.tracking import environment
from nasx.tracking.job import Job
from nasx.tracking.progress import SelectionProgress, duration, memory
from nasx.tracking.session import Session

log = logging.getLogger("nasx")
LONG = 1000
"""Minimum number of updates of a run for a memory prediction, which takes as long as a few updates on a CPU."""


class SearchJob(Job):
    """A search in its run folder."""

    kind = "search"

    def __init__(
        self, ctx: Session, stage: search_stage.Stage | None = None, path: Mapping[str, object] | None = None
    ) -> None:
        """Build the search. `path` contains engine settings (see calibration.py) that override the configuration."""
        self.stage = stage or search_stage.stage(ctx.config, ctx.run.folder, stages.count(ctx.config) - 1)
        cfg = self.stage.config

        def build(group: str) -> Any:
            return instantiate.build(cfg[group], cfg["allow"])

        self.settings, self.warm_up_s = build("search"), 0.0
        self.decided: list[object] = []
        self.measured: dict[str, float] = {}
        self.chosen: dict[str, object] = {}
        self.space: Space = build("space")
        self.method: Method = build("method")
        self.benchmark = build("benchmark")
        self.source: Source = build("dataset")
        self.engine_settings = engine = replace(build("engine"), **(path or {}))
        settings = self.settings
        self.data = self.source.open(
            ctx.device,
            **settings.reading,
            channels_last=engine.channels_last,
            workers=environment.workers(cfg["workers"]),
        )
        w_index, self.a_index = self.data.split(cfg["seed"])

        torch.manual_seed(cfg["seed"])
        supernet = self.space.supernet(len(self.data.classes), naive=engine.supernet == "naive").to(ctx.device)
        self.problem = RelaxedProblem(
            self.space,
            supernet,
            self.method.activate,
            auxiliary=settings.auxiliary,
            engine=engine,
            classes=len(self.data.classes),
            parallel=distributed.world_size() > 1,
        )
        budget = instantiate.build(cfg.get("budget") or versions.NO_BUDGET, cfg["allow"])
        self.limit = budget.open(self.problem, self.benchmark, getattr(self.data, "shape", ()))
        gen = torch.Generator().manual_seed(hashed(cfg["seed"], "architecture"))
        a = self.method.start(self.space.init(gen))
        a = {k: x.to(ctx.device).requires_grad_() for k, x in a.items()}
        w = weights(supernet)
        self.search = Search(
            self.problem,
            w,
            a,
            weight_optimizer(w, settings),
            architecture_optimizer(a, settings),
            settings.clip,
            arch_penalty=None if self.limit is None else self.limit.penalty,
        )
        if self.stage.inherited is not None:
            warm_start(self.search, supernet, self.space, *self.stage.inherited, len(self.data.classes))
        train, val = (
            self.data.stream(name, index, batch=settings.batch, seed=cfg["seed"])
            for name, index in (("w", w_index), ("a", self.a_index))
        )
        self.watch = Watch(self.search, self.space, supernet, train, val, settings, build("stop"))
        advance = self.watch.over(self.graph_step(engine.graphs, ctx.device) or self.method.step, self.method.step)
        self.loop = Loop(
            self.search,
            self.method,
            supernet,
            train,
            val,
            settings,
            settings.updates_per_epoch or train.per_pass * self.method.updates_per_batch,
            advance=advance,
            span=self.stage.epochs,
            begin_epoch=self.begin_epoch,
            end_epoch=self.end_epoch,
            tick=self.tick,
        )
        self.keep_every = settings.keep_every
        super().__init__(ctx, self.loop, metrics.OF[settings.data], settings.epochs)
        own = sum(x.numel() * x.element_size() for x in (*supernet.parameters(), *supernet.buffers(), *a.values()))
        self.other_memory = torch.cuda.memory_allocated(ctx.device) - own if ctx.device.type == "cuda" else 0
        own_share = replace(settings, batch=-(-settings.batch // distributed.world_size()))
        self.memory = Memory(self.space, self.method, own_share, engine, len(self.data.classes), self.data.shape)
        ctx.needs = self.needs

    # ------------------------------------------------------------------------------------------------- the step
    def needs(self, peak: Peak | None = None) -> tuple[str, list[str]]:
        """Describe the peak memory of a step, and the settings that would lower it, each with the resulting peak."""
        peak = peak or self.memory.peak()
        said = f"a step needs {memory(peak.total + self.other_memory)}"
        if self.other_memory > 0:
            said += f", including the {memory(self.other_memory)} that data and other runs take"
        less = self.memory.lighter(peak)
        return said, [f"set {words} ({memory(lower.total + self.other_memory)})" for words, lower in less]

    def log_memory(self) -> None:
        """Log the predicted peak memory, and a warning if the GPU has less free memory."""
        try:
            peak = self.memory.peak()
        except Exception as error:  # noqa: BLE001  a step that reads tensor values cannot be predicted, but can run
            log.debug("the peak memory is not predicted: %s", error)
            return
        total, there = peak.total + self.other_memory, environment.available(self.ctx.device)
        free = "" if there is None else f"; {memory(there)} are free for this process"
        log.info("predicted peak memory of the tensors of a step: %s%s", memory(total), free)
        if there is not None and total > there:
            ways = ", or ".join(self.needs(peak)[1]) or "lower search.batch"
            log.warning("a step does not fit into the free memory: %s", ways)

    def graph_step(self, wanted: str, device: torch.device) -> Step | None:
        """Return a step that replays CUDA graphs; None if `wanted` is off, or if it is auto and graphs are impossible.

        Raises UserError if `wanted` is on and graphs are impossible.
        """
        if wanted == "off":
            return None
        why = cuda_graphs.reason(device, carries=self.data.carries)
        if distributed.world_size() > 1:
            why = "the search runs in several processes"
        if why is None:
            return cuda_graphs.Replayed(self.method, self.problem, cuda_graphs.cuda(device), required=wanted == "on")
        if wanted == "on":
            raise UserError("engine.graphs=on", f"steps cannot be replayed: {why}", "use engine.graphs=auto")
        log.info("steps run eagerly: %s", why)
        return None

    # ------------------------------------------------------------------------------------- architectures
    def genotype(self, mix: Tree) -> Genotype:
        return self.space.discretize({k: x.detach().cpu() for k, x in mix.items()})

    def lookup(self, mix: Tree) -> Result | None:
        return self.query(self.genotype(mix))

    def query(self, genotype: object) -> Result | None:
        """Return the benchmark results of a genotype; None if the benchmark does not contain it."""
        score = self.benchmark.query(genotype)
        return None if score is None else score.as_record()

    def score(self, mix: Tree) -> float | None:
        """Return the benchmark's validation accuracy of a mixture's genotype; None if unknown.

        The accuracy is that on this dataset, or on CIFAR-10 if the benchmark lacks the dataset.
        """
        found = self.lookup(mix)
        key = self.benchmark.dataset_key(self.source.name) or "cifar10"
        return None if found is None or key not in found else found[key]["valid"]

    def evaluate(self) -> dict[str, float]:
        """Evaluate the supernet with the current mixture on the validation split."""
        most, batch = self.settings.evaluated
        batches = self.data.ordered("train", self.a_index[:most], batch=batch)
        means = self.problem.evaluate(self.search.w, self.problem.relax(self.search.a), batches)
        return self.metric.convert({"valid_loss": means["loss"], "valid_accuracy": means["accuracy"]})

    # ------------------------------------------------------------------------------------------------- the job
    def resume(self) -> None:
        if self.stage.last and self.stage.done:
            self.ctx.add_elapsed(sum(record["wall_s"] for record in self.stage.done))
        super().resume()
        if not self.search.updates and self.loop.total >= LONG:
            self.log_memory()

    def origin(self) -> State | None:
        branch = self.ctx.config.get("branch")
        return branch and branch_state(Path(self.ctx.info.origin), branch, self.loop, self.ctx.device)

    def load(self, state: State) -> None:
        super().load(state)
        self.problem.passes, self.watch.rows = state["passes"], distributed.broadcast_object(self.ctx.run.rows())
        self.decided, self.measured = state.get("decided", []), state.get("measured", {})
        self.watch.load(state["watch"])
        self.loop.stopped = self.watch.stopped

    def state(self) -> State:
        own = {"passes": self.problem.passes, "watch": self.watch.state()}
        return {**super().state(), **own, "decided": self.decided, "measured": self.measured}

    def begin_epoch(self, epoch: int) -> None:
        """Set the options of the supernet's training passes for this epoch, such as the drop-path rate."""
        self.problem.options = self.settings.options(epoch)

    def tick(self, _: object) -> None:
        if self.problem.compiled and not self.warm_up_s:
            self.warm_up_s = round(time.monotonic() - self.began, 1)
            log.info(
                "compiled: the first step took %s; the compiled code is cached in %s for later runs",
                duration(self.warm_up_s),
                os.environ["TORCHINDUCTOR_CACHE_DIR"],
            )
        super().tick(_)

    def row(self, means: dict[str, float]) -> dict[str, object]:
        row: dict[str, object] = {**self.metric.convert(means)}
        epoch = int(means["epoch"])
        mix = detached(self.problem.relax(self.search.a))
        if self.settings.evaluate_every and epoch % self.settings.evaluate_every == 0:
            row |= self.evaluate()
        genotype = str(self.genotype(mix))
        row |= {"genotype": genotype, "lookup": self.lookup(mix)}
        if self.limit is not None:
            row["expected_cost"] = self.limit.expected(mix)
        row |= self.watch.entries(epoch, mix, genotype)
        self.watch.rows.append(row)
        self.loop.stopped = self.watch.stopped
        return row

    # ------------------------------------------------------------------------------------------------- result
    def select(self) -> Tree:
        """Return the mixture to discretize: the method's choice or, after early stopping, that of the kept epoch."""
        if not self.stage.last:  # the next stage narrows the space by the mixture itself
            return detached(self.problem.relax(self.search.a))
        stopped = self.watch.ended()
        if stopped and self.loop.stopped:
            return self.space.encode(self.space.parse(str(stopped["genotype"])))
        gen, train = torch.Generator().manual_seed(hashed(self.ctx.config["seed"], "choose")), self.watch.train
        selection = Selection(
            self.score,
            self.loop.train,
            self.loop.val,
            gen,
            self.loop.updates_per_epoch,
            self.decided,
            self.save,
            lambda: self.ctx.check_signals(lambda: None),
            SelectionProgress().update,
            lambda: self.ctx.pause(self.save),
            self.problem.network,
            lambda mix: str(self.genotype(mix)),
            lambda: train.at(train.position),
            self.chosen,
        )
        return self.method.select(self.search, selection)

    def final(self) -> dict[str, float]:
        """Return the final evaluation of the supernet, from the last row if it has one."""
        last = (self.watch.rows or [{}])[-1]
        return {k: last[k] for k in ("valid_loss", f"valid_{self.metric.name}") if k in last} or self.evaluate()

    def record(self) -> Result:
        method = self.method
        self.measured = self.measured or (self.final() if method.trains else {})  # the selection may continue training
        mix, budget = self.select(), None
        if self.limit is not None:
            mix, budget = self.limit.kept(mix)
            for each in filter(None, (budget["found"], budget["nearest"])):
                each["lookup"] = self.query(self.space.parse(each["genotype"]))
        genotype = self.genotype(mix)
        score = self.benchmark.query(genotype)
        found = None if score is None else score.as_record()
        cost = {
            "updates": self.search.updates,
            "passes": self.problem.passes,
            "warm_up_s": self.warm_up_s,
            "diagnostics": self.watch.cost(),
        }
        result = self.ctx.record(
            "search",
            protocol=self.settings.protocol,
            genotype=str(genotype),
            operations=genotype.operations(),
            labels=method.labels,
            lookup=found,
            missing=None if found else self.benchmark.missing(),
            **self.benchmark.ranked(score, instantiate.build(self.ctx.config["space"], self.ctx.config["allow"])),
            benchmark_data=self.benchmark.dataset_key(self.source.name),
            images=self.data.described(),
            parent=None,
            test_accuracy=None,
            choice=self.chosen or None,
            supernet={**self.measured, "params": sum(x.numel() for x in self.search.w.values())},
            params=None if found is None else found["params"],
            stopped=self.watch.ended(),
            **({} if budget is None else {"budget": budget}),
            changed=changed(self.ctx),
            **({} if self.ctx.info.branch is None else {"branch": self.ctx.info.branch}),
            **search_stage.total_cost(self.stage.done if self.stage.last else (), **cost),
        )
        gen = torch.Generator().manual_seed(0)
        return {**result, "verdict": verdict.verdict(self.watch.rows, result, lambda: str(self.space.sample(gen)))}


def changed(ctx: Session) -> Result:
    """Return the settings that differ from the published configuration: key -> [published, used]."""
    published = ctx.info.published
    return identity.changed(ctx.config, published) if published else {}
