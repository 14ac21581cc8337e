"""What people want a language model for: each task from a person's own file to a model in use."""
