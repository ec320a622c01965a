"""Launch one job in several processes (`devices=N`) with torch's elastic agent.

The agent monitors the workers: when one dies, it terminates the others within `GRACE_S` seconds, and this process
reports the cause in one message. A termination signal is forwarded to all workers, which agree on the step after which
to stop and then write a checkpoint. They also do this if the parent dies. Collectives are in distributed.py;
`torchrun -m nasx ...` starts the same workers.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import wait
from pathlib import Path

from nasx.config import identity
from nasx.config.job_info import JobInfo
from nasx.core import distributed, standard_streams
from nasx.core.plain import Config, Result
from nasx.core.system import cpus, new_session, signals
from nasx.errors import UserError, of_system
from nasx.tracking import environment, records

Work = Callable[[Config, JobInfo], Result]
GRACE_S = 45
"""Seconds that workers have to finish a step and write a checkpoint after a termination signal before being killed."""
SIGNALS = ",".join(number.name for number in signals("SIGTERM", "SIGINT", "SIGUSR1"))


def run_in_processes(work: Work, cfg: Config, info: JobInfo, kind: str) -> Result:
    """Run `work(cfg, info)` in `devices` processes, or in this process if that is enough; see `launch_workers`."""
    count, folder = cfg.get("devices") or 1, Path(cfg["out"]) / identity.run_name(cfg, info.choices, kind)
    if count == 1 or records.finished(folder) is not None:
        return work(cfg, info)
    if distributed.world_size() > 1:
        raise UserError(
            f"devices={count}", f"{distributed.world_size()} processes have already been started", "leave devices out"
        )
    return launch_workers(count, work, cfg, info)


def launch_workers(count: int, work: Work, cfg: Config, info: JobInfo) -> Result:
    """Run `work(cfg, info)` in `count` processes and return rank 0's result. `work` must be picklable by name.

    Raises a worker's exception, UserError if a worker was killed, or StopRequested after a termination signal.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    with tempfile.TemporaryDirectory(prefix="nasx-") as errors, quiet_agent():
        plan = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=uuid.uuid4().hex,
            max_restarts=0,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            signals_to_handle=SIGNALS,
        )
        plan.shutdown_timeout = GRACE_S  # torch before 2.12 ignores it and waits for 30 s
        try:
            result: Result = elastic_launch(plan, worker)(work, cfg, info, errors)[0]
        except SignalException as stop:
            raise environment.StopRequested(stop.sigval) from None
        except ChildFailedError as error:
            raise worker_failure(
                Path(errors), {rank: failure.exitcode for rank, failure in error.failures.items()}, count
            ) from None
    return result


@contextlib.contextmanager
def quiet_agent() -> Iterator[None]:
    """Silence the agent's log within the block; restore signal handlers and environment variables afterwards."""
    level = logging.root.manager.disable
    held = {name: os.environ.get(name) for name in ("TORCHELASTIC_SIGNALS_TO_HANDLE", "TORCH_CPP_LOG_LEVEL")}
    main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(getattr(signal, number)) for number in SIGNALS.split(",")} if main else {}
    logging.disable(logging.CRITICAL)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        yield
    finally:
        logging.disable(level)
        for number, handler in handlers.items():
            signal.signal(getattr(signal, number), handler)
        for name, value in held.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def worker_failure(errors: Path, codes: Mapping[int, int], count: int) -> BaseException:
    """Return a UserError if a worker was killed, otherwise the first exception that a worker recorded."""
    for rank, code in codes.items():
        if code < 0:
            return UserError(
                f"process {rank} of {count}",
                f"was killed by {signal.Signals(-code).name}, and the others were terminated",
                "run the same command again to resume from the last checkpoint",
            )
    for path in sorted(errors.iterdir(), key=lambda path: (path.stat().st_mtime_ns, path.name)):
        error: BaseException = pickle.loads(path.read_bytes())
        return error
    rank, code = next(iter(codes.items()))
    return RuntimeError(f"process {rank} of {count} ended with exit code {code}")


# ---------------------------------------------------------------------------------------------- in each process
def worker(work: Work, cfg: Config, info: JobInfo, errors: str) -> Result:
    """Run `work` in a worker process; an exception is pickled to the folder `errors` for the parent."""
    new_session()  # a terminal's Ctrl-C reaches only the parent, which forwards it
    threading.Thread(target=exit_with_parent, daemon=True).start()
    try:
        with standard_streams.guarded():
            return work({**cfg, "threads": cfg["threads"] or max(cpus() // distributed.world_size(), 1)}, info)
    except BaseException as error:  # noqa: BLE001 (raised again in the parent)
        error = of_system(error) or error
        if not isinstance(error, UserError | environment.StopRequested):
            traceback.print_exc()
            error = RuntimeError(f"process {distributed.rank()}: {type(error).__name__}: {error}")
        elif distributed.is_peer_failure(error):
            time.sleep(1)  # so that the agent detects the dead worker before this one exits
        part = Path(errors) / f".{distributed.rank()}"
        part.write_bytes(pickle.dumps(error))
        part.rename(part.with_name(str(distributed.rank())))
        os._exit(1)


def exit_with_parent() -> None:
    """Wait until the parent process dies, then signal this process to write a checkpoint and stop."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
