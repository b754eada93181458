"""Benchmarks: one command each, JSON lines out, the peer and ours side by side in one run."""
