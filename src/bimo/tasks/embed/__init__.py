"""Vectors of texts: made, compared, and learned."""
