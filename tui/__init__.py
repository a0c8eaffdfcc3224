"""The terminal screen, built on the same plan, events and store as the command line."""
