"""What ``follow`` is made of: captures as they come, color scales that may grow, and the film."""
