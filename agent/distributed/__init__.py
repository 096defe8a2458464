"""Rollouts beyond one process: Ray actors play the episodes and hold the policy."""
