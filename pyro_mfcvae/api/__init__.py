"""The Python interface: fit, load, finished runs, and items in common containers."""
