"""What a model needs to take images, as plans have it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from images.preprocessing import Preprocessing
from sweep.artefact import Artefact
from sweep.defaults import IMAGE_CACHE_BYTES
from sweep.jobs.base import Site

if TYPE_CHECKING:
    from sweep.backends.image_options import ImageOptions

STORE = Artefact("image-embeddings")
"""The folder for the embeddings of images. All runs and variants share it."""


@dataclass(frozen=True)
class ImageSettings:
    """How the images of a sweep are read: the settings of the image processor, and how many bytes of embeddings the
    workspace keeps (0: none)."""

    preprocessing: Preprocessing
    cache_bytes: int = IMAGE_CACHE_BYTES


@dataclass(frozen=True)
class ImageInputs:
    """What a measured model needs to take images.

    `projector` is the projector file for llama.cpp, and `projector_key` the key of the cell that makes or reads it.
    Both are None for torch, where the tower is part of the checkpoint.
    """

    settings: ImageSettings
    projector: Artefact | None = None
    projector_key: str | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that figures of tasks with images depend on in addition."""
        projector = {} if self.projector_key is None else {"projector": self.projector_key}
        return {"preprocessing": asdict(self.settings.preprocessing), **projector}

    def options(self, site: Site) -> ImageOptions:
        """What a backend is opened with."""
        from sweep.backends.embedding_store import EmbeddingStore
        from sweep.backends.image_options import ImageOptions

        limit = self.settings.cache_bytes
        return ImageOptions(
            preprocessing=self.settings.preprocessing,
            projector=None if self.projector is None else site.path(self.projector),
            store=EmbeddingStore(site.path(STORE), limit) if limit else None,
        )
