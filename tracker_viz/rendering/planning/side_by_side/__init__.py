"""Place several runs side by side in one picture."""
