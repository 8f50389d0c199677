"""Bytes per row of the files of a data set, and of the columns that are read of them."""

from __future__ import annotations

from dataclasses import replace

import pyarrow.parquet as pq

from recap.data.decode import columns_of
from recap.experiment import Experiment


def storage(experiment: Experiment) -> str:
    """Rows, files and bytes per row of the training data, as a line of text."""
    data, ranker = experiment.train_data, experiment.ranker
    schema = replace(
        data.seg_dense_schema,
        dense={n: d for n, d in data.seg_dense_schema.dense.items() if n in ranker.input_names},
        sparse={n: s for n, s in data.seg_dense_schema.sparse.items() if n in ranker.input_names},
    )
    used = set(columns_of(schema, ranker.tasks))
    whole = of_used = 0
    for source in data.sources:
        whole += source.filesystem.get_file_info(source.path).size
        with source.filesystem.open_input_file(source.path) as file:
            footer = pq.read_metadata(file)
        for group in range(footer.num_row_groups):
            for number in range(footer.num_columns):
                column = footer.row_group(group).column(number)
                if column.path_in_schema.removesuffix(".list.element") in used:
                    of_used += column.total_compressed_size
    return (
        f"{data.num_rows:,} rows in {len(data.sources)} files, {whole / data.num_rows:,.0f} "
        f"bytes per row, {of_used / data.num_rows:,.0f} of them in columns that training reads"
    )
