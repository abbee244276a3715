"""From several runs to one set of pictures and tables: what ``compare`` is made of."""
