"""The update phase: candidates for memory and weights. Neither touches the incumbent."""
