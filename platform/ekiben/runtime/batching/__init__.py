"""The requests of many clients, computed together: one batcher for whatever an engine hands out to batch.

`jobs` holds what waits, `selection` and `pacing` decide what leaves together and when, as pure functions and
small sums over what was measured; `batcher` is their loop and threads, `fronts` what the routes ask.
"""
