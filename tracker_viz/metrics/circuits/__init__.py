"""Score how heads work together, and what they write, instead of where they look."""
