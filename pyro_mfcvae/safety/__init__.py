"""Protection of runs: one process per folder, stops after whole steps, files with checksums, and limits on memory."""
