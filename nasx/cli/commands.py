"""The commands: their names, and those that need no configuration."""

COMMANDS = {
    "quickstart": "a first result in two minutes on a CPU, offline: three ways to choose a cell, compared",
    "fit": "a folder of images to a small trained network as an ONNX file, in one command",
    "search": "search an architecture, then look it up in the benchmark",
    "retrain": "train a found or published architecture from scratch and test it",
    "run": "search, then look up or retrain, in one configuration",
    "study": "several searches, the best cell, its retrainings: what a publication reports",
    "table": "collect finished runs into mean and deviation over seeds",
    "list": "methods, spaces, datasets, benchmarks and recipes to choose from",
    "info": "parameters, multiply-adds and a drawing of an architecture or a space",
    "export": "write a trained network as safetensors, ONNX or torch.export, with its model card",
    "evaluate": "test an export or a retraining on a dataset",
    "latency": "time the operations of a space on this device: the table of budget=latency",
    "report": "one HTML page of finished runs: tables, curves, cells, cost",
    "compare": "two groups of runs: difference, interval, and what else differs",
    "diagnose": "curvature, alignment and cells of a search, from its checkpoints",
    "whatif": "branch a search off at an epoch with other settings: what would have saved it?",
    "audit": "check a method's gradient: exactness, cost, reproducibility, a short search",
    "status": "the state of all runs under a folder, also while they write",
    "doctor": "what this machine offers, and a self-check: the text that a bug report needs",
    "bench": "download, import, query and fill benchmark tables; rank scores against them",
    "completion": "print the tab completion of bash, zsh or fish",
}
PLAIN: dict[str, str] = {
    name: f"nasx.cli.{name}"
    for name in (
        "quickstart",
        "fit",
        "info",
        "export",
        "evaluate",
        "diagnose",
        "whatif",
        "audit",
        "status",
        "doctor",
        "latency",
        "report",
        "compare",
    )
}
"""Commands that take plain words (nasx/cli/arguments.py): command -> module with `main(words)`."""
