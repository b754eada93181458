"""The text family: what clients may ask for in words, checked here and answered by an engine."""
