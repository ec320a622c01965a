"""Two processes compute what one does, resume each other's runs, and detect the death of a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import two_processes
from torch import Tensor, nn

from nasx.config.settings import RetrainSettings
from nasx.core import distributed
from nasx.data.batch_stream import Batch
from nasx.errors import UserError
from nasx.spaces.darts.genotype import read
from nasx.spaces.darts.network import DartsNetwork
from nasx.tracking import records
from nasx.train import recipe
from nasx.train.trainer import Trainer

SETTINGS = RetrainSettings(
    recipe="test",
    layers=None,
    channels=None,
    stem="cifar",
    epochs=2,
    batch=10,
    lr=0.1,
    momentum=0.9,
    weight_decay=3e-4,
    clip=1.0,
    mixup=1.0,
    cutmix=1.0,
    label_smoothing=0.1,
    accumulate=2,
    ema=0.5,
)
WORDS = (
    "retrain",
    "space=darts",
    "dataset=digits",
    "genotype=DARTS_V2",
    "dataset.size=16",
    "retrain.layers=3",
    "retrain.channels=4",
    "retrain.batch=14",
    "retrain.epochs=3",
    "retrain.updates_per_epoch=4",
    "retrain.auxiliary=0",
    "retrain.drop_path=0",
    "threads=1",
    "device=cpu",
)


# ------------------------------------------------------------------------------------------- without processes
def test_one_process_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    net, cpu = nn.Sequential(nn.BatchNorm2d(2)), torch.device("cpu")
    assert distributed.wrap_ddp(net) is distributed.convert_sync_batchnorm(net, cpu) is net
    assert type(net[0]) is nn.BatchNorm2d
    assert distributed.is_main_process()
    assert [rows.tolist() for rows in distributed.rank_rows(7, 2)] == [[0, 1, 2, 3], [4, 5, 6]]
    assert distributed.broadcast_object("x") == "x"
    x = torch.ones(3)
    assert distributed.all_reduce(x) is x
    assert distributed.device_name("cuda:3") == "cuda:3"


@pytest.mark.parametrize(("n", "pieces", "count"), [(12, 1, 3), (7, 1, 2), (10, 2, 4), (12, 3, 4), (3, 1, 3)])
def test_shares_are_equal_and_lose_nothing(n: int, pieces: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(count))
    parts = []
    for rank in range(count):
        monkeypatch.setenv("RANK", str(rank))
        parts.append([rows.tolist() for rows in distributed.rank_rows(n, pieces)])
    assert [i for piece in zip(*parts, strict=True) for part in piece for i in part] == list(range(n))
    for piece in zip(*parts, strict=True):
        assert max(map(len, piece)) - min(map(len, piece)) <= 1


def test_devices_that_do_not_fit_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert distributed.device_name("cpu") == "cpu"
    assert distributed.device_name("auto") == "cuda:0"
    with pytest.raises(UserError, match="device=cuda:0: names one device, but there are 2 processes"):
        distributed.device_name("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(
        UserError, match=r"the number of processes \(2\) exceeds the number of GPUs \(1\); start one process per GPU"
    ):
        distributed.device_name("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert distributed.device_name("auto") == "cpu"


# ---------------------------------------------------------------------------------------------- the arithmetic
def images(seed: int, n: int = 10) -> Batch:
    gen = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, 16, 16, generator=gen, dtype=torch.float64)
    return Batch(x, torch.randint(5, (n,), generator=gen), seed)


def norms() -> dict[str, Tensor]:
    """Output, gradient and running statistics of one batch norm on this process's images of one batch."""
    norm = nn.Sequential(nn.BatchNorm2d(3)).double()
    with torch.no_grad():
        norm[0].weight.copy_(torch.tensor([0.5, 1.0, -2.0]))
        norm[0].bias.copy_(torch.tensor([0.1, 0.0, 3.0]))
    norm, own = distributed.convert_sync_batchnorm(norm, torch.device("cpu")), distributed.rank_rows(7, 1)[0]
    x = (3 * images(0, 7).x + 1)[own].requires_grad_()
    out = norm(x)
    (out * images(1, 7).x[own]).sum().backward()
    assert x.grad is not None
    grads = {f"grad_{name}": distributed.all_reduce(p.grad) for name, p in norm.named_parameters()}
    return {"out": out.detach(), "grad": x.grad, **grads, **dict(norm.named_buffers())}


def training() -> dict[str, Any]:
    """State and rows of two epochs of a real network in float64, with all that a recipe has but drop-path."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    text = str(read("DARTS_V2")).replace("dil_conv_3x3", "skip_connect")
    net = DartsNetwork(read(text).layers(3), 5, 4)
    net.register_parameter("idle", nn.Parameter(torch.ones(2)))  # no output depends on it
    seeds = iter(range(100))

    class Batches:
        def __next__(self) -> Batch:
            return images(next(seeds))

        def state_dict(self) -> dict[str, int]:
            return {}

    rows: list[dict[str, Any]] = []
    stream: Any = Batches()
    tests = [images(s, n) for s, n in ((900, 8), (901, 8), (902, 3))][distributed.rank() :: distributed.world_size()]
    made = Trainer(distributed.convert_sync_batchnorm(net, torch.device("cpu")), SETTINGS, stream, lambda: tests, 3)
    made.end_epoch = rows.append
    made.run()
    assert made.average is not None
    return {"net": dict(net.state_dict()), "average": dict(made.average.module.state_dict()), "rows": rows}


def work() -> dict[str, Any]:
    """What each of two processes finds."""
    rank = distributed.rank()
    told = distributed.broadcast_object({"from": rank})
    return {"norms": norms(), "told": told, "gathered": distributed.all_gather(rank), "training": training()}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes found."""
    return two_processes.found(work, tmp_path_factory.mktemp("two"))


@pytest.mark.slow
def test_the_owner_speaks_and_all_are_heard(both: list[dict[str, Any]]) -> None:
    assert [found["told"] for found in both] == [{"from": 0}] * 2
    assert [found["gathered"] for found in both] == [[0, 1]] * 2


def test_batch_norm_is_that_of_all_images(both: list[dict[str, Any]]) -> None:
    whole, parts = norms(), [found["norms"] for found in both]
    for name in ("out", "grad"):
        assert torch.allclose(torch.cat([part[name] for part in parts]), whole[name], rtol=1e-10, atol=1e-12), name
    for name in whole.keys() - {"out", "grad"}:
        for part in parts:
            assert torch.allclose(part[name], whole[name], rtol=1e-10, atol=1e-12), name


@pytest.mark.slow
def test_two_processes_train_as_one(both: list[dict[str, Any]]) -> None:
    before = torch.get_default_dtype()
    try:
        whole = training()
    finally:
        torch.set_default_dtype(before)
    for found in (part["training"] for part in both):
        for part in ("net", "average"):
            assert found[part].keys() == whole[part].keys()
            for name, x in whole[part].items():
                assert torch.allclose(found[part][name], x, rtol=1e-7, atol=1e-9), (part, name)
        for row, own in zip(whole["rows"], found["rows"], strict=True):
            assert own == pytest.approx(row, rel=1e-8)
    assert torch.equal(whole["net"]["idle"], torch.ones(2))  # no weight decay either, as in one process


# ----------------------------------------------------------------------------------------------- whole commands
def torchrun(here: Path, *words: str) -> subprocess.Popen[str]:
    """`torchrun -m nasx WORDS` on two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "nasx"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *words], cwd=here, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def one(here: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "nasx", *words],
        cwd=here,
        env=env,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def rows(folder: Path) -> list[dict[str, Any]]:
    return [{**row, "wall_s": 0} for row in records.read_rows(folder)]


def test_a_run_of_two_equals_a_run_of_one_and_is_finished_for_both(tmp_path: Path) -> None:
    alone = one(tmp_path, *WORDS, "out=runs", "name=one", "quiet=true")
    assert alone.returncode == 0, alone.stderr
    started = torchrun(tmp_path, *WORDS, "out=runs", "name=two")
    out, err = started.communicate(timeout=200)
    assert started.returncode == 0, err
    assert "Warning" not in err
    assert err.count("epoch 1/3") == out.count("finished") == 1  # one process speaks
    first, second = (json.loads((tmp_path / "runs" / name / "result.json").read_text()) for name in ("one", "two"))
    assert (first["processes"], second["processes"]) == (1, 2)
    assert first["identity"] == second["identity"]
    for a, b in zip(rows(tmp_path / "runs" / "one"), rows(tmp_path / "runs" / "two"), strict=True):
        assert b == pytest.approx(a, rel=1e-2, abs=2e-2)  # float32, batch norm over few pixels
    again = one(tmp_path, *WORDS, "out=runs", "name=two")
    assert second["finished"] in again.stdout  # at once


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_one_process_goes_on(tmp_path: Path) -> None:
    words = [word for word in WORDS if not word.startswith(("retrain.updates", "retrain.epochs"))]
    words += ["retrain.epochs=2", "retrain.updates_per_epoch=20", "checkpoint_s=0.2", "out=runs", "name=killed"]
    folder, started = tmp_path / "runs" / "killed", torchrun(tmp_path, *words)
    end = time.monotonic() + 120
    while not list(folder.glob("checkpoints/0*.ckpt")):
        assert time.monotonic() < end
        assert started.poll() is None, started.communicate()[1]
        time.sleep(0.05)
    held = int((folder / "lock").read_text().split()[1])
    children = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
    [other] = [int(pid) for pid in children if int(pid) != held]
    os.kill(other, signal.SIGKILL)
    _, err = started.communicate(timeout=60)
    assert started.returncode != 0
    lost = "process 0 of 2: lost the connection to the others: one of them died; run the same command"
    assert lost in err or "the same command resumes it" in err, err  # on a busy machine torchrun's SIGTERM comes first
    assert not (folder / "result.json").exists()
    done = one(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert "resuming at update" in done.stderr
    assert [row["updates"] for row in rows(folder)] == [20, 40]


def test_a_mixed_batch_is_cut_without_loss() -> None:
    mixed = recipe.mix(images(3), cutmix=1.0)
    parts = list(mixed.rows(torch.arange(10)).split([4, 6]))
    assert torch.equal(torch.cat([part.x for part in parts]), mixed.x)
    assert torch.equal(torch.cat([part.other for part in parts]), mixed.other)
    assert {part.share for part in parts} == {mixed.share}
