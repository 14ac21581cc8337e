"""Judging a model: how well it predicts, what it writes, what it copies."""
