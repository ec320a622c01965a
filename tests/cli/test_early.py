"""Errors before torch is imported and before a folder is created."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from composing import faults

from nasx.cli import diagnose, preflight
from nasx.cli.arguments import parse
from nasx.config import instantiate, schema
from nasx.errors import UserError
from nasx.searcher.loop import Loop
from nasx.spaces.darts.network import AuxiliaryHead
from nasx.spaces.darts.space import Darts
from nasx.spaces.nb1shot1.space import Nb1Shot1
from nasx.spaces.nb201.space import Nb201
from nasx.spaces.recurrent.space import Recurrent

import small

NB201 = "|{}~0|+|none~0|none~1|+|none~0|none~1|none~2|"


def darts(name: str) -> str:
    pairs = [(name, 0), ("skip_connect", 1), *[("skip_connect", 0), ("skip_connect", 1)] * 3]
    return f"Genotype(normal={pairs},normal_concat=range(2,6),reduce={pairs},reduce_concat=range(2,6))"


SETTINGS = [
    (["space=nb1shot1_1", "space.layers=1"], "space.layers=1: cells cannot be divided evenly among 3 stacks; use a"),
    (
        ["space=nb201", "space.operations=[skip_connect,conv_9x9]"],
        "space.operations=[skip_connect,conv_9x9]: conv_9x9 is not an operation; choose from none, noise,",
    ),
    (["space=darts", "space.operations=[]"], "space.operations=[]: is empty; choose from none, noise,"),
    (["space=nb201", "space.operations=[none,skip_connect,none]"], "none is listed twice; list each operation once"),
    (["space=darts", "space.operations=[none]"], "no operation can be selected; add one other than none"),
    (["space=nb201", "space.cell=[[none],[none],[none],[none],[none],[foo]]"], "space.cell[5]=[foo]: foo is not"),
    (["space=darts", "space.normal=[[skip_connect]]"], "space.normal: must be 14 lists of the same length"),
    (["space=darts", "space.partial=3"], "space.partial=3: does not divide 16 channels"),
    (["space=darts", "space.edges=searched", "space.edge_norm=true"], "edge weights would be learned twice"),
]


@pytest.mark.parametrize(("words", "told"), SETTINGS)
def test_settings_that_a_space_would_refuse(words: list[str], told: str) -> None:
    found = faults(*words, "dataset=digits")
    assert len(found) == 1
    assert told in found[0]


def test_settings_of_text_too() -> None:
    found = faults("space=darts_rnn", "dataset=ptb", "space.operations=[tanh,sin]")
    assert found[0].startswith("space.operations=[tanh,sin]: sin is not an operation; choose from none, tanh,")


def test_a_sweep_shows_each_value() -> None:
    found = faults("--multirun", "space=nb1shot1_1", "space.layers=1,3,4", "dataset=digits")
    assert [line.partition(":")[0] for line in found] == ["space.layers=1", "space.layers=4"]


def test_what_the_yaml_leaves_out_has_its_default() -> None:
    assert faults("space=nb201", "~space.operations", "~space.partial", "dataset=digits") == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: Nb1Shot1(layers=1),
        lambda: Nb201(operations=("x",)),
        lambda: Darts(operations=()),
        lambda: Recurrent(operations=("none",)),
        lambda: Recurrent(operations=("tanh", "tanh")),
    ],
)
def test_the_spaces_refuse_the_same_themselves(make: object) -> None:
    with pytest.raises(UserError, match=r"space\."):
        make()  # type: ignore[operator]


# --------------------------------------------------------------------------------------------------- genotypes
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["space=nb201", f"genotype={NB201.format('foo')}"],
            "genotype, edge 0->1: this space has no operation foo; it has none, skip_connect, nor_conv_1x1, "
            "nor_conv_3x3, "
            "avg_pool_3x3",
        ),
        (
            ["space=nb201", "space.operations=[none,skip_connect]", f"genotype={NB201.format('nor_conv_3x3')}"],
            "it has none, skip_connect",
        ),
        (
            ["space=darts", f"genotype={darts('conv_9x9')}"],
            "genotype, normal cell, node 2: this space has no conv_9x9 on edge 0->2; it has max_pool_3x3,",
        ),
        (["space=darts", f"genotype={darts('none')}"], "this space has no none on edge 0->2"),
        (["space=s3", f"genotype={darts('sep_conv_5x5')}"], "this space has no sep_conv_5x5 on edge 0->2; it has "),
        (
            ["space=nb1shot1_1", 'genotype={"matrix": [[0,1,0],[0,0,1],[0,0,0]], "ops": ["input","x","output"]}'],
            "genotype, ops[1]=x: is not an operation of NAS-Bench-101; use one of maxpool3x3,",
        ),
    ],
)
def test_operations_that_the_space_lacks(words: list[str], told: str) -> None:
    found = faults(*words, "dataset=digits", command="retrain")
    assert len(found) == 1
    assert told in found[0]


def test_the_operations_of_a_published_cell_are_there() -> None:
    assert faults("space=darts", "genotype=DARTS_V2", "dataset=digits", command="retrain") == []
    assert "this space has no" in faults("space=s4", "genotype=DARTS_V2", "dataset=digits", command="retrain")[0]


# ------------------------------------------------------------------------------------------------ own classes
METHOD = (
    "from nasx.core.bilevel import Method\nfrom dataclasses import dataclass\n@dataclass(frozen=True, kw_only=True)\n"
)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], list[str]]]:
    """What is told of a search with the method `own_for_test.imp.Mine` of this source; nothing of it is imported."""
    (tmp_path / "own_for_test").mkdir()
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text("_target_: own_for_test.imp.Mine\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def told(source: str) -> list[str]:
        for cached in (schema.tree, schema.definition, schema.component, schema.constant):
            cached.cache_clear()
        (tmp_path / "own_for_test" / "imp.py").write_text(source)
        found = faults("dataset=digits", "method=mine", "allow=[own_for_test]", config_dir=tmp_path)
        assert "own_for_test.imp" not in sys.modules
        return found

    yield told
    for cached in (schema.tree, schema.definition, schema.component, schema.constant):
        cached.cache_clear()


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (
            METHOD + "class Mine(Method):\n    pass\n",
            "Mine has no step, which nasx.core.bilevel.Method requires; define step(self, search, train, val) in ",
        ),
        (
            METHOD + "class Mine:\n    def step(self, search, train, val):\n        return {}\n",
            "Mine is not a subclass of nasx.core.bilevel.Method; declare it as class Mine(Method), and import "
            "Method from nasx.core.bilevel",
        ),
        (
            METHOD
            + "class Mine(Method):\n    def step(self, search, train, val):\n        search.update_w(train[0])\n",
            "step returns nothing; it must return dict[str, Tensor]",
        ),
        ("def f(:\n", "imp.py, line 1: is not valid Python (invalid syntax); correct the file"),
        ("x = '\0'\n", "imp.py"),
        ("x = 1\n", "own_for_test.imp has no class Mine; define it in "),
        ("class Min: pass\n", "own_for_test.imp has no class Mine; did you mean Min?"),
    ],
)
def test_a_users_class_that_is_not_a_method(own: Callable[[str], list[str]], source: str, told: str) -> None:
    found = own(source)
    assert len(found) == 1
    assert told in found[0]


@pytest.mark.parametrize(
    "source",
    [
        METHOD + "class Mine(Method):\n    def step(self, search, train, val):\n        return {}\n",
        METHOD + "class Mine(Method):\n    def step(self, search, train, val):\n        raise NotImplementedError\n",
        "from nasx.methods.darts import Darts\nclass Mine(Darts):\n    pass\n",
        "from nasx.methods.wrapper import Wrapper\nclass Mixin:\n    def step(self, s, t, v):\n        return {}\n"
        "class Mine(Mixin, Wrapper):\n    inner: int = 0\n",
        # the step of the second base hides the abstract one, which both share
        "from nasx.core.bilevel import Method\nclass One(Method):\n    pass\nclass Two(Method):\n"
        "    def step(self, search, train, val):\n        return {}\nclass Mine(One, Two):\n    pass\n",
        # a base that cannot be read is not judged
        "import nasx.core.bilevel\nclass Mine(nasx.core.bilevel.Method):\n    pass\n",
    ],
)
def test_a_users_class_that_may_be_one(own: Callable[[str], list[str]], source: str) -> None:
    assert [fault for fault in own(source) if "method._target_=" in fault] == []


def test_packages_that_must_be_allowed() -> None:
    node = {"method": {"_target_": "mine.a.B", "inner": {"_target_": "other.C"}}, "space": {"_target_": "nasx.x.Y"}}
    assert instantiate.foreign_packages(node) == ["mine", "other"]
    assert instantiate.foreign_packages(node, ["mine.a"]) == ["other"]


def test_a_run_with_classes_of_ones_own_says_that_they_must_be_allowed(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("kind: search\nmethod: {_target_: mine.a.B}\n")
    with pytest.raises(UserError, match=r"uses classes from mine, which are .* add allow='\[mine\]'"):
        next(diagnose.diagnose(tmp_path))
    with pytest.raises(UserError, match="has no checkpoint"):
        next(diagnose.diagnose(tmp_path, allow=parse("diagnose", ["allow=[mine]"], {"allow": ""}).several("allow")))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (None, r"step\(\) returned None; return the result of nasx.core.bilevel.logs"),
        (torch.ones(()), r"step\(\) returned Tensor, not a dictionary; return the result of nasx.core.bilevel.logs"),
        ({"train_loss": 1.0}, r"step\(\) returned float for 'train_loss'; return 0-d tensors"),
        ({"a": torch.ones(()), "b": None}, r"step\(\) returned NoneType for 'b'; return 0-d tensors"),
        ({"a": torch.ones(2)}, r"step\(\) returned a tensor of shape \(2,\) for 'a'; return 0-d tensors"),
    ],
)
def test_a_step_that_returns_what_cannot_be_logged(values: Any, said: str) -> None:
    """Where the source does not show it."""
    method: Any = SimpleNamespace(trains=True, chunk=lambda left: (1, 1), step=lambda search, train, val: values)
    search: Any = SimpleNamespace(updates=0, w_opt=SimpleNamespace(param_groups=[{}]))
    batches: Any = itertools.repeat(None)
    loop = Loop(search, method, torch.nn.Identity(), batches, batches, small.protocol(epochs=1), updates_per_epoch=1)
    with pytest.raises(UserError, match=said):
        loop.run()


# --------------------------------------------------------------------------------------------------- networks
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["space=darts", "genotype=DARTS_V2", "retrain.layers=1"],
            "retrain.layers=1: has only one reduction, but the auxiliary head needs two; use 3 or "
            "more, or set "
            "retrain.auxiliary=0",
        ),
        (
            ["space=nb1shot1_1", "genotype=x", "retrain.layers=4"],
            "retrain.layers=4: cells cannot be divided evenly among 3 stacks",
        ),
        (
            ["space=nb1shot1_1", "genotype=x", "retrain.auxiliary=0.4"],
            "the networks of nb1shot1 have no auxiliary head",
        ),
        (["space=nb201", "genotype=000000", "retrain.stem=imagenet"], "networks of nb201 support only stem=cifar"),
    ],
)
def test_networks_that_the_space_does_not_have(words: list[str], told: str) -> None:
    assert told in "\n".join(faults(*words, "dataset=digits", command="retrain"))


def test_the_head_says_how_its_own_command_leaves_it_out() -> None:
    for head, remedy in (
        (AuxiliaryHead(8, 10), "set retrain.auxiliary=0, or"),
        (Darts(channels=4).auxiliary_head(8, 10), "set space.auxiliary=false, or"),
    ):
        with pytest.raises(UserError, match=remedy):
            head(torch.zeros(2, 8, 4, 4))


def test_torch_is_not_imported_for_any_of_it() -> None:
    words = [*SETTINGS[0][0], "dataset=digits"]
    code = (
        f"import sys; from nasx.cli import main as cli\ntry: cli.main(['search', *{words}])\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2 False"


def test_only_kinds_that_nasx_list_prints_are_referred_to_it() -> None:
    names = [f"name{i}" for i in range(50)]
    assert "nasx list studies prints all 50" in str(preflight.unknown_choice("study=zz", "study", "zz", names))
    assert "choose from name0, name1" in str(preflight.unknown_choice("pair=zz", "pair", "zz", names))
