"""Environments that other projects' interfaces offer: Gymnasium, MCP, OpenEnv, verifiers."""
