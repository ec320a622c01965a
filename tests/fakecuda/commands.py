"""Whole nasx commands on the fake device, each in a forked child: runtime.py commands.py FOLDER [NAME...]

For each command: its exit status and output, what breaks a recording, and waits inside a step (search) or an update
(retraining) after the first four, except those of recordings. The last line of the output contains the rows as JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import arithmetic
import events
import numpy as np
import texts

TINY = (
    "dataset=digits dataset.size=16 space.channels=4 search.batch=4 search.epochs=3 search.updates_per_epoch=4 "
    "search.evaluate_images=16 device=cuda threads=1"
)
NB201 = f"search {TINY} space=nb201 space.layers=1"
DARTS = f"search {TINY} space=darts space.layers=3"
GRAPHS = "engine.graphs=on"
EARLY = "stop=eigenvalue stop.every=1 stop.window=1 stop.lag=1 stop.start=0 stop.factor=1e6"
RETRAIN = (
    "retrain space=darts genotype=DARTS_V2 dataset=digits dataset.size=32 retrain.epochs=2 "
    "retrain.updates_per_epoch=3 retrain.layers=3 retrain.channels=4 retrain.batch=8 device=cuda threads=1"
)
ALL = (
    "retrain.ema=0.999 retrain.mixup=0.2 retrain.cutmix=1 retrain.amp=true retrain.accumulate=2 "
    "retrain.label_smoothing=0.1 retrain.channels_last=true retrain.updates_per_epoch=6"
)
CELL = "|none~0|+|nor_conv_3x3~0|none~1|+|skip_connect~0|nor_conv_1x1~1|avg_pool_3x3~2|"
LONG = f"{NB201} search.epochs=60 search.evaluate_every=0 name=long {GRAPHS}"
LARGE = "space.channels=16 space.layers=5 search.batch=64 dataset.size=32"


class Command(NamedTuple):
    """The words of a command, and its expected end."""

    words: str
    says: str = ""
    """A pattern that its output must match."""
    exit: int = 0
    after: str = ""
    """The command that runs before it."""
    slow: bool = False
    gb: str = ""
    """Memory of the device."""
    stop: int = 0
    """Launches after which it receives SIGTERM."""
    plant: bool = False
    """Whether its steps read a value back."""


NEEDED = (
    r"does not fit into the memory of cuda: a step needs 7\d\d MB, including the \d+ MB that data and other runs take "
    r"\(\d+ MB are free for this process\); set engine\.checkpoint=true \(\d+ MB\), set engine\.precision=bf16 "
    r"\(\d+ MB\), set search\.batch=32 \(\d+ MB\), set space\.partial=4 \(\d+ MB\), lower search\.batch, or "
)
REPLAYED = "steps are replayed from a CUDA graph"
COMMANDS: dict[str, Command] = {
    "search": Command(NB201),
    "search_darts": Command(DARTS, slow=True),
    "graphs": Command(f"{NB201} method=gdas {GRAPHS} search.diagnose_steps=2", REPLAYED),
    "diagnosed": Command(f"{NB201} method=gdas {GRAPHS} search.diagnose_every=2 {EARLY}", REPLAYED, slow=True),
    "graphs_noise": Command(
        f"search {TINY} space=s4 space.layers=3 search.drop_path=0.3 {GRAPHS}", REPLAYED, slow=True
    ),
    "graphs_tracked": Command(f"{NB201} space.batch_norm=tracked {GRAPHS}", REPLAYED, slow=True),
    "graphs_idarts": Command(f"{NB201} method=idarts search.updates_per_epoch=8 {GRAPHS}", REPLAYED, slow=True),
    "graphs_tse_short_chunk": Command(
        f"{NB201} method=tse method.T=3 search.updates_per_epoch=7 {GRAPHS}", REPLAYED, slow=True
    ),
    "graphs_random_ws": Command(f"{NB201} method=random_ws method.samples=3 {GRAPHS}", REPLAYED, slow=True),
    "graphs_drnas": Command(f"{NB201} method=drnas {GRAPHS}", REPLAYED, slow=True),
    "graphs_sgd": Command(f"{NB201} search.arch_optimizer=sgd {GRAPHS}", REPLAYED, slow=True),
    "together": Command(f"{NB201} seeds_per_job=2 out=together {GRAPHS}", REPLAYED),
    "together_eager": Command(f"{DARTS} seeds_per_job=2 out=together_eager device=cuda:0", slow=True),
    "deterministic": Command(f"{NB201} deterministic=true {GRAPHS} seed=1", REPLAYED, slow=True),
    "deterministic_darts": Command(f"{DARTS} deterministic=true {GRAPHS} seed=1", REPLAYED, slow=True),
    "deterministic_s4": Command(f"search {TINY} space=s4 space.layers=3 deterministic=true", slow=True),
    "deterministic_nb1shot1": Command(f"search {TINY} space=nb1shot1_1 space.layers=3 deterministic=true", slow=True),
    "bf16": Command(f"{NB201} engine.precision=bf16 {GRAPHS}", REPLAYED, slow=True),
    "bf16_darts": Command(f"{DARTS} engine.precision=bf16", slow=True),
    "channels_last": Command(f"{NB201} engine.channels_last=true {GRAPHS}", REPLAYED, slow=True),
    "naive": Command(f"{NB201} engine=naive engine.channels_last=true", slow=True),
    "checkpointing": Command(f"{NB201} method=idarts engine.checkpoint=true {GRAPHS}", REPLAYED, slow=True),
    "darts_pt": Command(f"{NB201} method=darts_pt method.tune=1 method.batches=1", slow=True),
    "text": Command(
        "search space=darts_rnn search.epochs=1 search.updates_per_epoch=6 search.batch=4 "
        "engine.graphs=auto dataset.path=text device=cuda threads=1",
        "batches vary in length",
        slow=True,
    ),
    "decoded": Command(
        "search space=darts space.layers=3 space.channels=4 dataset=photos dataset.path=photos "
        "dataset.size=16 dataset.resize=20 search.batch=4 search.epochs=2 search.updates_per_epoch=12 "
        f"search.evaluate_images=8 workers=1 device=cuda threads=1 {GRAPHS}",
        REPLAYED,
    ),
    "recording_breaks": Command(
        f"{NB201} engine.graphs=auto name=breaks", "engine.graphs=auto: steps run eagerly: ", plant=True
    ),
    "recording_must_not_break": Command(
        f"{NB201} {GRAPHS} name=must", "engine.graphs=on: steps cannot be replayed: ", 2, plant=True
    ),
    "stopped": Command(LONG, exit=143, stop=6000),
    "resumed": Command(LONG, "resuming at update", after="stopped"),
    "retrain": Command(f"{RETRAIN} name=plain retrain.auxiliary=0.4", slow=True),
    "retrain_all": Command(f"{RETRAIN} name=all {ALL}"),
    "retrain_deterministic": Command(f"{RETRAIN} deterministic=true", slow=True),
    "retrain_nb201": Command(
        f"retrain space=nb201 genotype={CELL} dataset=digits dataset.size=16 retrain.epochs=2 "
        "retrain.updates_per_epoch=3 retrain.layers=1 retrain.channels=4 retrain.batch=8 "
        "device=cuda threads=1",
        slow=True,
    ),
    "retrain_stopped": Command(f"{RETRAIN} name=again retrain.epochs=40 {ALL}", exit=143, stop=6000, slow=True),
    "retrain_resumed": Command(
        f"{RETRAIN} name=again retrain.epochs=40 {ALL}", "resuming at update", after="retrain_stopped", slow=True
    ),
    "retrain_decoded": Command(
        "retrain space=darts genotype=DARTS_V2 dataset=photos dataset.path=photos dataset.size=32 dataset.resize=40 "
        "retrain.epochs=2 retrain.updates_per_epoch=6 retrain.layers=3 retrain.channels=4 retrain.batch=4 workers=1 "
        "retrain.mixup=0.2 device=cuda threads=1",
        slow=True,
    ),
    "export": Command("export from=all out=model", after="retrain_all"),
    "evaluate": Command("evaluate model device=cuda", after="export"),
    "doctor": Command("doctor device=cuda", slow=True),
    "memory_search": Command(f"{NB201} {LARGE} seed=5", NEEDED, 2, gb="0.5"),
    "memory_graphs": Command(
        f"{NB201} {LARGE} seed=6 search.evaluate_every=0 search.epochs=1 engine.graphs=auto", slow=True, gb="0.95"
    ),
    "memory_retrain": Command(
        f"{RETRAIN} retrain.batch=96 retrain.channels=36 retrain.layers=20",
        "retrain.accumulate=2",
        2,
        slow=True,
        gb="3",
    ),
}
LIMIT_S = 600.0
"""A command that takes longer is considered hung."""


def photos(folder: Path) -> None:
    """Write two classes of images to the disk."""
    from PIL import Image

    draw = np.random.RandomState(0)
    for part, count in (("train", 24), ("val", 4)):
        for name in ("a", "b"):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(draw.randint(0, 256, (24, 30, 3), dtype=np.uint8)).save(
                    folder / part / name / f"{i}.jpg"
                )


def marked(step: Callable[..., Any], name: str = "step", first: int = 4) -> Callable[..., Any]:
    """Return `step` with its own phase, after the `first` calls."""
    count = 0

    def inside(*a: Any, **k: Any) -> Any:
        nonlocal count
        count += 1
        before, events.phase[0] = events.phase[0], name if count > first else "first"
        try:
            return step(*a, **k)
        finally:
            events.phase[0] = before

    return inside


def child(command: Command, log: Path) -> None:
    """Run one command and end the process."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if command.gb:
        os.environ["FAKE_GB"] = command.gb
    import nasx.searcher.cuda_graphs
    import nasx.searcher.loop
    import nasx.train.trainer

    nasx.searcher.cuda_graphs.Replayed._second = marked(nasx.searcher.cuda_graphs.Replayed._second, "recording", 0)  # type: ignore[method-assign]
    nasx.searcher.loop.Loop._step = marked(nasx.searcher.loop.Loop._step)  # type: ignore[method-assign]
    nasx.train.trainer.Trainer.step = marked(nasx.train.trainer.Trainer.step)  # type: ignore[method-assign]
    if command.plant:
        from nasx.methods.darts import Darts

        whole = Darts.step

        def step(self: Any, *a: Any) -> Any:
            out = whole(self, *a)
            float(out["train_loss"])
            return out

        Darts.step = step  # type: ignore[method-assign]
    if command.stop:

        def later() -> None:
            while events.launches() < command.stop:
                time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=later, daemon=True).start()
    events.listen()
    code: Any = 0
    try:
        import nasx.cli.main

        nasx.cli.main.main(command.words.split())
    except SystemExit as end:
        code = end.code or 0
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        code = 1
    events.deaf()
    found = {
        "exit": code,
        "launches": events.launches(),
        "replays": events.replays(),
        "waits": events.of("step", "SYNC"),
        "violations": events.of("", "VIOLATION", "OUTSIDE"),
    }
    log.with_suffix(".json").write_text(json.dumps(found), encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)


def run(name: str, folder: Path) -> dict[str, Any]:
    """Run one command in a child; return its results and what is wrong with them."""
    command, log = COMMANDS[name], folder / "logs" / f"{name}.log"
    pid, end = os.fork(), time.monotonic() + LIMIT_S
    if not pid:
        child(command, log)
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    facts, output = log.with_suffix(".json"), log.read_text(encoding="utf-8", errors="replace")
    row = {"name": name, **(json.loads(facts.read_text(encoding="utf-8")) if facts.exists() else {"exit": "killed"})}
    wrong = []
    if row["exit"] != command.exit:
        wrong.append(f"exit {row['exit']} instead of {command.exit}")
    if not re.search(command.says, output):
        wrong.append(f"does not say {command.says!r}")
    if "Traceback" in output:
        wrong.append("a traceback")
    if row.get("violations") and not command.plant:
        wrong.append("violations of the rules of recordings")
    if row.get("waits") and not command.plant:
        wrong.append("waits inside a step")
    return {**row, "wrong": wrong, "output": output[-2000:] if wrong else ""}


def ordered(names: list[str]) -> list[str]:
    """Return the commands together with those that must run before them."""
    found: list[str] = []
    for name in names:
        chain = [name]
        while COMMANDS[chain[0]].after:
            chain.insert(0, COMMANDS[chain[0]].after)
        found += [one for one in chain if one not in found]
    return found


def main() -> None:
    folder, names = Path(sys.argv[1]).resolve(), sys.argv[2:] or list(COMMANDS)
    (folder / "logs").mkdir(parents=True)
    photos(folder / "photos")
    texts.write(folder / "text")
    os.chdir(folder)

    arithmetic.skipped()  # imports torch, once for all children
    for name in ("torch._dynamo", "nasx.jobs.search", "nasx.data.images", "nasx.spaces.nb201.supernet"):
        importlib.import_module(name)

    rows = []
    for name in ordered(names):
        rows.append(run(name, folder))
        print(rows[-1], flush=True)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
