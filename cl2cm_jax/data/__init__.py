"""Data: readers, data sets and the tf.data pipeline that yields batches."""
