"""Place what heads do with each other, and what the model would say after every block."""
