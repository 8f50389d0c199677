"""A run: where it starts, its loop, how it ends; what all commands that have ranks share."""
