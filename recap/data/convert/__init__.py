"""Other people's files become files that recap reads: CSV or Parquet tables, TFRecords.

    python -m recap.data.convert convert=kuairand convert.download=KuaiRand-Pure/data
    python -m recap.data.convert experiment=NAME convert.pack=true convert.sources=in/*.parquet

The original's TFRecords: ``convert=tfrecord``, see :mod:`recap.data.convert.tfrecord_files`.
"""

from recap.data.convert.command import main
from recap.data.convert.reshape import Join
from recap.data.convert.tables import ConvertReport, convert
from recap.data.convert.tfrecord_files import TFRecordReport, convert_tfrecords

__all__ = ["ConvertReport", "Join", "TFRecordReport", "convert", "convert_tfrecords", "main"]
