"""Who acts and evolves: episodes, rollouts, policies, and the cycle that improves them."""
