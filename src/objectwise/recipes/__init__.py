"""Complete experiments by name."""
