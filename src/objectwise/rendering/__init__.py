"""From scene parameters to pixels."""
