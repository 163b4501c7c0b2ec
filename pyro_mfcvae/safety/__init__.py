"""What keeps runs whole: one process per folder, stops after whole steps, files of tensors with checksums, event files."""
