"""What keeps runs whole: one process per folder, stops after whole steps, tensors with checksums, event files."""
