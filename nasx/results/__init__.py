"""Results of finished runs: tables, comparisons, statistics."""
