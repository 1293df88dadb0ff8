"""Vector stores of a search index: Milvus, and memory."""
