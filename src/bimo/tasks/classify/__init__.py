"""Texts into classes: linear over n-grams, with an encoder, or by what a language model holds for likely."""
