"""Who acts: one Protocol (``base``) and the engines behind it."""
