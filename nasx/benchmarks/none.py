"""Benchmark for spaces without published results; every query returns None."""

from __future__ import annotations

from dataclasses import dataclass

from nasx.benchmarks.base import Benchmark, Score


@dataclass(frozen=True, kw_only=True)
class NoBenchmark(Benchmark):
    """A benchmark without a table, whose queries return None."""

    def query(self, genotype: object) -> Score | None:
        return None

    def info(self) -> dict[str, object]:
        return {"benchmark": "none", "state": "no table: this space has no published benchmark"}

    def dataset_key(self, name: str) -> str | None:
        return None
