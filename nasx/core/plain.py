"""Type aliases for the plain data of runs, whose keys are known only to the code that reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]
"""A composed configuration, or a part of it. `nasx.config.check` checks its types."""
State = dict[str, Any]
"""The content of a checkpoint, or a part of it: tensors and plain values."""
Row = Mapping[str, Any]
"""A row of metrics.jsonl, or of a table. `nasx.core.quantities` defines the types of its numbers."""
Result = Mapping[str, Any]
"""The record of a run, as stored in result.json. `nasx.tracking.result_file` defines its type."""
