"""Build nasx/data/digits.npz from the UCI handwritten digits as scikit-learn packages them.

    pip install --target /tmp/sk --no-deps scikit-learn
    python scripts/build_digits.py /tmp/sk

Reads the installed package's `sklearn/datasets/data/digits.csv.gz` (1,797 rows of 64 pixel levels 0..16 and the
label); nothing from scikit-learn is imported. The rows are shuffled once, with numpy's frozen legacy generator at seed
0, because neighbouring rows come from the same writer: the first 1,437 rows are then the training set and the last 360
the test set, and the halves of the training set are similar. Writes uint8 arrays x (1797, 8, 8) and y (1797,).
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np

TARGET = Path(__file__).resolve().parents[1] / "nasx" / "data" / "digits.npz"


def build(installed: Path, target: Path) -> int:
    """Write `target` from the scikit-learn installed in `installed`; return its size in bytes."""
    with gzip.open(installed / "sklearn" / "datasets" / "data" / "digits.csv.gz", "rt") as lines:
        rows = np.loadtxt(lines, delimiter=",", dtype=np.float64).astype(np.uint8)
    if rows.shape != (1797, 65) or rows[:, :64].max() != 16 or rows[:, 64].max() != 9:
        raise SystemExit(f"{installed}: digits.csv.gz holds {rows.shape}, expected 1,797 rows of 64 levels and a label")
    rows = rows[np.random.RandomState(0).permutation(len(rows))]
    np.savez_compressed(target, x=rows[:, :64].reshape(-1, 8, 8), y=rows[:, 64])
    return target.stat().st_size


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    print(f"{TARGET}: {build(Path(sys.argv[1]), TARGET):,} bytes")
