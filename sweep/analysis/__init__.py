"""Pure functions of records: tests, recovery, Pareto sets, comparisons, and the recommended variant."""
