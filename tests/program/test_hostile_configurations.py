"""Malicious configurations, names and genotypes: a UserError, no code executed, nothing written outside."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from composing import faults
from fuzz_records import SAMPLES, write_run
from fuzzing import enclosed

from nasx.cli import arguments, evaluate, export, info, listing, main, report
from nasx.cli import help as help_
from nasx.config import instantiate
from nasx.errors import UserError
from nasx.spaces import genotypes
from nasx.tracking import checkpoints


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    with enclosed(tmp_path) as root:
        yield root


# ---------------------------------------------------------------------------------------------- configurations
def composed(here: Path, text: str, group: str = "experiment") -> list[str]:
    (here / "mine" / group).mkdir(parents=True)
    (here / "mine" / group / "own.yaml").write_text(text)
    return faults(
        "--multirun", f"{group}=own", *(["dataset=digits"] if group != "dataset" else []), config_dir=here / "mine"
    )


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "pathlib.Path.unlink",
        "shutil.rmtree",
        "torch.load",
        "nasx.cli.main.main",
        "nasx.core.files.write_atomic",
        "nasx.data.images.Path",
        "nasx.data.images.np.load",
        "nasx.spaces.nb201.space.Nb201.__init__.__globals__",
        "mine_evil.Thing",
        "nasx.tracking.run_folder.Run",
        "..os.system",
        "os",
        "",
        3,
    ],
)
@pytest.mark.sample(6)
def test_targets_outside_the_list_are_refused(target: Any, here: Path) -> None:
    (here / "mine_evil.py").write_text("raise SystemExit('imported')\nclass Thing: pass\n")
    [found] = composed(here, f"_target_: {json.dumps(target)}\ncommand: id\n", "method")
    assert found.startswith("method._target_")
    with pytest.raises(UserError):
        instantiate.build({"_target_": target, "command": "id"})


@pytest.mark.parametrize(
    "text",
    [
        "hydra: {callbacks: {x: {_target_: os.system}}}",
        "hydra: {launcher: {_target_: os.system, command: id}}",
        "hydra: {sweeper: {_target_: subprocess.Popen}}",
        "hydra: {job_logging: {handlers: {x: {class: subprocess.Popen, args: id}}}}",
        "hydra: {hydra_logging: {formatters: {x: {(): os.system, command: id}}}}",
        "hydra: {job_logging: {handlers: {x: {class: logging.FileHandler, filename: /tmp/nasx-was-here, mode: w}}}}",
        "hydra: {hydra_logging: {handlers: {console: {stream: 'ext://os.system'}}}}",
        "hydra: {hydra_logging: {handlers: {console: {.: {emit: 'ext://os.system'}}}}}",
        "hydra: {hydra_logging: {filters: {x: {(): builtins.eval}}}}",
        "hydra: {job: {env_set: {PATH: /tmp/evil}}}",
        "hydra: {job: {env_set: {LD_PRELOAD: x.so}}}",
        "hydra: {job: {env_set: {PYTHONPATH: x}}}",
    ],
)
@pytest.mark.sample(6)
def test_hydras_own_section_calls_nothing_else(text: str, here: Path) -> None:
    found = composed(here, f"# @package _global_\n{text}\n")
    assert any(line.startswith(("hydra.", "configuration")) for line in found), found


@pytest.mark.parametrize(
    "text",
    [
        "# @package _global_\nname: !!python/object/apply:os.system [id]\n",
        "- 1\n",
        "\x00",
        "# @package _global_\nname: !!python/name:os.system\n",
        "!!python/object/new:os.system [id]\n",
        "# @package _global_\nname: &a [*a]\n",
        "a: *b\n",
        "a: [\n",
        "a: b: c\n",
        "? {}\n: 1\n",
        "[" * 2000,
        "# @package _global_\ndefaults: [own]\n",
        "# @package _global_\ndefaults: [/experiment/own]\n",
        "# @package _global_\ndefaults: [../../etc/passwd]\n",
        "# @package ../../x\nseed: 1\n",
        "# @package _global_\nname: ${oc.env:HOME}\n",
        "# @package _global_\nname: ${nothing:x}\n",
        "# @package _global_\nname: ${oc.decode:'{a:'}\n",
        "# @package _global_\nname: ${name}\n",
        "# @package _global_\nname: ${oc.create:{_target_:os.system}}\n",
        "# @package _global_\nname: ${hydra:runtime.cwd}\n",
    ],
)
@pytest.mark.sample(6)
def test_yaml_that_is_more_than_values_is_refused(text: str, here: Path) -> None:
    assert composed(here, text), "not refused"


@pytest.mark.parametrize("data", [b"\xff\xfe", b"a: [\n", b"- 1\n", b"space: text\n", b"[" * 3000])
def test_a_list_and_a_help_are_shown_all_the_same(data: bytes, here: Path) -> None:
    (here / "mine" / "space").mkdir(parents=True)
    (here / "mine" / "space" / "own.yaml").write_bytes(data)
    [entry] = listing.entries("space", [here / "mine"])
    assert entry.name == "own"
    assert "own" in help_.command("search", arguments.split_options(["--config-dir=mine", "space=own"]))


# -------------------------------------------------------------------------------------------------- names
@pytest.mark.parametrize("name", ["../x", "../../etc/x", "/etc/x", "a/b", "..", ".", ".hidden", "a\\b", "a b"])
def test_a_runs_name_is_not_a_path(name: str, here: Path) -> None:
    quoted = json.dumps(name)
    assert any("name=" in line for line in faults(f"name={quoted}", "dataset=digits"))


def test_a_name_in_a_foreign_record_is_not_a_path(here: Path) -> None:
    """Records and configurations name folders (parent, name, path); none is followed to write."""
    record = {**SAMPLES[0][0], "name": "../../outside", "parent": "../../outside", "kind": "search"}
    write_run(here, [record, SAMPLES[0][1], {**SAMPLES[0][2], "out": "../../outside"}])
    main.dispatch(["status", "runs"])
    main.dispatch(["bench", "fill", "runs"])
    report.main(["runs"])
    assert (here / "report.html").is_file()


def test_a_foreign_run_cannot_allow_its_own_package(here: Path) -> None:
    """`allow` is the reader's to say: a run's configuration that says it for a package beside it is not believed."""
    (here / "evil.py").write_text("import os\nos.system('id')\nclass Space: pass\n")
    run = here / "run"
    (run / "checkpoints").mkdir(parents=True)
    held = {
        "kind": "retrain",
        "choices": SAMPLES[1][0]["choices"],
        "allow": ["evil"],
        "retrain": {},
        "space": {"_target_": "evil.Space"},
        "dataset": {"_target_": "evil.Space"},
    }
    (run / "config.yaml").write_text(yaml.safe_dump(held))
    images = {"classes": ["a"], "mean": [0.5], "std": [0.5], "shape": [3, 8, 8]}
    (run / "result.json").write_text(json.dumps({**SAMPLES[1][0], "images": images}))
    checkpoints.save(run, {"network": {}, "rows": 0}, 1)
    for command in (lambda: export.main(["from=run"]), lambda: evaluate.main(["run", "device=cpu"])):
        with pytest.raises(UserError):
            command()
    info.main(["from=run"])  # by the spaces and datasets of nasx that its choices name
    assert "evil" not in sys.modules


# ------------------------------------------------------------------------------------------------- genotypes
@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('id')",
        "Genotype(normal=__import__('os').system('id'))",
        "(" * 5000,
        "[" * 5000,
        "Genotype(normal=range(10**9))",
        "range(0, 999999)",
        "Genotype(" + "normal=[]," * 2000 + ")",
        "lambda: 0",
        "{'matrix': " + "[" * 20 + "]" * 20 + "}",
        "\x00",
        "9" * 30000,
        "Genotype(normal=[('sep_conv_3x3', 10**400)])",
    ],
)
def test_a_genotype_is_read_and_never_evaluated(text: str, here: Path) -> None:
    for read in (genotypes.darts_cells, genotypes.nb201_cell, genotypes.nb101_graph):
        with pytest.raises(UserError):
            read(text)
