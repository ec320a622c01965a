"""Processes started by tests do not depend on how the suite was started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CHILD = "import signal; print([n.name for n in signal.valid_signals() if signal.getsignal(n) is signal.SIG_IGN])"
SUITE = f"import conftest, subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"


def test_commands_get_default_signals_where_the_suite_ignores_them() -> None:
    here = Path(__file__).resolve().parents[1]
    line = 'trap "" INT HUP QUIT TERM USR1 USR2; exec "$0" -c "$1"'
    ignored = {
        code: subprocess.check_output(["bash", "-c", line, sys.executable, code], cwd=here, text=True)
        for code in (SUITE, CHILD)
    }
    assert "SIGINT" in ignored[CHILD], "inherited where nothing is done"
    assert not any(f"SIG{name}" in ignored[SUITE] for name in ("INT", "HUP", "QUIT", "TERM", "USR1", "USR2"))
