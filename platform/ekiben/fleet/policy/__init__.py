"""What the fleet knows of its models' past, and how it asks a policy about it.

Nothing in here reads a clock, does I/O or keeps state, but for the guard around the policy; so
`fleet.simulation` runs the very same code over recorded traffic.
"""
