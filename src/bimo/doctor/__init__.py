"""`bimo doctor`: what a machine can do; what a model is, what can be done with it, and what is wrong with it."""
