"""NAS-Bench-1Shot1: facts of the three spaces, discretization by its definition."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, permutations, product

import numpy as np
import pytest
import torch

from nasx.errors import UserError
from nasx.spaces.nb1shot1.genotype import OPERATIONS, Matrix, Nb101Genotype
from nasx.spaces.nb1shot1.network import widths
from nasx.spaces.nb1shot1.space import Nb1Shot1

SHAPES = {
    1: {"ops": (4, 3), "output": (1, 5), "input_3": (1, 3), "input_4": (1, 4)},
    2: {"ops": (4, 3), "output": (1, 5), "input_2": (1, 2), "input_3": (1, 3), "input_4": (1, 4)},
    3: {"ops": (5, 3), "output": (1, 6), "input_2": (1, 2), "input_3": (1, 3), "input_4": (1, 4), "input_5": (1, 5)},
}
PARENTS = {1: [1, 2, 2, 2, 2], 2: [1, 1, 2, 2, 3], 3: [1, 1, 1, 2, 2, 2]}
variants = pytest.mark.parametrize("variant", [1, 2, 3])


def softmax(x: torch.Tensor) -> torch.Tensor:
    return torch.softmax(x, -1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def reference(a: dict[str, torch.Tensor], variant: int) -> tuple[list[list[int]], list[str]]:
    """As released: argmax operations, the k heaviest parents, edges by walking back from the output, the dummy."""
    counts = PARENTS[variant]
    blocks = len(counts) - 1
    parents: dict[int, list[int]] = {}
    for block in range(1, blocks + 1):
        row = a[f"input_{block}"][0].tolist() if f"input_{block}" in a else [0.0] * block
        parents[block] = sorted(sorted(range(block), key=lambda i: (-row[i], i))[: counts[block - 1]])
    row = a["output"][0].tolist()
    parents[blocks + 1] = sorted(sorted(range(blocks + 1), key=lambda i: (-row[i], i))[: counts[-1]])
    n = blocks + 2
    matrix = [[0] * n for _ in range(n)]

    def walk(vertex: int) -> None:
        for parent in parents.get(vertex, []):
            matrix[parent][vertex] = 1
            walk(parent)

    walk(blocks + 1)
    ops = ["input", *(OPERATIONS[int(r.argmax())] for r in a["ops"]), "output"]
    if variant in (1, 2):
        for line in matrix:
            line.insert(5, 0)
        matrix.insert(5, [0] * 7)
        ops.insert(5, "conv1x1-bn-relu")
    return matrix, ops


@variants
def test_discretize_equals_the_definition(variant: int) -> None:
    space = Nb1Shot1(variant=variant)  # type: ignore[arg-type]
    gen = generator(variant)
    for _ in range(150):
        a = {k: torch.randn(shape, generator=gen) for k, shape in space.shapes().items()}
        found = space.discretize(space.relax(a, softmax))
        matrix, ops = reference(a, variant)
        assert [list(row) for row in found.matrix] == matrix
        assert list(found.ops) == ops
        assert sum(map(sum, matrix)) <= 9


@variants
def test_shapes(variant: int) -> None:
    space = Nb1Shot1(variant=variant)  # type: ignore[arg-type]
    assert space.shapes() == SHAPES[variant]
    assert set(space.cells().values()) == {9}
    assert space.groups == (tuple(SHAPES[variant]),)


@pytest.mark.parametrize(
    ("variant", "choices", "distinct", "classes"),
    [(1, 14_580, 3_702, 2_685), (2, 29_160, 12_474, 7_773), (3, 1_312_200, 135_900, 55_854)],
)
def test_counts(variant: int, choices: int, distinct: int, classes: int) -> None:
    space = Nb1Shot1(variant=variant)  # type: ignore[arg-type]
    found = wirings(space)
    assert space.size() == choices
    assert sum(len(OPERATIONS) ** (len(pruned) - 2) for pruned in found.values()) == distinct
    assert len({code for pruned in set(found.values()) for code in labelled_codes(pruned)}) == classes


def wirings(space: Nb1Shot1) -> dict[Matrix, Matrix]:
    """Adjacency of every choice of vertices -> the same, without blocks that do not reach the output."""
    options = [list(combinations(range(space.shapes()[name][-1]), k)) for name, k in space.choices.items()]
    found: dict[Matrix, Matrix] = {}
    for chosen in product(*options):
        cell = space.build((OPERATIONS[0],) * space.blocks, dict(zip(space.choices, chosen, strict=True)))
        if cell.matrix not in found:
            found[cell.matrix] = cell.pruned().matrix
    return found


def labelled_codes(matrix: Matrix) -> set[int]:
    """Canonical codes of all labellings of one wiring: the smallest code over all orders of the inner vertices."""
    inner = len(matrix) - 2
    count = len(OPERATIONS)
    labels = np.array(list(product(range(count), repeat=inner)), dtype=np.int64).reshape(-1, inner)
    powers = count ** np.arange(inner, dtype=np.int64)
    smallest = np.full(len(labels), np.iinfo(np.int64).max)
    for order in permutations(range(inner)):
        vertex = [0, *(k + 1 for k in order), inner + 1]
        bits = 1  # a leading 1 distinguishes matrices of different sizes
        for i in vertex:
            for j in vertex:
                bits = 2 * bits + matrix[i][j]
        smallest = np.minimum(smallest, bits * count**inner + labels[:, list(order)] @ powers)
    return set(smallest.tolist())


@variants
def test_genotypes_come_back(variant: int) -> None:
    space = Nb1Shot1(variant=variant)  # type: ignore[arg-type]
    gen = generator(3)
    for _ in range(200):
        genotype = space.sample(gen)
        assert space.parse(str(genotype)) == genotype == Nb101Genotype.parse(str(genotype))
        assert space.discretize(space.encode(genotype)) == genotype


def test_ties_go_to_the_lowest_index() -> None:
    space = Nb1Shot1(variant=1)
    equal = {k: torch.ones(9, *shape) for k, shape in space.shapes().items()}
    found = space.discretize(equal)
    assert found.ops[1:5] == ("maxpool3x3",) * 4
    assert [i for i in range(7) if found.matrix[i][6]] == [0, 1]
    assert sum(map(sum, found.matrix)) == 3  # input -> 1, input -> output, 1 -> output


def test_sample_is_uniform_over_choices() -> None:
    """Each decision of variant 1 is uniform: 81 operation rows (chi-square, 80 degrees, 99.9 %: 124.8)."""
    space = Nb1Shot1(variant=1)
    gen = generator(5)
    cells = [space.sample(gen) for _ in range(4050)]
    counts = Counter(cell.ops[1:5] for cell in cells)
    assert sum((counts[k] - 50) ** 2 / 50 for k in counts) + 50 * (81 - len(counts)) < 124.8
    outputs = Counter(tuple(i for i in range(5) if cell.matrix[i][6]) for cell in cells)
    assert len(outputs) == 10
    assert sum((n - 405) ** 2 / 405 for n in outputs.values()) < 27.9  # 9 degrees of freedom


INCEPTION = Nb101Genotype(
    (
        (0, 1, 1, 1, 0, 1, 0),
        (0, 0, 0, 0, 0, 0, 1),
        (0, 0, 0, 0, 0, 0, 1),
        (0, 0, 0, 0, 1, 0, 0),
        (0, 0, 0, 0, 0, 0, 1),
        (0, 0, 0, 0, 0, 0, 1),
        (0, 0, 0, 0, 0, 0, 0),
    ),
    ("input", "conv1x1-bn-relu", "conv3x3-bn-relu", "conv3x3-bn-relu", "conv3x3-bn-relu", "maxpool3x3", "output"),
)


def test_network_has_the_parameters_that_nasbench_101_publishes() -> None:
    """The Inception-like cell of NAS-Bench-101's README has 2,694,282 trainable parameters."""
    network = Nb1Shot1().network(INCEPTION, 10)
    assert sum(p.numel() for p in network.parameters()) == 2_694_282


def test_vertices_share_the_output_channels() -> None:
    assert widths(INCEPTION.matrix, 128, 130) == [128, 33, 33, 32, 32, 32, 130]
    assert widths(((0, 1), (0, 0)), 16, 32) == [16, 32]


def test_pruning_leaves_out_what_lies_on_no_path() -> None:
    space = Nb1Shot1(variant=1)
    cell = space.build(("conv3x3-bn-relu",) * 4, {"input_3": (0, 1), "input_4": (0, 1), "output": (0, 4)})
    assert len(cell.pruned().matrix) == 4  # input, 1, 4, output
    assert cell.operations() == {"conv3x3-bn-relu": 2}
    dead = Nb101Genotype(((0, 1, 0), (0, 0, 0), (0, 0, 0)), ("input", "maxpool3x3", "output"))
    assert len(dead.pruned().matrix) == 2
    with pytest.raises(UserError, match="not connected"):
        space.network(dead, 10)


@pytest.mark.parametrize("variant", [1, 2, 3])
def test_networks_run(variant: int) -> None:
    space = Nb1Shot1(variant=variant)  # type: ignore[arg-type]
    gen = generator(9)
    for _ in range(5):
        network = space.network(space.sample(gen), 7, layers=3, channels=6)
        logits = network(torch.randn(2, 3, 9, 9, generator=gen))
        assert logits.main.shape == (2, 7)
        assert logits.auxiliary is None


@pytest.mark.parametrize(
    ("matrix", "ops", "fault"),
    [
        (((0, 1), (1, 0)), ("input", "output"), "not upper triangular"),
        (((0,),), ("input",), "has 1 row;"),
        (((0, 1), (0, 0)), ("output", "input"), "does not label"),
        (((0, 2), (0, 0)), ("input", "output"), "not upper"),
        (((0, 1, 0), (0, 0, 1), (0, 0, 0)), ("input", "conv5x5", "output"), "is not an operation of NAS-Bench-101"),
    ],
)
def test_faulty_graphs(matrix: tuple, ops: tuple, fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        Nb101Genotype(matrix, ops)


def test_parse_refuses_cells_of_other_spaces() -> None:
    text = str(Nb1Shot1(variant=3).sample(generator(2)))
    with pytest.raises(UserError, match="is not a cell of variant 1"):
        Nb1Shot1(variant=1).parse(text)
    with pytest.raises(UserError, match="has 2 vertices instead of 7"):
        Nb1Shot1(variant=1).parse('{"matrix":[[0,1],[0,0]],"ops":["input","output"]}')
    with pytest.raises(UserError, match="multiple of 3"):
        Nb1Shot1(layers=8)
