"""What a watched pass tells about parameters: which of them made a tensor, and what they did."""
