"""Files of models of unknown origin: each reader checks sizes before it allocates."""
