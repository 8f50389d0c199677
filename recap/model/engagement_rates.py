"""How often each engagement followed for a user, a video, …: counted before training, then read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recap.batch import Bag, Batch
from recap.model.module_names import module_key
from recap.model.norm import BatchNorm
from recap.schema import Schema


class EngagementRates(nn.Module):
    """Per key the smoothed log-odds of every task and the logarithm of the key's count.

    A key is a sparse input, mostly one id a row (a user, a video). One pass over the training data
    before the first step (``observe``) counts, for every id, the examples N and the positives S of
    each task. With g the task's rate over all examples and m the ``prior_strength``, an id's rate
    is (S + m·g) / (N + m); what comes out is its log-odds less those of g, which is 0 for an id
    never seen, and log(1 + N). Rows of several ids read the mean over them, empty rows zeros.
    (Additive smoothing of a categorical input: Micci-Barreca, SIGKDD Explorations 3(1), 2001.)

    An example never reads the counts of its own ``fold``, a sparse input with one id a row such as
    the day: with its own label in the counts the input would give the label away, and with its own
    session it would promise more than is known on a later day. A fold that was never observed, any
    later day, reads everything.

    Args:
        keys: sparse inputs.
        fold: sparse input by which examples are kept out of their own counts.
        tasks: labels that are counted; None: all of the schema's.
        prior_strength: m, in examples.
        batch_norm_config: over the output; None leaves it as it is.
        clip_magnitude: bound of the output on both sides, after the batch norm.
    """

    examples: Tensor  # [] float64: all that was counted
    positives: Tensor  # [T] float64

    def __init__(
        self,
        schema: Schema,
        num_slots: Mapping[str, int] | None = None,
        *,
        keys: Sequence[str],
        fold: str,
        tasks: Sequence[str] | None = None,
        prior_strength: float = 50.0,
        batch_norm_config: BatchNorm | None = None,
        clip_magnitude: float = 6.0,
    ) -> None:
        super().__init__()
        self.keys, self.fold = tuple(keys), fold
        self.tasks = tuple(schema.labels if tasks is None else tasks)
        self.prior_strength, self.clip_magnitude = prior_strength, clip_magnitude
        there = ", ".join(schema.sparse) or "none"
        faults = [
            f"{name} is no sparse input; there is {there}"
            for name in (*self.keys, fold)
            if name not in schema.sparse
        ]
        faults += [f"task {t} has no label" for t in self.tasks if t not in schema.labels]
        if not self.keys:
            faults.append("keys=[] must name at least one sparse input")
        for name, value in (
            ("prior_strength", prior_strength),
            ("clip_magnitude", clip_magnitude),
        ):
            if not value > 0:
                faults.append(f"{name}={value} must be above 0")
        if faults:
            raise ValueError("; ".join(faults))
        slots = {name: sparse.num_slots for name, sparse in schema.sparse.items()}
        slots |= num_slots or {}
        width = 1 + len(self.tasks)
        self.out_features = len(self.keys) * width
        self.counts = nn.Module()
        for key in self.keys:
            # float32 counts whole examples exactly up to 16 million of one id
            counts = torch.zeros(_known(slots, fold), _known(slots, key), width)
            self.counts.register_buffer(module_key(key), counts)
        self.register_buffer("examples", torch.zeros((), dtype=torch.float64))
        self.register_buffer("positives", torch.zeros(len(self.tasks), dtype=torch.float64))
        self.batch_norm = (
            batch_norm_config.over(self.out_features) if batch_norm_config else nn.Identity()
        )

    @property
    def reads(self) -> tuple[str, ...]:
        """The sparse inputs that are read."""
        return (*self.keys, self.fold)

    @torch.no_grad()
    def observe(self, batch: Batch) -> None:
        """Counts a batch of training data."""
        labels = batch.labels[:, [batch.tasks.index(task) for task in self.tasks]]
        seen = torch.cat([labels.new_ones(len(labels), 1), labels], dim=1)
        fold = _single(batch.sparse[self.fold])
        for key in self.keys:
            bag = batch.sparse[key]
            row = _row_of(bag)
            counts = self.counts.get_buffer(module_key(key))
            flat = fold[row] * counts.shape[1] + bag.slots
            counts.view(-1, seen.shape[1]).index_add_(0, flat, seen[row])
        self.examples += len(labels)
        self.positives += labels.sum(0, dtype=torch.float64)

    def counted(self) -> list[Tensor]:
        """Everything that was counted: sums, which may be added up over ranks in place."""
        counts = [self.counts.get_buffer(module_key(key)) for key in self.keys]
        return [*counts, self.examples, self.positives]

    def forward(self, batch: Batch) -> Tensor:
        """The rates, [B, keys · (T + 1)]: per key the log-odds of each task, then the count."""
        with torch.no_grad():
            # half an example of each kind keeps the odds of a task without positives finite
            overall = ((self.positives + 0.5) / (self.examples + 1.0)).float()  # [T]
            fold = _single(batch.sparse[self.fold])
            read = [self._read(key, batch.sparse[key], fold, overall) for key in self.keys]
        out = self.batch_norm(torch.cat(read, dim=1))
        return out.clamp(-self.clip_magnitude, self.clip_magnitude)

    def _read(self, key: str, bag: Bag, fold: Tensor, overall: Tensor) -> Tensor:
        row = _row_of(bag)
        counts = self.counts.get_buffer(module_key(key))
        folds, num_slots, width = counts.shape
        # flat rows: indexing two dimensions at once costs five times as much
        flat = counts.view(-1, width)
        starts = torch.arange(0, len(flat), num_slots, device=flat.device)
        everywhere = (starts.unsqueeze(1) + bag.slots).flatten()
        seen = flat.index_select(0, everywhere).view(folds, -1, width).sum(0)
        others = seen - flat.index_select(0, fold[row] * num_slots + bag.slots)  # [V, 1 + T]
        count, positives = others[:, :1], others[:, 1:]
        rate = (positives + self.prior_strength * overall) / (count + self.prior_strength)
        read = torch.cat([rate.logit() - overall.logit(), count.log1p()], dim=1)
        if bag.one_each:
            return read
        lengths = bag.offsets.diff().clamp(min=1).unsqueeze(1)
        return read.new_zeros(len(lengths), read.shape[1]).index_add_(0, row, read) / lengths


def _known(slots: Mapping[str, int | None], name: str) -> int:
    size = slots[name]
    if size is None:
        raise ValueError(f"num_slots does not say the size of {name}'s vocabulary")
    return size


def _row_of(bag: Bag) -> Tensor:
    """[V] the row that each id of the bag belongs to."""
    rows = torch.arange(len(bag.offsets) - 1, device=bag.slots.device)
    if bag.one_each:
        return rows
    return rows.repeat_interleave(bag.offsets.diff(), output_size=len(bag.slots))


def _single(bag: Bag) -> Tensor:
    """[B] the one id of each row; the first slot, out of vocabulary, where a row has none."""
    if bag.one_each:
        return bag.slots
    padded = torch.cat([bag.slots, bag.slots.new_zeros(1)])
    first = padded[bag.offsets[:-1]]
    return first.where(bag.offsets.diff() > 0, torch.zeros_like(first))
