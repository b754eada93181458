"""Cold starts side by side: `make bench-cold`, or `python -m tests.bench.cold [SECTION…]`."""
