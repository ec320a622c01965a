"""Gradients of trees of tensors."""

from __future__ import annotations

import pytest
import torch

from nasx.core.trees import gradient
from nasx.errors import UserError


@pytest.mark.parametrize("donated", [True, False])
def test_second_derivatives_of_compiled_functions_are_a_clear_error(donated: bool) -> None:
    import torch._functorch.config as functorch  # too slow for test collection

    torch._dynamo.reset()
    function = torch.compile(lambda x: (x.sin() * x.exp()).sum(), backend="aot_eager_decomp_partition")
    x = torch.ones(3, requires_grad=True)
    with (
        functorch.patch(donated_buffer=donated),
        pytest.raises(UserError, match=r"engine\.compile=on: compiled cells have no second derivatives.*compile=off"),
    ):
        gradient(gradient(function(x), {"x": x}, create=True)["x"].sum(), {"x": x})


def test_other_faults_of_torch_are_not_renamed() -> None:
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradient(torch.ones(()), {"x": torch.ones(3, requires_grad=True)})
