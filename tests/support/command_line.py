"""Start the command line in its own process, in an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import faked
import light

from nasx.core.system import UNIX

HEAVY = "('torch', 'torchvision', 'scipy', 'matplotlib', 'pandas')"
WATCH = f"""
import atexit, sys
atexit.register(lambda: print('HEAVY', [m for m in {HEAVY} if m in sys.modules], file=sys.stderr))
from nasx.cli.main import main
main(sys.argv[1:])
"""
FAKE = (
    """
import dataclasses, json, os, sys, types
import nasx
from nasx.errors import UserError
def search(cfg, info):
    print('RAN', json.dumps({'seed': cfg['seed'], 'cfg': cfg, 'info': dataclasses.asdict(info)}))
    if cfg['seed'] == 13:
        raise UserError('seed=13', 'brings bad luck', 'take another')
    if cfg['seed'] == 14:
        raise ValueError('a bug')
    if cfg['seed'] == 15:
        raise KeyboardInterrupt
    return {'name': 'x'}
"""
    + faked.JOBS
)
DARTS = "Genotype(normal={0}, normal_concat=range(2, 6), reduce={0}, reduce_concat=range(2, 6))".format(
    [("sep_conv_3x3", k) for _ in range(4) for k in (0, 1)]
)


def call(folder: Path, *words: str, code: str = WATCH, **env: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "COLUMNS": "160", "NASX_DATA": str(folder / "no-data"), **env}
    if "NASX_DEBUG" not in env:
        variables.pop("NASX_DEBUG", None)
    if UNIX and env.keys() <= {"NASX_DEBUG"}:  # other variables are for the interpreter
        return light.run(code, *words, folder=folder, env=variables)
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def ran(done: subprocess.CompletedProcess[str]) -> list[dict]:
    return [json.loads(line[4:]) for line in done.stdout.splitlines() if line.startswith("RAN ")]


def created(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
