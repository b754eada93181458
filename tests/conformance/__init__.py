"""What OpenAI's published surface says of answers, and a tap that holds every answer of a test run to it."""
