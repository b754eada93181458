"""`/v1/responses` in a replica, without a memory: OpenAI's Responses API over `Chat`.

A request becomes a chat request, and what the engine answers becomes a `response`, or its events. What is
kept of responses is the platform's affair, around the replica.
"""
