"""Family "bge_m3": BAAI/bge-m3, whose one forward pass makes dense, sparse and token vectors.

Sparse weights are of the tokens that a text has, token vectors of all its tokens but the first. Each is made
by a linear layer of its own, whose weights lie in a file beside those of the transformer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pg_embed.errors import ModelMisconfigured
from pg_embed.models.checkpoint import HEADS
from pg_embed.models.heads import Batch, DenseHead
from pg_embed.models.options import read_options
from pg_embed.models.pretrained import load_transformer
from pg_embed.models.registry import Registry
from pg_embed.models.results import no_dense, strongest
from pg_embed.models.transformer import Family, TransformerEmbedder, TransformerOptions
from pg_embed.models.vocabulary import Vocabulary
from pg_embed.records import Embeddings, ModelSpec, Output, Outputs, SparseVectors, TokenVectors, starts

BGE_M3 = Family(
    name="bge_m3",
    model_type="xlm-roberta",
    pooling="first",
    begin=("<s>",),
    end=("</s>",),
    max_tokens=8_192,
    longest=8_192,
    accelerated="float16",
    first_position=2,
)
UNWEIGHTED = ("<s>", "</s>", "<pad>", "<unk>")  # tokens that have no place in a sparse vector; <mask> has one
SPARSE, MULTI = HEADS


@dataclass(frozen=True)
class M3Head:
    """The authors' three ways to read the states, each only where it is asked for."""

    dense: DenseHead
    sparse: Any  # a linear layer to one weight a token
    multi: Any  # a linear layer to a vector a token
    unweighted: npt.NDArray[np.int64]  # token ids
    sparse_dimensions: int
    multi_dimensions: int
    outputs: tuple[Output, ...] = ("dense", "sparse", "multi")

    @property
    def dimensions(self) -> int:
        """Of the dense vectors."""
        return self.dense.dimensions

    def __call__(self, batch: Batch, outputs: Outputs) -> Embeddings:
        """Outputs that are not asked for are not computed."""
        return Embeddings(
            dense=self.dense.vectors(batch) if "dense" in outputs else no_dense(len(batch.read)),
            sparse=self._weights(batch) if "sparse" in outputs else None,
            multi=self._vectors(batch) if "multi" in outputs else None,
        )

    def _weights(self, batch: Batch) -> SparseVectors:
        """Of a token that stands in several places the largest weight."""
        weights = self.sparse(batch.states[batch.mask]).relu().flatten().float().cpu().numpy()
        lengths = [len(ids) for ids in batch.read]
        tokens = np.concatenate([np.asarray(ids, np.int64) for ids in batch.read])
        weighted = ~np.isin(tokens, self.unweighted)
        rows = np.repeat(np.arange(len(lengths)), lengths)
        shape = (len(lengths), self.sparse_dimensions)
        return strongest(rows[weighted], tokens[weighted], weights[weighted], shape)

    def _vectors(self, batch: Batch) -> TokenVectors:
        """Of length 1; the first token, from which the dense vector is, has none."""
        import torch

        vectors = self.multi(batch.states[:, 1:][batch.mask[:, 1:]]).float()
        unit = torch.nn.functional.normalize(vectors, dim=1).cpu().numpy()
        return TokenVectors(starts([len(ids) - 1 for ids in batch.read]), unit)


def _head(folder: Path, model: Any, vocabulary: Vocabulary, dense: DenseHead) -> M3Head:
    sparse, multi = _linear(folder / SPARSE, model), _linear(folder / MULTI, model)
    if sparse.out_features != 1:
        raise ModelMisconfigured(f"{SPARSE} makes {sparse.out_features} weights a token, not one")
    return M3Head(
        dense=dense,
        sparse=sparse,
        multi=multi,
        unweighted=np.asarray([vocabulary.id(token) for token in UNWEIGHTED]),
        sparse_dimensions=model.config.vocab_size,
        multi_dimensions=multi.out_features,
    )


def _linear(file: Path, model: Any) -> Any:
    """A linear layer on the model's states; without its file it would be random numbers."""
    import torch

    if not file.is_file():
        raise ModelMisconfigured(
            f"the checkpoint has no {file.name}",
            hint=f"family 'bge_m3' needs {SPARSE} and {MULTI}; a dense checkpoint has another family",
        )
    saved = torch.load(file, map_location="cpu", weights_only=True)
    features, width = saved["weight"].shape
    if width != model.config.hidden_size:
        raise ModelMisconfigured(
            f"{file.name} reads {width} numbers a token, but the transformer makes {model.config.hidden_size}"
        )
    layer = torch.nn.Linear(width, features)
    layer.load_state_dict(saved)
    return layer.to(model.device, model.dtype).eval()


def load(spec: ModelSpec) -> TransformerEmbedder:
    """Queries and documents are read alike."""
    options = read_options(spec, TransformerOptions)
    return load_transformer(BGE_M3, options, {"query": "", "document": ""}, make_head=_head)


def register(registry: Registry) -> None:
    """Name the family's loader."""
    registry.register("bge_m3", "pg_embed.models.bge_m3:load")
