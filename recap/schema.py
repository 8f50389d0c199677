"""What a data file holds: dense groups, sparse ids and labels, by the names recap reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

DENSE_DTYPES = ("float16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64", "bool")
MANTISSA_BITS = 23  # of a float32
BFLOAT16 = "bfloat16"  # of batches only: preprocess.downcast makes it, no file is read as it


@dataclass(frozen=True, kw_only=True)
class Dense:
    """A group of ``length`` numbers a row, read as one tensor [B, length].

    It is stored either in one fixed-size ``column`` (Arrow FixedSizeList, a List of constant
    length, or FixedSizeBinary holding the raw little-endian numbers) or in scalar ``columns``, one
    number each. Raw bytes say nothing of their type: it is the kind of ``dtype`` in the size that
    makes up the length, so an int64 group may be stored as int8.

    Nulls: in a float group a null is NaN (featurization turns every non-finite value into 0); in an
    integer group it is 0.
    """

    column: str | None = None
    columns: Sequence[str] | None = None
    length: int | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if (self.column is None) == (self.columns is None):
            raise ValueError(
                f"give exactly one of column={self.column!r} (fixed-size) and "
                f"columns={self.columns!r} (scalars)"
            )
        if self.dtype not in (*DENSE_DTYPES, BFLOAT16):
            raise ValueError(f"dtype={self.dtype!r} is not one of {', '.join(DENSE_DTYPES)}")
        if self.columns is not None:
            object.__setattr__(self, "columns", tuple(self.columns))
            if self.length not in (None, len(self.columns)):
                raise ValueError(f"length={self.length} but {len(self.columns)} columns are listed")
            object.__setattr__(self, "length", len(self.columns))
        if self.length is None or self.length < 1:
            raise ValueError(f"length={self.length} of column {self.column!r} must be 1 or more")

    @property
    def stored_in(self) -> tuple[str, ...]:
        """The file's columns that this group is read from."""
        return tuple(self.columns) if self.columns is not None else (str(self.column),)

    @property
    def width(self) -> int:
        """Numbers per row."""
        assert self.length is not None
        return self.length


@dataclass(frozen=True, kw_only=True)
class Sparse:
    """One id or a list of ids a row, integers or strings, read as a bag of slots in [0, num_slots).

    With ``num_buckets`` an id is hashed to one of that many slots. With a ``vocabulary`` the known
    ids take slots 1, 2, … in its order and every other id takes slot 0, out of vocabulary; the
    vocabulary is a number n (the integers 0 … n-1), a list, or the path of a Parquet file whose
    first column holds it. A string column whose rows hold several ids states their ``separator``.
    A null, an empty list and an empty string are an empty bag; a null inside a list is skipped.
    """

    column: str
    num_buckets: int | None = None
    vocabulary: int | Sequence[int] | Sequence[str] | str | None = None
    separator: str | None = None

    def __post_init__(self) -> None:
        if (self.num_buckets is None) == (self.vocabulary is None):
            raise ValueError(
                f"column {self.column!r}: give exactly one of num_buckets={self.num_buckets!r} and "
                f"vocabulary={self.vocabulary!r}"
            )
        if self.num_buckets is not None and self.num_buckets < 1:
            raise ValueError(
                f"column {self.column!r}: num_buckets={self.num_buckets} must be 1 or more"
            )
        if isinstance(self.vocabulary, int) and self.vocabulary < 1:
            raise ValueError(
                f"column {self.column!r}: vocabulary={self.vocabulary} must be 1 or more"
            )
        if isinstance(self.vocabulary, Sequence) and not isinstance(self.vocabulary, str):
            object.__setattr__(self, "vocabulary", tuple(self.vocabulary))
            if len(set(self.vocabulary)) != len(self.vocabulary):
                raise ValueError(f"column {self.column!r}: the vocabulary lists an id twice")

    @property
    def num_slots(self) -> int | None:
        """Slots that ids are mapped to; None where only the vocabulary's file tells."""
        if self.num_buckets is not None:
            return self.num_buckets
        if isinstance(self.vocabulary, int):
            return self.vocabulary + 1
        if isinstance(self.vocabulary, str) or self.vocabulary is None:
            return None
        return len(self.vocabulary) + 1


@dataclass(frozen=True, kw_only=True)
class Schema:
    """All that recap reads of a data set; columns that are not named here are never read.

    ``labels`` maps task names to label columns of 0 and 1 (any number type or bool, no nulls).
    ``mask_mantissa_features`` maps float32 inputs to how many low bits of their numbers' mantissas
    are zeroed as they are read, 0 to 23 of 23: what a lower precision would leave of them.
    """

    labels: Mapping[str, str]
    dense: Mapping[str, Dense] = field(default_factory=dict)
    sparse: Mapping[str, Sparse] = field(default_factory=dict)
    mask_mantissa_features: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if masked := [
            fault
            for name, bits in self.mask_mantissa_features.items()
            if (fault := self._mask_fault(name, bits)) is not None
        ]:
            raise ValueError("\n".join(masked))
        if twice := self.dense.keys() & self.sparse.keys():
            raise ValueError(
                f"inputs named twice, as dense and as sparse: {', '.join(sorted(twice))}"
            )
        if dotted := [task for task in self.labels if "." in task]:
            raise ValueError(
                "task names with dots cannot be overridden on the command line: "
                f"{', '.join(dotted)}; keep the dots in the column's name"
            )

    def _mask_fault(self, name: str, bits: int) -> str | None:
        place = f"mask_mantissa_features.{name}={bits}"
        if name not in self.dense:
            return f"{place}: there is no such input; dense inputs are {', '.join(self.dense)}"
        if self.dense[name].dtype != "float32":
            return f"{place}: the input is {self.dense[name].dtype}; only float32 is masked"
        if not 0 <= bits <= MANTISSA_BITS:
            return f"{place} must lie in 0 … {MANTISSA_BITS}, the bits of a float32's mantissa"
        return None
