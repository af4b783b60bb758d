"""`pg-embed eval`: how well, and how fast, a database finds on collections with judged queries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pg_embed.cli.app import app
from pg_embed.cli.options import DataDir, Json, OptionalDsnOption
from pg_embed.cli.output import print_json

Folders = Annotated[
    list[Path],
    typer.Argument(
        metavar="DIR",
        help="Folders with corpus.jsonl, queries.jsonl and qrels/test.tsv, as BEIR publishes them.",
        show_default=False,
    ),
]


@app.command("eval")
def evaluate(
    folders: Folders,
    dsn: OptionalDsnOption = None,
    data_dir: DataDir = None,
    split: Annotated[Literal["test", "train", "dev"], typer.Option(help="Whose judgements.")] = "test",
    model: Annotated[str, typer.Option(help="For the dense vectors.")] = "all-MiniLM-L6-v2",
    sparse: Annotated[str, typer.Option(help="For the sparse vectors.")] = "bm25",
    rerank: Annotated[
        list[str] | None, typer.Option(help="A reranker of the hybrid's best; may be given often.")
    ] = None,
    mode: Annotated[
        list[str] | None,
        typer.Option(help="dense, sparse or hybrid; may be given often. By default all.", show_default=False),
    ] = None,
    fusion: Annotated[str, typer.Option(help="convex, rrf or dbsf.")] = "convex",
    index: Annotated[
        Literal["auto", "none"], typer.Option(help="auto builds one where the documents are many.")
    ] = "auto",
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the tables, and do not embed again the next time.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw quality against latency.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure how well and how fast a database finds.

    Judged collections are embedded into tables of their own and searched in every mode. Prints nDCG@10,
    recall@100, MRR@10, and the median and 95th percentile of the time of a search for 10 rows through SQL,
    the embedding of its query included, one after another in one session. Without --dsn, in an embedded
    PostgreSQL; with it, the sidecar and the worker that are there do the work, or this command does, which
    then embeds whatever else waits in the database, too. Needs the extra eval.
    """
    from pg_embed import evaluation
    from pg_embed.cli import evaluating

    evaluation.check_measures()
    if plot is not None:
        evaluation.check_plot(plot)
    collections = [evaluation.read_collection(folder, split) for folder in folders]
    modes = evaluation.chosen_modes(mode or (), rerank or ())
    wish = evaluating.Wish(model, sparse, modes, fusion, index, keep)
    with evaluating.served(dsn, data_dir) as database:
        results = []
        for collection in collections:
            results.append(evaluating.measured(database, collection, wish))
            if as_json:
                print_json(results[-1])
    if plot is not None:
        evaluation.plot(results, plot)
    if not as_json:
        evaluating.show(results)
