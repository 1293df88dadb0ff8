"""A search index that grows: pictures of a folder in Milvus, a file at first and a cluster later."""
