"""The commands that turn the original's TFRecords into the files that an experiment reads."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from recap.original.data import root_of, source_of
from recap.original.reading import marked, shown

_PLAIN = re.compile(r"[\w/*.:%?@+-]*")  # what Hydra takes without quotes
_SPECIAL = re.compile(r'[\\"$`]')  # within the double quotes of a shell


def conversions(config: Mapping[str, Any], schema: str) -> Iterator[str]:
    """A command for a shell per source of the sections of data, once each.

    Files land in ``FOLDER`` as they lie below the folder of the training data, which data_root
    names; those of another folder land beside their sources.
    """
    root = root_of(config["train_data"])
    told: list[str] = []
    for row in (config["train_data"], *config["validation_data"].values()):
        source = source_of(row)
        within = source.removesuffix(".gz")
        if source in told or any(
            each.endswith("**/*.gz") and within.startswith(each.removesuffix("**/*.gz"))
            for each in told
        ):
            continue
        told.append(source)
        folder = re.split(r"[*?\[]", source)[0].rpartition("/")[0] or "."
        if folder == root:
            target = "FOLDER"
        elif folder.startswith(f"{root}/"):
            target = f"FOLDER{folder.removeprefix(root)}"
        elif root == "." and not folder.startswith("/"):
            target = f"FOLDER/{folder}"
        else:
            target = folder
        yield " ".join(
            [
                "python -m recap.data.convert convert=tfrecord",
                argument("convert.inputs", source),
                argument("convert.seg_dense_schema", schema),
                argument("convert.target", target),
            ]
        )


def argument(key: str, value: str) -> str:
    """``key=value`` as one word of a shell's command, for Hydra; the shell fills in its variables.

    >>> argument("convert.inputs", "in/*.gz")
    "'convert.inputs=in/*.gz'"
    """
    literal = "".join(part for part, _ in marked(value))
    if not _PLAIN.fullmatch(literal):
        value = re.sub(r"(\\*)'", r"\1\1\\'", value)
        value = "'" + re.sub(r"(\\+)$", r"\1\1", value) + "'"
    parts = list(marked(f"{key}={value}"))
    if not any(reference for _, reference in parts):
        return shlex.quote(shown(f"{key}={value}"))
    return '"' + "".join(_SPECIAL.sub(r"\\\g<0>", text) + name for text, name in parts) + '"'
