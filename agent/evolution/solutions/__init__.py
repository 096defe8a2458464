"""Solutions: how a generation's tasks are tried, a file for each method. See README.md."""
