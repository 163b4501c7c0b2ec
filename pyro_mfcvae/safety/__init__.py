"""Protection of runs: one process per folder, stops after whole steps, tensors with checksums, event files."""
