"""Model families: one file each, behind the protocol `Embedder`."""
