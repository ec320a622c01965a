"""Branch of a search: a search that continues from another search's kept checkpoint with new settings (`nasx whatif`).

The checkpoint provides the state: weights, architecture parameters, optimizer states, stream positions, random number
generators and metrics rows. All settings, including the optimizers' hyperparameters, are the branch's own. A branch
that changes no setting is therefore bit-identical to its parent.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from nasx.core.plain import Config, State
from nasx.errors import UserError
from nasx.searcher.loop import Loop
from nasx.tracking import checkpoints


def branch_state(path: Path, branch: Config, loop: Loop, device: torch.device | str) -> State:
    """Return the state in the kept checkpoint at `path`, with the optimizer hyperparameters of `loop`.

    `branch` contains the epoch and the checkpoint's sha256. Raises UserError if the checkpoint is missing, damaged or
    has a different sha256, and Unfit if the search cannot continue from it.
    """
    where = f"epoch={branch['epoch']}"
    state = (
        checkpoints.read(path, device)
        if path.is_file() and checkpoints.checksum(path) == branch["checkpoint"]
        else None
    )
    if state is None:
        raise UserError(
            where,
            f"{path} is missing, damaged or not the checkpoint that this branch was started from",
            "restore it from a backup, or choose another epoch",
        )
    if not loop.total:
        raise checkpoints.Unfit(where, "the method does not train a supernet", "choose one that does")
    live = loop.state()
    for name, what in (("w", "weights"), ("buffers", "running statistics"), ("a", "architecture parameters")):
        if _shapes(state.get(name)) != _shapes(live[name]):
            raise checkpoints.Unfit(
                where,
                f"the names or shapes of the checkpoint's {what} differ from those of this search",
                "change only settings that leave the supernet and its architecture parameters as they are",
            )
    if missing := live.keys() - state.keys():
        raise checkpoints.Unfit(where, f"{path} lacks {', '.join(sorted(missing))}", "choose another epoch")
    if state["updates"] != branch["epoch"] * loop.updates_per_epoch:
        raise checkpoints.Unfit(
            where,
            f"the number of weight updates per epoch was {state['updates'] // branch['epoch']} in the parent, "
            f"but is {loop.updates_per_epoch} in this search",
            "do not change the number of updates per epoch (method, dataset, batch size)",
        )
    own = {name: {**state[name], "param_groups": live[name]["param_groups"]} for name in ("w_opt", "a_opt")}
    return {**state, **own}


def _shapes(tree: object) -> dict[str, object] | None:
    return {k: getattr(x, "shape", None) for k, x in tree.items()} if isinstance(tree, Mapping) else None
