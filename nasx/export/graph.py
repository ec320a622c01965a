"""Conversion of torch modules to ONNX graphs, for `nasx export format=onnx` and `nasx latency`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from nasx.core import extras
from nasx.errors import UserError
from nasx.export.metadata import Facts
from nasx.export.model import text

if TYPE_CHECKING:
    from onnx import ModelProto


def graph(module: nn.Module, example: Tensor | list[Tensor], names: Sequence[str], output: str) -> ModelProto:
    """Convert `module`, called with `example`, to an ONNX model for any number of images.

    The first axis of each tensor is the batch axis; `example` must contain at least two images. `names` are the names
    of the input tensors, and `output` is the name of the output tensor. The model contains no file paths of this
    machine. Raises UserError if the extra `onnx` is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401 (torch's exporter needs both)
    except ImportError as error:
        raise UserError("onnx", f"{error.name} is not installed", extras.install("onnx")) from error
    images = torch.export.Dim("images")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own code
        made = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            dynamic_shapes=_pytree.tree_map(lambda _: {0: images}, (example,)),
            input_names=list(names),
            output_names=[output],
            verbose=False,
        )
    assert made is not None
    proto = made.model_proto
    for node in [*proto.graph.node, *(node for function in proto.functions for node in function.node)]:
        del node.metadata_props[:]  # stack traces, which contain paths of this machine
    return proto


def with_facts(model: ModelProto | bytes, facts: Facts) -> bytes:
    """Return the serialized ONNX model with `facts` as its metadata; `model` is a ModelProto or its bytes."""
    import onnx

    proto = onnx.load_from_string(model) if isinstance(model, bytes) else model
    onnx.helper.set_model_props(proto, text(facts))
    return bytes(proto.SerializeToString())
