"""Weights: files <-> state dicts. The only place that knows the names that others gave to things."""
