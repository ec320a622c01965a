"""The accuracy of an export on a data set.

    nasx evaluate MODEL [dataset=NAME] [path=FOLDER] [split=test|train] [batch=N] [device=auto|cpu|cuda]

MODEL is model.safetensors, or the folder that holds it. Without dataset= the images are those that the network was
trained for; path= says where they lie. Batch size and precision are those that the retraining tested with, so that
on the same device the accuracy is the same to the last digit. allow=PACKAGE names a package of yours with the space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nasx import config
from nasx.errors import UserError
from nasx.words import Words, read

if TYPE_CHECKING:
    import torch

    from nasx.accuracy import Tested

OPTIONS = {"dataset": "", "path": "", "split": "test", "batch": "", "device": "auto", "allow": ""}


def main(words: Sequence[str]) -> int:
    """Print accuracy, correct answers, images and loss, one fact a line."""
    # dataset.path=, as the faults of data sets call it, is path=
    words = [word.removeprefix("dataset.") if word.startswith("dataset.path=") else word for word in words]
    said = read("evaluate", words, OPTIONS, plain="MODEL")
    if len(said.plain) != 1:
        raise UserError("nasx evaluate", f"needs one model, but {len(said.plain)} are named",
                        "nasx evaluate outputs/RUN/export")
    if said.options["split"] not in ("test", "train"):
        raise UserError(f"split={said.options['split']}", "there is no such split", "use split=test or split=train")
    found = evaluate(said)
    for name, value in (("accuracy", found.accuracy), ("correct", found.correct), ("images", found.images),
                        ("loss", found.loss)):
        print(f"{name.ljust(10)}{value}")
    return 0


def evaluate(said: Words) -> Tested:
    """What the words ask for. Raises UserError."""
    from nasx import exported

    given, allow = said.options, said.allowed
    facts = exported.facts(said.plain[0])[1]
    if given["dataset"] and isinstance(facts.get("classes"), list):  # before anything is downloaded
        fits(config.build(dataset(given, facts), allow), facts)
    from nasx import machine

    device = machine.device(given["device"])
    with machine.prepared(device, threads=None, deterministic=False, seed=0):
        return measured_on(device, said)


def measured_on(device: torch.device, said: Words) -> Tested:
    """The same, when this process is set up."""
    import torch

    from nasx import accuracy, machine, pretrained

    given, allow = said.options, said.allowed
    model = pretrained.load(said.plain[0], device, allow)
    facts, measured = model.facts, model.facts["test"]
    batch = said.number("batch") if given["batch"] else measured["batch"]
    if batch < 1:
        raise UserError(f"batch={batch}", "is not positive", "use at least 1")
    source = config.build({**dataset(given, facts), **facts["normalization"]}, allow)
    images = source.open(device, channels_last=measured["channels_last"], workers=machine.workers(None))
    fits(source, facts, len(images.classes))
    if list(images.classes) != facts["classes"]:
        print(f"note: the classes have other names: {', '.join(images.classes[:5])} here, "
              f"{', '.join(facts['classes'][:5])} in training")
    layout = torch.channels_last if measured["channels_last"] else torch.preserve_format
    network = model.network.to(memory_format=layout)
    batches = images.ordered(given["split"], batch=batch)
    return accuracy.means(accuracy.sums(network, batches, device, amp=measured["amp"]))


def fits(source: Any, facts: Mapping[str, Any], count: int | None = None) -> None:
    """Raises UserError where the network has another number of classes than the set, of which `count` is known."""
    if count is None:
        count = getattr(source, "number_of_classes", lambda: None)()
    if count not in (None, len(facts["classes"])):
        raise UserError(f"dataset={source.name}", f"has {count} classes, the network {len(facts['classes'])}",
                        "evaluate on images of the same classes")


def dataset(given: Mapping[str, str], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The data set's component: the one that is named, else that of the training, with `path`."""
    from nasx.commands.info import composed

    node = composed({"dataset": given["dataset"]})[0]["dataset"] if given["dataset"] else facts["dataset"]
    return {**node, "path": given["path"]} if given["path"] else dict(node)
