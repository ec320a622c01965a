"""What became of finished runs: tables, pictures, reports, verdicts."""
