"""HTTP as the gateway speaks it to clients: what comes in within bounds, and what goes out."""
