"""What a trained network looked at: maps on the scan's own grid, each with a check that a map must not survive."""
