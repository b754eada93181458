"""The process around a replica: whose it is, what it holds, and what it hears besides requests."""
