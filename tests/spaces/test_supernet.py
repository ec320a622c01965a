"""The merged executor equals the naive path and the plain reference supernets, in float64, values and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nasx.core.bilevel import detached, gradient
from nasx.searcher.problem import weights
from nasx.spaces.base import Space
from nasx.spaces.blocks import tracking
from nasx.spaces.darts.space import Darts
from nasx.spaces.edge_operations import Norm
from nasx.spaces.nb1shot1.space import Nb1Shot1
from nasx.spaces.nb201.space import Nb201

import small
from reference import supernets

S1 = (("skip_connect", "dil_conv_3x3"), ("skip_connect", "dil_conv_5x5")) * 7
S1_REDUCE = (("max_pool_3x3", "avg_pool_3x3"), ("max_pool_3x3", "dil_conv_3x3")) * 7
SPACES: dict[str, Space] = {
    "nb201": Nb201(layers=1, channels=4),
    "nb201-affine": Nb201(layers=1, channels=4, affine=True),
    "nb201-pc": Nb201(layers=1, channels=8, partial=4, edge_norm=True),
    "darts": Darts(layers=4, channels=4),
    "darts-no-none": Darts(layers=3, channels=4, operations=supernets.DARTS_OPS[1:]),
    "s1": Darts(layers=4, channels=4, normal=S1, reduce=S1_REDUCE),
    "s4-like": Darts(layers=3, channels=4, operations=("none", "sep_conv_3x3")),
    "pc-darts": Darts(layers=4, channels=8, partial=4, edge_norm=True),
    "darts-imagenet": Darts(layers=3, channels=4, stem="imagenet"),
    "nb1shot1-1": Nb1Shot1(variant=1, layers=3, channels=4),
    "nb1shot1-2": Nb1Shot1(variant=2, layers=3, channels=4),
    "nb1shot1-3": Nb1Shot1(variant=3, layers=3, channels=4),
}
TOLERANCE = 1e-12


def close(x: torch.Tensor, y: torch.Tensor) -> None:
    """Relative to the largest entry; gradients that are zero but for rounding count as 1e-3."""
    x, y = x.detach(), y.detach()
    assert float((x - y).abs().max()) <= TOLERANCE * max(float(y.abs().max()), 1e-3)


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.sample(4)
def test_merged_equals_naive_with_all_gradients(name: str) -> None:
    space = SPACES[name]
    size = 64 if name == "darts-imagenet" else 16
    data, outs, grads = small.batch(1, size=size), [], []
    for naive in (False, True):
        net, mix = small.build(space, naive=naive), small.mixture(space, 2)
        out = net(data.x, mix).main
        loss = F.cross_entropy(out, data.y)
        grads.append(gradient(loss, {**weights(net), **{f"mix {k}": x for k, x in mix.items()}}))
        outs.append(out)
    close(outs[0], outs[1])
    assert grads[0].keys() == grads[1].keys()
    for k in grads[0]:
        close(grads[0][k], grads[1][k])
    used = [k for k, g in grads[0].items() if k.startswith("mix ") and g.abs().sum() > 0]
    assert used, "no gradient reaches the mixture"


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.sample(4)
def test_supernet_equals_the_plain_reference(name: str) -> None:
    space = SPACES[name]
    net, mix = small.build(space), small.mixture(space, 3)
    ref = small.reference(space, net)
    data = small.batch(4, size=64 if name == "darts-imagenet" else 16)
    theirs = {k: x.detach().clone().requires_grad_() for k, x in mix.items()}
    ours_out, ref_out = net(data.x, mix).main, ref(data.x, small.renamed(theirs))
    close(ours_out, ref_out)
    g1, g2 = gradient(F.cross_entropy(ours_out, data.y), mix), gradient(F.cross_entropy(ref_out, data.y), theirs)
    for k in g1:
        close(g1[k], g2[k])
    assert sum(x.numel() for x in net.parameters()) == sum(x.numel() for x in ref.parameters())


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.sample(4)
def test_a_bias_is_added_to_every_entry_of_an_edge_s_result(name: str) -> None:
    """In both paths; against the plain reference with a hook at each edge, but for partial channels, shuffled there."""
    space, gen = SPACES[name], torch.Generator().manual_seed(7)
    data = small.batch(4, size=64 if name == "darts-imagenet" else 16)
    plain = small.mixture(space, 3)
    mix = detached(
        space.biased(plain, {k: torch.randn(x.shape, generator=gen, dtype=x.dtype) for k, x in plain.items()}),
        requires_grad=True,
    )
    names = sorted(k for k in mix if k.endswith(".bias"))
    assert names == {"nb2": ["cell.bias"], "nb1": ["ops.bias"]}.get(name[:3], ["normal.bias", "reduce.bias"])
    nets = [small.build(space, naive=naive) for naive in (False, True)]
    found = [(net(data.x, mix).main, net) for net in nets]
    close(found[0][0], found[1][0])
    assert not torch.allclose(found[0][0], nets[0](data.x, plain).main)
    slopes = [gradient(F.cross_entropy(out, data.y), mix) for out, _ in found]
    for k in mix:
        close(slopes[0][k], slopes[1][k])
    if name in ("pc-darts", "nb201-pc"):
        return
    ref, seen = small.reference(space, nets[0]), dict.fromkeys(names, 0)
    for cell, kind in zip(
        ref.cells,
        getattr(ref, "kinds", [names[0].removesuffix(".bias")] * len(ref.cells)),  # type: ignore[arg-type,union-attr]
        strict=True,
    ):
        rows = mix[f"{kind}.bias"][seen[f"{kind}.bias"], 0]
        seen[f"{kind}.bias"] += 1
        for edge, by in zip(cell.edges, rows, strict=True):
            edge.register_forward_hook(lambda module, given, out, by=by: out + by)
    theirs = ref(data.x, small.renamed({k: x for k, x in mix.items() if k not in names}))
    close(found[0][0], theirs)
    expected = gradient(F.cross_entropy(theirs, data.y), mix)
    for k in mix:
        close(slopes[0][k], expected[k])


@pytest.mark.slow
def test_parameter_counts_of_the_published_supernets() -> None:
    def count(space: Space) -> int:
        with torch.device("meta"):
            return sum(x.numel() for x in space.supernet(10).parameters())

    assert count(Darts()) == 1_930_618
    assert count(Darts(layers=20)) == 4_548_730
    assert count(Darts(partial=4, edge_norm=True)) == 299_578
    assert count(Nb201()) == supernets.parameters(supernets.Nb201Supernet())


def test_supernets_own_no_architecture_and_no_buffers() -> None:
    for space in SPACES.values():
        net = small.build(space)
        assert not [k for k in net.state_dict() if k not in dict(net.named_parameters())]


def test_noise_is_drawn_from_the_generator_and_the_same_in_both_paths() -> None:
    space = Darts(layers=3, channels=4, operations=("noise", "sep_conv_3x3"))
    data, mix = small.batch(5), small.mixture(space, 6)
    outs = [
        small.build(space, naive=naive)(data.x, mix, gen=torch.Generator().manual_seed(seed)).main
        for naive, seed in ((False, 1), (True, 1), (False, 2))
    ]
    close(outs[0], outs[1])
    assert not torch.allclose(outs[0], outs[2])


def test_drop_path_is_the_same_in_both_paths_and_absent_at_zero() -> None:
    space = Darts(layers=3, channels=4)
    data, mix = small.batch(5), small.mixture(space, 6)
    outs = [
        small.build(space, naive=naive)(data.x, mix, drop_path=rate, gen=torch.Generator().manual_seed(1)).main
        for naive, rate in ((False, 0.5), (True, 0.5), (False, 0.0))
    ]
    close(outs[0], outs[1])
    assert not torch.allclose(outs[0], outs[2])


def test_running_statistics_follow_tracked_passes_only() -> None:
    space = Nb201(layers=1, channels=4, batch_norm="tracked")
    net, mix, data = small.build(space), small.mixture(space), small.batch(7)
    norms = [m for m in net.modules() if isinstance(m, Norm)]
    net(data.x, mix)
    assert all(float(m.mean.abs().sum()) == 0 for m in norms)
    with tracking(net, True):
        net(data.x, mix)
    assert all(float(m.mean.abs().sum()) > 0 for m in norms)
