"""Draw the frames of a Plan; ``renderer.Renderer`` is the entry point."""
