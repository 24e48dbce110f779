"""Benchmarks that anybody can repeat with the public commands: ``foveate bench``."""
