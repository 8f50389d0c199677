"""The data path: files, row order, decoding, preprocessing and read-ahead."""
