"""Which chosen file sets a key of another group: a method's file may set one that only some spaces have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from nasx.config import plugins
from nasx.errors import UserError


def set_by(conf: Path, choices: Mapping[str, object], where: str, key: str, fault: str) -> UserError | None:
    """The fault of `where`.`key`, of the choice whose file in `conf` sets it; None if no other group does."""
    for group, choice in choices.items():
        file = conf / group / f"{choice}.yaml"
        text = file.read_text(encoding="utf-8") if group != where and file.is_file() else ""
        if re.search(rf"^{where}:.*\n(?:[ #].*\n|\n)*?  {re.escape(key)}:", text, re.M):
            texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted((conf / where).glob("*.yaml"))}
            fit = [name for name in texts if key in plugins.fields(name, texts)]
            return UserError(
                f"{group}={choice}",
                f"sets {where}.{key}, but {fault}",
                f"use another {where} or {group}; the setting exists with {where}={', '.join(fit)}",
            )
    return None
