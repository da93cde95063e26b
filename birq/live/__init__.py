"""A run while it goes on: its curves in other tools, and a page. It reads what stages write anyway; no key and no result depends on it."""
