"""The groups of the command line, a file each; ``agent.cli`` puts them together."""
