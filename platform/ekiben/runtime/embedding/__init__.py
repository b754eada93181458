"""The embedding family: texts and pictures as vectors, by relevance, and by what speaks against them."""
