"""What a Python program asks for: fit, load, a run, items in the containers that people have."""
