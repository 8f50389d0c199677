"""Where an impression was shown: what the network may blame on the place and not on the post."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recap.batch import Batch
from recap.model.dense import column, column_faults
from recap.schema import Schema


class PositionDebias(nn.Module):
    """The vector of the position that a row was shown at, or zeros where none is known.

    Engagement depends on the place in the list, which is not known when posts are scored. So the
    position is given to the network, and taken from a share of the training rows, so that it also
    learns to do without (Zhao et al., Recommending what video to watch next, RecSys 2019). Dropped
    and absent rows are zeros; the others are not scaled up for the dropped ones. Evaluation drops
    nothing: it reads the positions that the data hold, and rows to be scored, which hold none, get
    zeros.

    The position is a whole number, ``first_position`` for the top of the list; all beyond
    ``max_position`` share its vector. A smaller number and NaN (a null of a float input) are no
    position. A null of an integer input is 0: data with nulls count from 1 and say
    ``first_position=1``, or store -1 for none. ``num_slots`` is not read: every input of a ranker
    is built by the same call.

    Args:
        position_feature_index: the position among the columns of ``feature_name``, from 0, after
            preprocessing.
        feature_name: the dense input that holds the discrete columns.
        max_position: the last position with a vector of its own.
        num_dims: width of the vectors.
        drop_probability: 0 to 1, how often a row's position is dropped in training.
        init_std: vectors start normally distributed around 0 by it.
    """

    def __init__(
        self,
        schema: Schema,
        num_slots: Mapping[str, int] | None = None,
        *,
        position_feature_index: int,
        feature_name: str = "discrete",
        max_position: int = 256,
        num_dims: int = 64,
        drop_probability: float = 0.5,
        first_position: int = 0,
        init_std: float = 0.01,
    ) -> None:
        super().__init__()
        indices = {"position_feature_index": position_feature_index}
        faults = column_faults(feature_name, indices, schema)
        if max_position < first_position:
            faults.append(
                f"max_position={max_position} must be at least first_position={first_position}"
            )
        if num_dims < 1:
            faults.append(f"num_dims={num_dims} must be 1 or more")
        if not 0.0 <= drop_probability <= 1.0:
            faults.append(f"drop_probability={drop_probability} must be a fraction from 0 to 1")
        if not init_std >= 0.0:
            faults.append(f"init_std={init_std} must be 0 or more")
        if faults:
            raise ValueError("\n".join(faults))
        self.feature_name, self.index = feature_name, position_feature_index
        self.first_position, self.max_position = first_position, max_position
        self.drop_probability = drop_probability
        self.reads = (feature_name,)
        self.embedding = nn.Embedding(max_position - first_position + 1, num_dims)
        nn.init.normal_(self.embedding.weight, std=init_std)
        self.out_features = num_dims
        self.embedding_dims = [num_dims]

    def forward(self, batch: Batch) -> Tensor:
        """The vectors, [B, num_dims]."""
        position = column(batch, self.feature_name, self.index)
        known = position >= self.first_position  # false for NaN
        if self.training and self.drop_probability > 0.0:
            known &= torch.rand(position.shape, device=position.device) >= self.drop_probability
        # before the number is made an int: an infinity is beyond all positions, not undefined
        capped = torch.where(position > self.max_position, self.max_position, position)
        slots = torch.where(known, capped, self.first_position).long() - self.first_position
        return self.embedding(slots) * known.unsqueeze(1)
