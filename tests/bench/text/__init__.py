"""Text beside the engines' own servers: throughput, first tokens, and the time between tokens."""
