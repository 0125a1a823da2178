"""What is kept: rows, tables, stores, versions."""
