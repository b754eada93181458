"""Pictures through the diffusers library."""
