"""The table of latencies: what is timed, the additive model, searches under it; no test depends on real times."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from composing import faults
from search_jobs import recorded
from torch import nn

from nasx.cli import latency as cli_latency
from nasx.core import timing
from nasx.core.timing import Latency
from nasx.errors import UserError
from nasx.export import latency as measuring
from nasx.spaces import latency, operations
from nasx.spaces.base import Genotype, Space
from nasx.spaces.darts.space import Darts
from nasx.spaces.latency import Key
from nasx.spaces.nb201.space import Nb201
from nasx.tracking import environment

CPU = torch.device("cpu")
ABOUT = {
    "space": "nasx.spaces.nb201.space.Nb201",
    "runtime": "eager",
    "threads": 1,
    "batch": 1,
    "classes": 10,
    "image": [3, 16, 16],
    "layers": 1,
    "channels": 4,
    "stem": "cifar",
}
SIZES: dict[str, tuple[Space, dict[str, Any]]] = {
    "nb201": (Nb201(), ABOUT),
    "darts": (Darts(), ABOUT | {"layers": 4, "channels": 2}),
}
COSTS = {"none": 0.5, "skip_connect": 1.0, "nor_conv_1x1": 4.0, "nor_conv_3x3": 9.0, "avg_pool_3x3": 3.0}


def price(key: Key) -> float:
    """A cost in milliseconds that differs between all operations and shapes."""
    return COSTS.get(key.operation, float(len(key.operation))) + key.channels / 7 + key.height / 11 + key.stride / 3


def total(space: Space, genotype: Genotype, about: dict[str, Any]) -> float:
    """The sum over the edges of a network, from the one-hot mixture, edge by edge."""
    hot, size = space.encode(genotype), {name: about[name] for name in latency.SIZES}
    return sum(
        float(hot[site.name][site.place, site.edge, i])
        * price(Key(name, site.channels, site.stride, site.height, site.width))
        for site in space.sites(tuple(about["image"]), **size)
        for i, name in enumerate(space.edge_operations(site.name)[site.edge])
    )


def exact(milliseconds: float) -> Latency:
    return Latency(milliseconds, milliseconds, milliseconds, 3)


def table(name: str = "nb201", scale: float = 0.5, fixed: float = 2.0) -> latency.Latencies:
    """A table of networks that cost exactly what the additive model says."""
    space, about = SIZES[name]
    size = {key: about[key] for key in latency.SIZES}
    return measuring.fitted(
        space,
        about,
        {key: exact(price(key)) for key in measuring.keys(space, about["image"], size)},
        {one: exact(fixed + scale * total(space, one, about)) for one in measuring.distinct(space, 9, 0)},
    )


@pytest.mark.parametrize("name", SIZES)
def test_the_additive_model_is_found_in_whole_networks(name: str, tmp_path: Path) -> None:
    space, about = SIZES[name]
    found = table(name)
    assert (found.scale, found.fixed_ms) == (pytest.approx(0.5), pytest.approx(2.0))
    assert measuring.error(found)[0] < 1e-12
    (tmp_path / "table.json").write_text(found.text())
    again = latency.read(tmp_path / "table.json")
    assert again == found
    model = space.measured(again)
    for one in measuring.distinct(space, 20, 1):
        assert float(model(space.encode(one))) == pytest.approx(2.0 + 0.5 * total(space, one, about), rel=1e-12)


def test_the_error_is_that_of_the_networks() -> None:
    networks = tuple(
        latency.Timed("x", exact(measured), predicted) for measured, predicted in ((1, 1.1), (2, 2.4), (4, 2.0), (5, 5))
    )
    found = latency.Latencies({}, {}, networks, 0.0, 1.0)
    assert measuring.error(found) == (pytest.approx((0.1 + 0.2) / 2), pytest.approx(4 / 6))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """What moves the clock of the timings on by so many milliseconds."""
    now = [0]
    monkeypatch.setattr(timing.time, "perf_counter_ns", lambda: now[0])

    def pass_(milliseconds: float) -> None:
        now[0] += round(milliseconds * 1e6)

    return pass_


def test_an_operation_costs_what_copies_cost_more_than_one(
    clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cost of a call, and what all networks have in common, is in no operation."""
    space, about = SIZES["nb201"]
    built = operations.build

    def build(name: str, channels: int, *more: Any) -> nn.Module:
        part = built(name, channels, *more)
        part.cost = COSTS[name] + channels / 7  # type: ignore[assignment]
        return part

    def call(module: nn.Module, *_: Any) -> Callable[[], None]:
        costs = sum(float(part.cost) for part in module.modules() if hasattr(part, "cost"))
        alone = isinstance(module, measuring.Summed)
        return lambda: clock(100 + costs if alone else 1000 + 2 * costs)

    monkeypatch.setattr(operations, "build", build)
    monkeypatch.setattr(measuring, "call", call)
    found = measuring.measure(space, about, CPU, count=6, repeats=3, seed=0)
    assert len(found.operations) == 15
    for key, one in found.operations.items():
        assert one == pytest.approx((cost := COSTS[key.operation] + key.channels / 7, cost, cost, 3))
    assert (found.scale, found.fixed_ms) == (pytest.approx(2), pytest.approx(1000))
    assert measuring.error(found)[0] < 1e-9


@pytest.mark.slow
def test_each_runtime_runs_the_whole_module() -> None:
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    parts = measuring.Summed([operations.build(name, 4) for name in COSTS])
    inputs = [torch.randn(2, 4, 8, 8) for _ in COSTS]
    with torch.no_grad():
        wanted = sum(part(x) for part, x in zip(parts.eval().parts, inputs, strict=True))
    assert isinstance(wanted, torch.Tensor)
    eager, onnx = (measuring.call(parts, inputs, kind, CPU, 1)() for kind in ("eager", "onnxruntime"))
    assert torch.equal(eager, wanted)  # type: ignore[arg-type]
    assert np.allclose(onnx[0], wanted.numpy(), atol=1e-5)  # type: ignore[index]
    network = Nb201().network(Nb201().sample(torch.Generator().manual_seed(0)), 10, layers=1, channels=4)
    [scores] = measuring.call(measuring.Scores(network), [inputs[0][:, :3]], "onnxruntime", CPU, 1)()  # type: ignore[misc]
    with torch.no_grad():
        assert np.allclose(scores, network.eval()(inputs[0][:, :3]).main.numpy(), atol=1e-4)


WORDS = ["space=nb201", "layers=1", "channels=4", "image=16", "networks=3", "repeats=2", "runtime=eager"]


@pytest.mark.slow
def test_a_table_is_measured_once_and_used_by_a_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "here.json"
    assert cli_latency.main([*WORDS, f"out={file}"]) == 0
    first = capsys.readouterr().out.splitlines()
    assert first[0].startswith("operation")
    assert len([line for line in first if "nor_conv_3x3" in line]) == 3
    assert any(line.startswith("additive model on these networks: median relative error") for line in first)
    assert f"budget.device={file}" in first[-1]
    held = latency.read(file)
    assert len(held.networks) == 3
    assert held.about["versions"] == environment.versions()

    def measure(*_: Any, **__: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(measuring, "measure", measure)
    cli_latency.main([*WORDS, f"out={file}"])
    again = capsys.readouterr().out.splitlines()
    assert again[:-2] == first[:-2]
    assert "remove the file to repeat" in again[-2]
    with pytest.raises(UserError, match="contains a different table"):
        cli_latency.main([*WORDS, "batch=2", f"out={file}"])

    exactly = table()  # so that what a search finds depends on no time
    file.write_text(
        exactly.text().replace("{", json.dumps({"device": {"device": "cpu"}, "versions": {}})[:-1] + ",", 1)
    )
    space = Nb201()
    middle = sorted(one.predicted_ms for one in exactly.networks)[3]
    words = ["budget=latency", f"budget.device={file}", f"budget.target={middle}ms", "budget.enforce=true"]
    done = recorded(tmp_path, *words, "search.epochs=1")
    budget = done["budget"]
    assert budget["met"]
    assert budget["cost"] == pytest.approx(2.0 + 0.5 * total(space, space.parse(done["genotype"]), ABOUT))
    assert budget["cost"] <= middle
    capsys.readouterr()
    assert cli_latency.main([f"from={tmp_path / 'run'}", "repeats=2"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("note: the table differs from this machine in device and versions")
    assert done["genotype"] in out
    assert f"target     {middle:.2f} ms: " in out
    recorded(tmp_path, "search.epochs=1", name="plain")
    with pytest.raises(UserError, match="is not a search with a budget from a measured table"):
        cli_latency.main([f"from={tmp_path / 'plain'}"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give either space=nb201 or from=RUN"),
        (["space=nb201", "from=x"], "give either space=nb201 or from=RUN"),
        (["space=nb201", "runtime=onnxrntime"], "unknown runtime; did you mean onnxruntime"),
        (["space=nb201", "device=cuda"], "nasx runs onnxruntime only on the CPU"),
        (["space=nb201", "repeats=0"], "repeats=0: is less than 1"),
        (["space=nb201", "networks=1"], "networks=1: is less than 2"),
        (["space=nb201", "out=table.csv"], "is not the name of a JSON file"),
        (["space=darts_rnn"], "is a space of text networks"),
        (["space=nb1shot1_1", "runtime=eager"], "Nb1Shot1 does not define the cost of its networks"),
        (["space=nb202"], "nb201"),
    ],
)
def test_faults_of_the_command(words: list[str], message: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError, match=message):
        cli_latency.main(words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["budget.device=none.json"], "budget.device=none.json: does not exist"),
        (["budget.device=other.json"], "was not written by nasx latency"),
        (["budget.device=torn.json"], "is damaged (KeyError: 'fixed_ms')"),
        (["budget.device=good.json", "space=darts"], "was measured for nasx.spaces.nb201.space.Nb201"),
        (["budget.device=good.json", "budget.layers=5"], "budget.layers=5: the table was made with layers=1"),
        (["budget.device=good.json", "budget.image=32"], "budget.image=32: the table was made with image=16"),
    ],
)
@pytest.mark.sample(4)
def test_faults_of_a_table(words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    whole = json.loads(table().text())
    Path("good.json").write_text(json.dumps(whole))
    Path("torn.json").write_text(json.dumps({key: value for key, value in whole.items() if key != "fixed_ms"}))
    Path("other.json").write_text("{}")
    assert told in "\n".join(faults("dataset=digits", "budget=latency", *words))
    assert not faults("dataset=digits", "budget=latency", "budget.device=good.json", "budget.channels=4")


def test_a_search_on_other_operations_than_the_table_has_is_refused(tmp_path: Path) -> None:
    held = table()
    some = {key: one for key, one in held.operations.items() if key.operation != "nor_conv_3x3"}
    (tmp_path / "some.json").write_text(latency.Latencies(held.about, some, held.networks, 2.0, 0.5).text())
    with pytest.raises(UserError, match="the table has no latency for nor_conv_3x3, 4 channels, 16 x 16, stride 1"):
        recorded(tmp_path, "budget=latency", f"budget.device={tmp_path / 'some.json'}")
