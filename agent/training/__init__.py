"""In-weight learning: from token ids with a loss mask to an adapter on disk."""
