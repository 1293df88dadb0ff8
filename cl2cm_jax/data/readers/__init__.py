"""Readers: bytes of caption files, webdataset shards and feature files to records, with the problems found in them."""
