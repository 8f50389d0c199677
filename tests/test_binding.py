"""A row's ``_target_`` follows from the signature that takes it."""

from recap.compose.binding import completed

SCHEMA = "recap.schema.Schema"
DENSE, SPARSE = "recap.schema.Dense", "recap.schema.Sparse"


def test_a_row_is_what_the_signature_says_of_its_mapping():
    node = {
        "_target_": SCHEMA,
        "labels": {"click": "is_click"},
        "dense": {
            "c": {"column": "c", "length": 2},
            "d": {"_target_": "mine.Dense", "column": "d"},
        },
        "sparse": {"video": {"column": "video_id", "num_buckets": 7}},
    }
    assert completed(node) == {
        "_target_": SCHEMA,
        "labels": {"click": "is_click"},
        "dense": {
            "c": {"_target_": DENSE, "column": "c", "length": 2},
            "d": {"_target_": "mine.Dense", "column": "d"},
        },
        "sparse": {"video": {"_target_": SPARSE, "column": "video_id", "num_buckets": 7}},
    }


def test_a_row_that_may_be_null_and_rows_of_a_list_are_told_too():
    model = {
        "_target_": "recap.model.mask_net.MaskNet",
        "mask_blocks": [{"output_size": 8, "aggregation_size": 4}],
        "mlp": {
            "_target_": "recap.model.mlp.MLP",
            "layer_sizes": [1],
            "batch_norm": {"affine": True},
        },
    }
    done = completed(model)
    assert done["mask_blocks"][0]["_target_"] == "recap.model.mask_net.MaskBlockConfig"
    assert done["mlp"]["batch_norm"]["_target_"] == "recap.model.norm.BatchNorm"


def test_what_no_signature_tells_stays_as_it_is():
    for node in (
        {"tower": {"layer_sizes": [1]}},
        {"_target_": "recap.model.heavy_ranker.Task", "tower": {"layer_sizes": [1]}},
        {"_target_": "no.such.Thing", "row": {"a": 1}},
        {"_target_": "torch.optim.Adam", "betas": [0.9, 0.99]},
    ):
        assert completed(node) == node
