"""What to keep in memory and for how long: pure functions of a snapshot and the time.

Nothing in here reads a clock, does I/O or keeps state, so that `fleet.simulation` runs the very same
code over recorded traffic.
"""
