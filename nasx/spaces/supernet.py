"""Relaxed networks of every space: macro structure around the shared executor (bundle.py, banks.py).

All take the mixture as an argument and own no architecture parameter. Batch norm uses batch statistics and keeps no
buffers unless the space says `batch_norm=tracked`; a pass marked by `tracking` then moves the running ones.

Sources: DARTS (Liu et al. 2019) section 2 and appendix A; NAS-Bench-201 (Dong and Yang 2020) section 2.1;
NAS-Bench-1Shot1 (Zela et al. 2020) section 3. Shapes: x (n, 3, h, w) -> Logits (n, classes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass
























