"""Event logs: files, standard input and, in production, Kafka."""
