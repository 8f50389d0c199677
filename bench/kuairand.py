"""``python -m bench.kuairand DATA_ROOT``: speed of two models on KuaiRand.

    python -m bench.kuairand DATA_ROOT [models=experiment,ids] [batch_sizes=512,4096]
                             [part_rows=40960] [repetitions=5] [overrides of recap.train]

``experiment`` is experiment=kuairand: engagement rates, and embeddings of 4 for small categories.
``ids`` is what libraries are usually compared by: every id and category as an embedding of 10 with
gradients for whole tables, no rates, one shared MLP 256-128 and a tower of 64 for each task.
"""

from __future__ import annotations

import sys

from bench.plain import plain_twin_of_ids
from bench.report import conditions, own_settings
from bench.speed import measure
from recap.compose import compose

DEFAULTS = {
    "models": "experiment,ids",
    "batch_sizes": "512,4096",
    "part_rows": "40960",
    "repetitions": "5",
}
TITLES = {"experiment": "the experiment's model", "ids": "a model of ids"}
FOLD = "day"  # keeps examples out of their own rates, and is no feature


def main() -> None:
    """Measures and prints."""
    if len(sys.argv) < 2 or "=" in sys.argv[1]:
        sys.exit("usage: python -m bench.kuairand DATA_ROOT [name=value …]")
    settings, others = own_settings(sys.argv[2:], DEFAULTS)
    experiment = ["experiment=kuairand", f"data_root={sys.argv[1]}"]
    models = {"experiment": experiment, "ids": [*experiment, *ids()]}
    chosen = settings["models"].split(",")
    if unknown := sorted(set(chosen) - set(models)):
        sys.exit(f"models={','.join(unknown)}: there are {', '.join(models)}")
    print(conditions(), flush=True)
    for name in chosen:
        measure(
            [*models[name], *others],
            title=f"KuaiRand, {TITLES[name]}",
            batch_sizes=[int(size) for size in settings["batch_sizes"].split(",")],
            rows=int(settings["part_rows"]),
            repetitions=int(settings["repetitions"]),
            twin=plain_twin_of_ids if name == "ids" else None,
        )


def ids() -> list[str]:
    """The overrides that make the model of ids out of the experiment."""
    cfg = compose("experiment=kuairand")
    tables = "model.inputs.embeddings.tables"
    there = cfg.model.inputs.embeddings.tables
    return [
        "~model.inputs.engagement_rates",
        "model.multi_task_type=share_all",
        "model.backbone.layer_sizes=[256,128]",
        "task.tower.layer_sizes=[64,1]",
        *(
            f"{tables}.{name}.embedding_dim=10"
            if name in there
            else f"+{tables}.{name}={{embedding_dim: 10}}"
            for name in cfg.train_data.seg_dense_schema.sparse
            if name != FOLD
        ),
    ]


if __name__ == "__main__":
    main()
