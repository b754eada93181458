"""The requests of many clients, computed together: one batcher for whatever an engine hands out to batch."""
