"""`/api`: the platform about itself."""
