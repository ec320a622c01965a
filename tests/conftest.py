"""One thread per test process: the problems are tiny, and a fixed thread count keeps sums in one order."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
