"""Read the settings of commands, list them for ``--help``, and explain what is wrong in them."""
