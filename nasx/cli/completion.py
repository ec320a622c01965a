"""Tab completion: `nasx completion bash` prints a shell script that calls `nasx -sc query=bash`.

This module completes the command name, and Hydra completes the rest. The command name is removed from COMP_LINE first,
because Hydra interprets the first word as the program name and all others as overrides.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from nasx.cli import listing
from nasx.cli.commands import COMMANDS
from nasx.config import commands
from nasx.errors import UserError

BASH = """_nasx()
{
    local line=${COMP_LINE:0:COMP_POINT}
    local words=($line)
    local word=""
    [[ $line == *" " ]] || word=${words[${#words[@]}-1]}
    COMPREPLY=($(compgen -W "$(COMP_LINE=$line COMP_POINT=$COMP_POINT nasx -sc query=bash 2>/dev/null)" -- "$word"))
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _nasx nasx
"""
ZSH = "autoload -Uz +X compinit && compinit\nautoload -Uz +X bashcompinit && bashcompinit\n" + BASH
FISH = """function __nasx
    set -l line (commandline -cp)
    env COMP_LINE="$line" COMP_POINT=(string length -- "$line") nasx -sc query=bash 2>/dev/null | string split " "
end
complete -c nasx -f -a "(__nasx)"
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}
HOW = {
    "bash": 'eval "$(nasx completion bash)"',
    "zsh": 'eval "$(nasx completion zsh)"',
    "fish": "nasx completion fish | source",
}
FIXED = {
    "completion": tuple(SCRIPTS),
    "bench": ("get", "import", "query", "info", "fill", "rank"),
    "list": ("all", *listing.KINDS),
}


def install(words: list[str]) -> int:
    """Run `nasx completion SHELL`: print the script for a shell. Raises UserError if the shell is not supported."""
    shell = words[0] if words else ""
    if shell in ("--help", "-h"):
        print("nasx completion: print the tab completion of a shell\n\n" + "\n".join(f"  {h}" for h in HOW.values()))
        return 0
    if shell not in SCRIPTS:
        raise UserError(
            f"nasx completion {shell}".rstrip(),
            "needs a shell" if not shell else "is not a supported shell",
            f"supported shells are {', '.join(SCRIPTS)}; for example: {HOW['bash']}",
        )
    print(SCRIPTS[shell], end="")
    return 0


def answer(words: list[str], application: Callable[[str, list[str]], int | None]) -> int | None:
    """Run `nasx -sc query=bash`: print candidates for COMP_LINE. `application` completes the arguments of a command."""
    asked = words[0] if words else ""
    if asked.startswith("install="):
        return install([asked.partition("=")[2]])
    line = os.environ.get("COMP_LINE", "")
    found = re.match(r"\s*\S+\s+(\S+)\s(.*)$", line)
    if found is None:
        print(" ".join([*COMMANDS, "--help", "--version"]))
        return 0
    command, rest = found[1], found[2]
    if command in FIXED:
        print(" ".join(FIXED[command]))
        return 0
    if command not in commands.COMMANDS:
        return 0
    os.environ["COMP_LINE"] = f"nasx {rest}"
    return application(command, ["-sc", *words])
