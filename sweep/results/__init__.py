"""What was measured: kept in the store, read back as records, compared between variants and between runs."""
