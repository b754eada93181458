"""The audio family: speech in and out."""
