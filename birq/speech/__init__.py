"""From audio to batches: reading, log-mel, statistics and stacking, Parquet shards, utterances, batches."""
