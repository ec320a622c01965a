"""Write a trained network to a file that does not need the run folder, with a model card.

    nasx export from=RUN [out=FOLDER] [format=safetensors|onnx|torch] [allow=PACKAGE]
    nasx export from=RUN format=onnx quantize=int8 [calibration=512] [path=FOLDER]

RUN is a finished run of nasx retrain: its folder, or its name under outputs/. FOLDER defaults to RUN/export. The
command writes the model card README.md and one of these files to FOLDER:

    safetensors   model.safetensors, for nasx.load("FOLDER") and nasx evaluate FOLDER
    onnx          model.onnx with any batch size, for nasx evaluate FOLDER/model.onnx (needs the extra onnx)
    torch         model.pt2 with any batch size, for torch.export.load

The weights are taken after the last epoch, whose accuracy is the reported result. In all formats, the network expects
normalized images; mean and std are in the metadata and in the model card.

quantize=int8 also writes model-int8.onnx, with weights and activations in int8. Their ranges are calibrated on
512 training images (calibration=512). Both files are tested on the test set and timed. path= sets the folder of the
images if they were moved.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nasx import __version__
from nasx.cli.arguments import parse
from nasx.config import instantiate
from nasx.core import files, spelling
from nasx.core.plain import Config, Result, State
from nasx.errors import UserError, cleaned
from nasx.export.metadata import Facts
from nasx.tracking import checkpoints, lineage, records

if TYPE_CHECKING:
    import torch
    from torch import nn

    from nasx.data.batch_stream import Opened
    from nasx.export.model import Classifier

OPTIONS = {
    "from": None,
    "out": "",
    "format": "safetensors",
    "quantize": "",
    "calibration": "512",
    "path": "",
    "allow": "",
}
INT8 = "model-int8.onnx"
CARD = Path(__file__).parent.parent / "export" / "model_card.md"


def main(words: Sequence[str]) -> int:
    """Write the files, and print their paths and the command that tests the exported network."""
    args = parse("export", words, OPTIONS)
    given = args.options
    if given["format"] not in WRITERS:
        raise UserError(f"format={given['format']}", "unknown format", spelling.suggest(given["format"], WRITERS))
    if given["quantize"] not in ("", "int8"):
        raise UserError(f"quantize={given['quantize']}", "unknown precision", "use quantize=int8")
    if given["quantize"] and given["format"] != "onnx":
        raise UserError("quantize=int8", f"is not available for format={given['format']}", "add format=onnx")
    calibration = args.number("calibration", 1)
    folder = lineage.run_folder(given["from"], "outputs", "retrain")
    result = finished_retraining(folder)
    dataset = lineage.open_parent(folder).block("dataset")
    if given["path"]:
        dataset = lineage.with_settings(dataset, [lineage.override("dataset.path", given["path"])], args.allowed)
    if given["quantize"]:
        instantiate.build(dataset, args.allowed).check()
    out = Path(given["out"]).expanduser() if given["out"] else files.no_link(folder / "export")
    network, facts = trained_network(folder, result, args.allowed)
    name, packed = WRITERS[given["format"]]
    written: dict[str, bytes] = {name: packed(network, facts)}
    lines: list[str] = []
    if given["quantize"]:
        images = instantiate.build(dataset, args.allowed).open("cpu", workers=0)
        written, lines = quantized(written[name], facts, images, calibration)
    known = [*(file for file, _ in WRITERS.values()), INT8]
    readme = card(facts, result, [file for file in known if file in written or (out / file).exists()])
    for file, content in [*written.items(), ("README.md", readme.encode())]:  # only after everything is computed
        files.write_atomic(out / file, content)
    for file in (*written, "README.md"):
        print(out / file)
    if lines:
        print(*lines, sep="\n")
    if given["format"] != "torch":
        model = lineage.as_positional(out / name if given["format"] == "onnx" else out)
        place = [f"path={dataset['path']}"] if dataset.get("path") else []
        allow = [word for word in words if word.startswith("allow=")]
        print(*lineage.format_commands(["nasx", "evaluate", model, *place, *allow]), sep="\n")
    return 0


def finished_retraining(folder: Path) -> Result:
    """Return the record of a finished retraining. Raises UserError if `folder` has none that can be exported."""
    found = records.finished(folder)
    if found is None:
        fault = "contains no finished run (no readable result.json)"
        remedy = "run that run's command again: it will resume and finish"
    elif found.get("test_perplexity") is not None:
        fault = "contains a language model; only networks that classify images can be exported"
        remedy = "read its weights from the run's last checkpoint"
    elif found.get("kind") != "retrain":
        fault = f"is a run of nasx {found.get('kind')}: it has no trained network"
        remedy = f"train one: nasx retrain from={folder}"
    elif found.get("relaxed"):
        fault = "contains a supernet; only the network of a cell can be exported"
        remedy = "train the cell: run the same command without relaxed=true"
    elif found.get("valid_accuracy") is not None and found["test_accuracy"] is None:
        fault = "was trained on only part of the images, to rank its cell"
        remedy = "train it on all of them: retrain.held_out=false"
    else:
        return found
    raise UserError(f"from={folder}", fault, remedy)


def trained_network(folder: Path, result: Mapping[str, object], allow: Sequence[str]) -> tuple[nn.Module, Result]:
    """Return the network in evaluation mode, with the weights that were tested, and its `model_facts`.

    Raises UserError. The run's own `allow` is not trusted, because the folder may come from another user.
    """
    from nasx.export import model as export_model

    state = checkpoints.last(folder)
    if state is None:
        raise UserError(f"from={folder}", "no longer has a checkpoint", "train it again")
    with consistency_errors(folder):
        facts, weights = model_facts(lineage.open_parent(folder).config, result, allow), last_weights(state)
        export_model.described(facts, weights, allow)
        network = export_model.build(facts, allow)
        network.load_state_dict(weights)
    return network.eval(), facts


@contextlib.contextmanager
def consistency_errors(folder: Path) -> Iterator[None]:
    """Convert errors caused by inconsistent files in a run folder to UserError."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        said = f"{type(error).__name__}: {error}".splitlines()[-1].strip()
        raise UserError(
            f"from={folder}", f"its record, configuration and weights do not match ({said})", "train it again"
        ) from error


def model_facts(held: Config, result: Result, allow: Sequence[str]) -> Result:
    """Return the metadata of a trained network; `held` is the configuration of its run, and `result` the record."""
    from nasx.export import model as export_model

    settings = dict(held["retrain"])
    settings["channels"] = result.get("channels", settings["channels"])  # chosen by nasx if the cost was limited
    build = partial(instantiate.build, held["dataset"], allow)
    images = result.get("images") or build().open("cpu").described()
    steps = images.get("preprocessing")  # not recorded by earlier versions
    return {
        "format": export_model.FORMAT,
        "genotype": result["genotype"],
        "recipe": result["protocol"],
        "space": held["space"],
        "settings": settings,
        "classes": images["classes"],
        "normalization": {"mean": images["mean"], "std": images["std"]},
        "image": images["shape"],
        "preprocessing": build().preprocessing(images["shape"]) if steps is None else steps,
        "dataset": {**held["dataset"], "path": None},
        "accuracy": result["test_accuracy"],
        "test": {
            "batch": instantiate.build(held["retrain"]).test_batch,
            "amp": bool(settings["amp"]),
            "channels_last": bool(settings["channels_last"]),
        },
        "commit": result.get("commit") or "unknown",
        "seed": result["seed"],
        "run": result["name"],
        "nasx": __version__,
    }


def last_weights(state: State) -> Facts:
    """Return the weights in a checkpoint that were tested (the average, if kept), without the auxiliary head."""
    from nasx.export.model import AUXILIARY

    weights = state["network"]
    if (averaged := state["average"]) is not None:
        weights = {name.removeprefix("module."): x for name, x in averaged.items() if name.startswith("module.")}
    return {name: x for name, x in weights.items() if not name.startswith(AUXILIARY)}


# ----------------------------------------------------------------------------------------------------- formats
def safetensors(network: nn.Module, facts: Facts) -> bytes:
    """Return the bytes of a safetensors file, with the metadata in its header."""
    from nasx.export import model as export_model

    return export_model.packed(network, facts)


def program(network: nn.Module, facts: Facts) -> bytes:
    """Return the bytes of a torch.export program, with the metadata as an extra JSON file."""
    import io
    import json

    import torch

    model, example, dynamic = _example(network, facts)
    made, blob = torch.export.export(model, (example,), dynamic_shapes=(dynamic,)), io.BytesIO()
    for node in made.graph.nodes:
        node.meta.pop("stack_trace", None)  # contains paths on this machine
    torch.export.save(made, blob, extra_files={"nasx.json": json.dumps(facts)})
    return blob.getvalue()


def onnx(network: nn.Module, facts: Facts) -> bytes:
    """Return the bytes of an ONNX file with the metadata. Raises UserError if the extra onnx is not installed."""
    from nasx.export import graph

    model, example, _ = _example(network, facts)
    return graph.with_facts(graph.graph(model, example, ["images"], "scores"), facts)


def quantized(model: bytes, facts: Facts, images: Opened, count: int) -> tuple[dict[str, bytes], list[str]]:
    """Quantize an ONNX network to int8, and compare both versions; `count` is the number of calibration images.

    Returns the content of both files by name, and the lines of the comparison. Raises UserError.
    """
    from nasx.export import graph, quantize

    batch = facts["test"]["batch"]
    facts = {**facts, "quantization": {"weights": "int8", "activations": "int8", "images": count}}
    small = quantize.int8(model, quantize.calibration_batches(images, count, batch), facts)
    rows = quantize.compared({"model.onnx": model, INT8: small}, images, batch)
    small = graph.with_facts(small, {**facts, "accuracy": rows[1].tested.accuracy})
    return {"model.onnx": model, INT8: small}, quantize.table(rows)


def _example(network: nn.Module, facts: Facts) -> tuple[Classifier, torch.Tensor, dict[int, torch.export.Dim]]:
    import torch

    from nasx.export.model import Classifier

    channels, height, width = facts["image"]
    model = Classifier(network, facts).eval()  # type: ignore[arg-type]
    return model, torch.zeros(2, channels, height, width), {0: torch.export.Dim("images")}


WRITERS: dict[str, tuple[str, Callable[[nn.Module, Facts], bytes]]] = {
    "safetensors": ("model.safetensors", safetensors),
    "onnx": ("model.onnx", onnx),
    "torch": ("model.pt2", program),
}
"""Format -> (file name, function that returns the file content for a network and its facts)."""


# -------------------------------------------------------------------------------------------------------- card
def card(
    facts: Facts, result: Mapping[str, object], files: Sequence[str], measured: Mapping[str, object] | None = None
) -> str:
    """Return the model card; `measured` contains the results of `nasx fit` for an ONNX file (fit_report.written)."""
    import jinja2

    from nasx.results import table_formats

    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "text": lambda value: table_formats.safe(str(value)).replace("`", "'"),
        "code": lambda value: str(value).replace("```", "'''"),
    }
    template = environment.from_string(CARD.read_text(encoding="utf-8"))
    known = {"facts": cleaned(facts), "result": cleaned(dict(result)), "measured": cleaned(measured)}
    return template.render(files=files, **known) + "\n"
