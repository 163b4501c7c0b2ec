"""The Python interface: fit, load and query runs, with items in common containers."""
