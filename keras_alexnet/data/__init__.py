"""Sections 2 and 4.1 of the paper: from JPEG bytes to augmented batches, all of it in tf.data."""
