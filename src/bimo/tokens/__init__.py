"""Tokens: documents -> ids, packed on disk, drawn in a fixed order. No torch."""
