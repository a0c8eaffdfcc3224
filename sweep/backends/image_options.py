"""What a backend needs to take images: the settings of the checkpoint's image processor and, for GGUF, a projector."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from images.preprocessing import Preprocessing
from sweep.backends.embedding_store import EmbeddingStore


@dataclass(frozen=True)
class ImageOptions:
    """How a backend takes images.

    Attributes:
        preprocessing: settings of the checkpoint's image processor, perhaps with other limits of pixels.
        projector: the projector file (mmproj) for llama.cpp. In torch the checkpoint has its own tower.
        store: keeps the embeddings of images for other variants and runs; None: they are computed again.
    """

    preprocessing: Preprocessing
    projector: Path | None = None
    store: EmbeddingStore | None = None
