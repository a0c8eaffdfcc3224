"""Pure functions of records: what the figures say when they are read together, and which variant to run."""
