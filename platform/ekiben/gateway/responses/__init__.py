"""`/v1/responses` with a memory."""
