"""Read the weight matrices of decoder blocks, their norms, and how neurons act."""
