"""Names and summaries of all commands, and the modules of commands without a configuration."""

from nasx.config import commands

COMMANDS = {
    "quickstart": "compare three ways to choose a cell: a first result in one to two minutes on a CPU, offline",
    "fit": "turn a folder of images into a small trained network in an ONNX file, in one command",
    "search": "search for an architecture, then look it up in the benchmark",
    "retrain": "train a found or published architecture from scratch and test it",
    "run": "search, then look up or retrain the result, in one command",
    "study": "run several searches and retrain the best cell, as publications do",
    "table": "tabulate finished runs: mean and standard deviation over seeds",
    "list": "list the available methods, spaces, datasets, benchmarks and recipes",
    "info": "show the parameters and multiply-adds of an architecture or a space, and draw it",
    "export": "write a trained network as safetensors, ONNX or torch.export, with its model card",
    "evaluate": "test an exported or retrained network on a dataset",
    "latency": "time the operations of a space on this device, for searches with budget=latency",
    "report": "write an HTML page about finished runs: tables, curves, cells, cost",
    "compare": "compare two groups of runs: difference, interval, and other differing settings",
    "diagnose": "measure the curvature and alignment of a search, and show its cells, from its checkpoints",
    "whatif": "continue a search from one of its epochs with other settings, and compare the results",
    "audit": "check a method's gradient: exactness, cost, reproducibility, a short search",
    "status": "show the state of all runs in a folder, including those in progress",
    "doctor": "report hardware and software and run a self-check; include the output in bug reports",
    "bench": "download, import, query and fill benchmark tables; rank scores against them",
    "completion": "print the tab-completion script for bash, zsh or fish",
}
PLAIN = {name: f"nasx.cli.{name}" for name in COMMANDS if name not in (*commands.COMMANDS, "bench", "completion")}
"""Command without a configuration -> its module, which defines `main(words)` (see nasx/cli/arguments.py)."""
