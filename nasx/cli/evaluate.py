"""Measure the accuracy of an exported network, or of a finished retraining, on a dataset.

    nasx evaluate MODEL [dataset=NAME] [path=FOLDER] [dataset.KEY=VALUE ...] [split=test|train] [batch=N]
                  [device=auto|cpu|cuda] [allow=PACKAGE]

MODEL is model.safetensors, model.onnx (which runs in onnxruntime on the CPU), the folder that contains one of them, or
a finished run of nasx retrain (its folder, or its name under outputs/). The dataset, batch size and precision default
to those used in training, so that on the same device every image gets the same prediction as in the run. An export does
not contain the location of the images; set it with path=. If dataset=NAME is of the same kind as the training dataset
(another folder of images), its other settings are those used in training; the images of any other dataset are resized
to the size of the training images. dataset.KEY=VALUE changes a single setting. allow=PACKAGE names your own package
that defines the space.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nasx.cli.arguments import Arguments, parse
from nasx.config import instantiate
from nasx.errors import UserError, printable
from nasx.export import metadata, runtime
from nasx.export.metadata import Facts
from nasx.tracking import lineage, records

if TYPE_CHECKING:
    import torch
    from torch import nn

    from nasx.core.evaluate import Tested

OPTIONS = {"dataset": "", "split": "test", "batch": "", "device": "auto", "allow": ""}


class Model(NamedTuple):
    """The model to evaluate: the retraining in `folder`, or an export if `folder` is None."""

    name: str
    facts: Facts
    folder: Path | None

    @property
    def onnx(self) -> bool:
        """Whether the model runs in onnxruntime."""
        return self.name.endswith(".onnx")


def main(words: Sequence[str]) -> int:
    """Print the accuracy, correct predictions, number of images and loss, and for a run also the next command."""
    settings, rest = lineage.split_dataset_overrides(words)
    args = parse("evaluate", rest, OPTIONS, positional="MODEL")
    if len(args.positional) != 1:
        fault = f"needs one model, but {len(args.positional)} are given"
        raise UserError("nasx evaluate", fault, "for example nasx evaluate outputs/RUN/export")
    if args.options["split"] not in ("test", "train"):
        raise UserError(f"split={args.options['split']}", "unknown split", "use split=test or split=train")
    model = find_model(args.positional[0], args.allowed)
    found = evaluate(model, args, settings)
    accuracy = f"{100 * found.accuracy:.2f} %"
    facts = {"accuracy": accuracy, "correct": found.correct, "images": found.images, "loss": f"{found.loss:.3f}"}
    for name, value in facts.items():
        print(f"{name.ljust(10)}{value}")
    if model.folder is not None:
        allow = [word for word in words if word.startswith("allow=")]
        print(*lineage.format_commands(["nasx", "export", f"from={model.folder}", *allow]), sep="\n")
    return 0


def find_model(name: str, allow: Sequence[str]) -> Model:
    """Return the export or the finished retraining called `name`, without importing torch. Raises UserError."""
    path = Path(name)
    if not (path / metadata.FILE).is_file() and (path / runtime.FILE).is_file():
        path = path / runtime.FILE
    if path.suffix == ".onnx":
        return Model(str(path), runtime.load(path).facts, None)
    if not path.is_file() and not (path / metadata.FILE).is_file():
        folder = records.locate(name, "outputs")
        if folder is not None and records.is_run(folder):
            from nasx.cli import export

            run, result = lineage.open_parent(folder), export.finished_retraining(folder)
            with export.consistency_errors(folder):
                facts = {**export.model_facts(run.config, result, allow), "dataset": run.block("dataset")}
                return Model(name, facts, folder)
        near, others = lineage.known_runs(name, "outputs", "retrain")
        remedy = f"did you mean {near}?" if near else f"name a file written by nasx export, {others}"
        if path.suffix != ".safetensors":
            raise UserError(name, "is neither an export nor a finished run of nasx retrain", remedy)
    return Model(name, metadata.facts(name)[1], None)


def load_network(model: Model, device: torch.device, allow: Sequence[str]) -> nn.Module:
    """Return the network of a model with its trained weights. Raises UserError."""
    from nasx.export import model as export_model

    if model.onnx:
        return export_model.OnnxNetwork(runtime.load(model.name))
    if model.folder is None:
        return export_model.load(model.name, device, allow).network
    from nasx.cli import export

    return export.trained_network(model.folder, export.finished_retraining(model.folder), allow)[0].to(device)


def evaluate(model: Model, args: Arguments, settings: Sequence[str]) -> Tested:
    """Test a model on the dataset and split given on the command line. Raises UserError."""
    given, allow, facts = args.options, args.allowed, model.facts
    try:
        node = dataset_node(given["dataset"], facts, settings, allow)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        fault = f"its description of the images is damaged ({type(error).__name__}: {error})"
        raise UserError(model.name, fault, metadata.REMEDY) from error
    if given["dataset"] and isinstance(facts.get("classes"), list):  # before anything is downloaded
        source = instantiate.build(node, allow)
        check_classes(source.name, facts, getattr(source, "number_of_classes", lambda: None)())
    if model.onnx and given["device"] not in ("auto", "cpu"):
        raise UserError(f"device={given['device']}", "nasx runs ONNX files only on the CPU", "use device=cpu")

    import torch

    from nasx.core import evaluate as core_evaluate
    from nasx.tracking import environment

    device = environment.device("cpu" if model.onnx else given["device"])
    with environment.prepared(device, threads=None, deterministic=False, seed=0):
        network, measured = load_network(model, device, allow), facts["test"]
        batch = args.number("batch") if given["batch"] else measured["batch"]
        if batch < 1:
            raise UserError(f"batch={batch}", "is not positive", "use at least 1")
        source = instantiate.build({**node, **facts["normalization"]}, allow)
        images = source.open(device, channels_last=measured["channels_last"], workers=environment.workers(None))
        check_classes(source.name, facts, len(images.classes))
        if list(images.classes) != facts["classes"]:
            here, there = (", ".join(classes[:5]) for classes in (images.classes, facts["classes"]))
            print(printable(f"note: the class names differ: {here} here, {there} in training"))
        network = network.to(memory_format=torch.channels_last if measured["channels_last"] else torch.preserve_format)
        batches = images.ordered(given["split"], batch=batch)
        return core_evaluate.means(core_evaluate.sums(network, batches, device, amp=measured["amp"]))


def check_classes(name: str, facts: Facts, count: int | None) -> None:
    """Raise UserError unless the dataset `name` has as many classes as the network; `count` is None if unknown."""
    if count not in (None, len(facts["classes"])):
        fault = f"has {count} classes, but the network has {len(facts['classes'])}"
        raise UserError(f"dataset={name}", fault, "evaluate on images of the same classes")


def dataset_node(name: str, facts: Facts, settings: Sequence[str], allow: Sequence[str]) -> dict[str, object]:
    """Return the configuration of the dataset `name` (empty: the training dataset), with the overrides `settings`."""
    held = facts["dataset"]
    if not name:
        return lineage.with_settings(held, settings, allow)
    from nasx.cli.info import compose_job

    node = compose_job({"dataset": name})[0]["dataset"]
    if node["_target_"] != held.get("_target_") and "size" in node:  # the whole image, sized as in training
        node |= {key: facts["image"][1] for key in ("size", "resize") if key in node}
    return lineage.with_settings(lineage.adopt_settings(node, held), settings, allow)
