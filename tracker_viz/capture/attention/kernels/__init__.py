"""Ask kernels that hide their probabilities for the matrix that they multiply values by."""
