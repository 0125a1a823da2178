"""What is computed: events, learners, evaluation, simulation. No Kafka and no RocksDB in here."""
