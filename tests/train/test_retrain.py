"""Runs of `nasx retrain`: they learn, resume after a kill, and say what to change when training cannot go on."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_retrain import CELL, PLAIN, composed, digits
from torch import Tensor

from nasx.data.batch_stream import Batch
from nasx.errors import UserError
from nasx.jobs import retrain
from nasx.spaces.nb201.space import Nb201
from nasx.tracking import run_folder
from nasx.train.job import rehearse
from nasx.train.trainer import Trainer


def test_a_network_learns_the_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = digits(tmp_path, "retrain.epochs=1", "retrain.lr=0.05", "retrain.evaluate_every=0")
    result = retrain.retrain(*composed(*words))
    folder = tmp_path / result["name"]
    assert result["test_accuracy"] > 0.3  # chance is 0.1
    assert "test accuracy" in capsys.readouterr().out
    network = Nb201().network(Nb201().parse(CELL), 10, layers=1, channels=8)
    assert result["params"] == result["params_with_auxiliary"] == sum(x.numel() for x in network.parameters())
    assert result["macs"] > 0
    assert result["updates"] == result["passes"] == 45  # 1437 images in batches of 32
    assert result["genotype"] == CELL == (folder / "genotype.txt").read_text().strip()
    assert result["protocol"] == "nb201"
    assert result["kind"] == "retrain"
    assert result["parent"] is None
    assert result["changed"]["retrain.epochs"] == [200, 1]
    assert json.loads((folder / "result.json").read_text()) == result
    [row] = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert set(row) == {
        "epoch",
        "updates",
        "lr",
        "train_loss",
        "train_accuracy",
        "test_loss",
        "test_accuracy",
        "wall_s",
    }
    assert row["test_accuracy"] == result["test_accuracy"]


FULL = (
    "space=darts",
    "dataset=digits",
    "genotype=DARTS_V2",
    "retrain.layers=3",
    "retrain.channels=4",
    "retrain.batch=16",
    "retrain.epochs=3",
    "retrain.updates_per_epoch=3",
    "retrain.evaluate_every=2",
    "retrain.ema=0.9",
    "retrain.mixup=0.2",
    "retrain.cutmix=1",
    "retrain.accumulate=2",
    "retrain.label_smoothing=0.1",
    "retrain.drop_path=0.2",
    "retrain.momentum=0.9",
    "threads=1",
    "device=cpu",
    "quiet=true",
)
KILLED = """
import os, signal, sys
from nasx.tracking import checkpoints
from nasx.cli import main as cli; from nasx.train import trainer as retrain

def end(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

moment, lines = sys.argv[1], sys.argv[2:]
if moment == "update":            # the second epoch's second update: neither saved nor logged
    step = retrain.Trainer.step
    def killed(self, batch):
        found = step(self, batch)
        return end() if self.updates == 5 else found
    retrain.Trainer.step = killed
if moment == "checkpoint":        # the row of epoch 2 is written, its checkpoint half
    write = checkpoints.write_atomic
    def torn(path, data):
        if path.name == "000000006.ckpt":
            path.with_name("." + path.name + ".part").write_bytes(data[:1000])
            end()
        write(path, data)
    checkpoints.write_atomic = torn
cli.main(["retrain", *lines])
"""


def final(folder: Path) -> dict[str, Any]:
    held = run_folder.Run.__new__(run_folder.Run)
    held.folder = folder
    state = held.load()
    assert state is not None
    return state


def same(x: Any, y: Any) -> bool:
    """Equality of nested state, bit for bit."""
    if isinstance(x, Tensor):
        return torch.equal(x, y)
    if isinstance(x, dict):
        return x.keys() == y.keys() and all(same(x[k], y[k]) for k in x)
    if isinstance(x, list | tuple):
        return len(x) == len(y) and all(map(same, x, y))
    return bool(x == y)


@pytest.mark.slow
def test_a_killed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = retrain.retrain(*composed(*FULL, f"out={tmp_path / 'whole'}"))
    words = [*FULL, f"out={tmp_path / 'killed'}"]
    folder = tmp_path / "killed" / whole["name"]
    for moment in ("update", "checkpoint"):
        ended = subprocess.run(
            [sys.executable, "-c", KILLED, moment, *words],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        assert not (folder / "result.json").exists()
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
    assert final(folder)["updates"] == 3
    again = retrain.retrain(*composed(*words))
    told = ("test_accuracy", "test_loss", "best_test_accuracy", "best_epoch", "updates", "params", "macs")
    assert {k: again[k] for k in told} == {k: whole[k] for k in told}
    states = [final(tmp_path / out / whole["name"]) for out in ("whole", "killed")]
    for state in states:
        for key in ("elapsed_s", "started", "metrics"):  # rows have the times of this process
            state.pop(key)
    assert same(*states)
    rows = [
        [json.loads(line) for line in (tmp_path / out / whole["name"] / "metrics.jsonl").read_text().splitlines()]
        for out in ("whole", "killed")
    ]
    assert [{**row, "wall_s": 0} for row in rows[0]] == [{**row, "wall_s": 0} for row in rows[1]]
    assert again["params"] < again["params_with_auxiliary"]
    again.pop("name")
    finished = retrain.retrain(*composed(*words))
    assert finished["finished"] == again["finished"]  # at once


def test_a_signal_at_an_epochs_end_loses_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = digits(tmp_path, "retrain.epochs=2", "retrain.updates_per_epoch=2", "retrain.batch=8")
    step = Trainer.step

    def asked(self: Trainer, batch: Batch) -> dict[str, Tensor]:
        found = step(self, batch)
        if self.updates == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return found

    monkeypatch.setattr(Trainer, "step", asked)
    with pytest.raises(KeyboardInterrupt):
        retrain.retrain(*composed(*words))
    result = retrain.retrain(*composed(*words))
    assert [
        json.loads(line)["updates"] for line in (tmp_path / result["name"] / "metrics.jsonl").read_text().splitlines()
    ] == [2, 4]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:75] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_too_little_memory_says_what_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(self: Trainer, batch: Batch) -> dict[str, Tensor]:
        raise error

    monkeypatch.setattr(Trainer, "step", full)
    with pytest.raises(UserError, match=r"retrain\.batch=32: does not fit.*accumulate=2"):
        retrain.retrain(*composed(*digits(tmp_path)))


def test_divergence_keeps_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Trainer.step

    def burst(self: Trainer, batch: Batch) -> dict[str, Tensor]:
        return step(self, batch._replace(x=batch.x * math.inf) if self.updates == 3 else batch)

    monkeypatch.setattr(Trainer, "step", burst)
    words = digits(tmp_path, "retrain.epochs=2", "retrain.updates_per_epoch=2", "retrain.batch=8", "checkpoint_s=1e-9")
    with pytest.raises(UserError, match=r"update 4: .*train_loss.*became NaN"):
        retrain.retrain(*composed(*words))
    [folder] = [path for path in tmp_path.iterdir() if path.is_dir()]
    state = final(folder)
    assert state["updates"] == 3
    assert all(bool(x.isfinite().all()) for x in state["network"].values())


def test_settings_that_the_network_cannot_take_are_reported_before_training() -> None:
    network = Nb201().network(Nb201().parse(CELL), 10, layers=1, channels=4)

    def whole(n: int) -> Tensor:
        return Nb201().example(n, (3, 32, 32))

    with pytest.raises(UserError, match=r"retrain\.drop_path=0\.2"):
        rehearse(network, replace(PLAIN, drop_path=0.2), whole)
    with pytest.raises(UserError, match=r"retrain\.batch=12, retrain\.accumulate=12: micro-batches of 1 image "):
        rehearse(network, replace(PLAIN, accumulate=12), lambda n: Nb201().example(n, (3, 4, 4)))
    rehearse(network, PLAIN, whole)


@pytest.mark.slow
@pytest.mark.skipif(
    not any(
        (Path(os.environ.get("NASX_DATA", "/nowhere")) / f"cifar-10-batches-{kind}").is_dir() for kind in ("bin", "py")
    ),
    reason="CIFAR-10 is not there (NASX_DATA)",
)
def test_real_images_train(tmp_path: Path) -> None:
    words = [
        w
        for w in digits(tmp_path, "retrain.epochs=1", "retrain.updates_per_epoch=4", "retrain.channels=4")
        if w != "dataset=digits"
    ]
    result = retrain.retrain(*composed(*words, "dataset=cifar10"))
    assert result["updates"] == 4
    assert 0 <= result["test_accuracy"] <= 1
