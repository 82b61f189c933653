"""Upkeep of a project: what fsck finds and mends, and what prune removes."""
