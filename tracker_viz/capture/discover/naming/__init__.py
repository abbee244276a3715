"""Name the weight matrices of a block: by their use in the watched pass, else by name or shape."""
