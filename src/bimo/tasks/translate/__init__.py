"""Translation: pairs prepared, and a model that translates tuned on more of them."""
