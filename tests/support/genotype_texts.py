"""Cells in the dialects of released code."""

from __future__ import annotations

import json

from nasx.spaces.nb201.genotype import Nb201Genotype

NORMAL = (
    "[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 1), "
    "('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)]"
)
NESTED = (
    "[[('sep_conv_3x3', 0), ('sep_conv_3x3', 1)], [('sep_conv_3x3', 0), ('sep_conv_3x3', 1)], "
    "[('sep_conv_3x3', 1), ('skip_connect', 0)], [('skip_connect', 0), ('dil_conv_3x3', 2)]]"
)
PLAIN = f"Genotype(normal={NORMAL}, normal_concat=range(2, 6), reduce={NORMAL}, reduce_concat=range(2, 6))"
PAIRS = [
    ["sep_conv_3x3", 0],
    ["sep_conv_3x3", 1],
    ["sep_conv_3x3", 0],
    ["sep_conv_3x3", 1],
    ["sep_conv_3x3", 1],
    ["skip_connect", 0],
    ["skip_connect", 0],
    ["dil_conv_3x3", 2],
]
KATIB = (
    NESTED.replace("sep_conv", "separable_convolution")
    .replace("dil_conv", "dilated_convolution")
    .replace("skip_connect", "skip_connection")
    .replace(" ", "")
)
DIALECTS = [
    PLAIN,
    PLAIN.replace("range(2, 6)", "[2, 3, 4, 5]"),
    f"genotype = {PLAIN}",
    f"06/22 11:02:11 AM genotype = {PLAIN}\n",
    f"DARTSGenotype({NORMAL}, range(2, 6), {NORMAL}, range(2, 6))",
    f"Genotype(normal={NESTED}, normal_concat=range(2, 6), reduce={NESTED}, reduce_concat=range(2, 6))",
    f"Best-Genotype=Genotype(normal={KATIB},normal_concat=range(2,6),reduce={KATIB},reduce_concat=range(2,6))",
    PLAIN.replace("'", '"').replace(", ", " ,\n  "),
    json.dumps({"normal": PAIRS, "normal_concat": [2, 3, 4, 5], "reduce": PAIRS}),
    # files of GDAS and AutoDL-Projects: weights in the pairs, fields of other cells, comments
    PLAIN.replace("1)", "1, 0.13017432391643524)").replace("0)", "0, 1.2e-01)").replace("2)", "2, -0.5)", 1),
    PLAIN.replace("reduce_concat=range(2, 6)", "reduce_concat=[2, 3, 4, 5],\n  connectN=None, connects=None,\n"),
    f"# best = Genotype(normal=[('none', 0)])\nDARTS = {PLAIN.replace('),', '), # node (2]' + chr(10))} # seed 0",
    f"# genotype = {PLAIN}",
    f"epoch #3 genotype = {PLAIN}",
]
BEST = Nb201Genotype(("nor_conv_3x3", "nor_conv_3x3", "nor_conv_3x3", "skip_connect", "nor_conv_3x3", "nor_conv_1x1"))
