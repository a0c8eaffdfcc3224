"""The images of a task's items: paths relative to its folder, bytes of a row, or images that a function of the task
made.

Images are opened one by one, so a damaged one costs its own item and no other.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from converters.errors import InputError
from images.file import ImageFile, open_image

PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


@dataclass(frozen=True)
class Unusable:
    """In place of an image that cannot be used; `reason` names it."""

    reason: str


class ItemImages:
    """Takes the place of a task's `doc_to_image`: the images of an item.

    `find` is the task's own. `folder` is that of the task's files; None: its data set has only bytes. `columns` are the
    columns with images, which a function of the task gets decoded (`decodes`). `limits` are those of ImageFile.
    """

    def __init__(
        self,
        find: Callable[..., Any],
        folder: Path | None,
        limits: tuple[int | None, int | None] = (None, None),
        columns: tuple[str, ...] = (),
        *,
        decodes: bool = False,
    ) -> None:
        self._find, self._folder, self._limits, self._columns, self._decodes = find, folder, limits, columns, decodes
        self._opened: dict[str, ImageFile] = {}  # by path or digest: many items may have the same image

    def __call__(self, document: Mapping[str, Any], part: Any = None) -> Any:
        """The images as ImageFile or Unusable. lm-eval itself asks for each `part` of a list."""
        if part is not None:
            return self._find(document, part)
        try:
            return list(self._images(document))
        except InputError as error:
            return [Unusable(str(error))]

    def _images(self, document: Mapping[str, Any]) -> Iterator[ImageFile]:
        decoded: dict[str, Any] = {}
        if self._decodes:
            decoded = {name: self._decoded(document[name]) for name in self._columns if document.get(name) is not None}
        try:
            found = self._find({**document, **decoded})
        except Exception as error:  # code of a task can fail in any way
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise InputError(f"doc_to_image fails: {reason}") from error
        original = {id(image): document[name] for name, image in decoded.items()}
        for image in found if isinstance(found, list | tuple) else [found]:
            if image is not None:
                yield replace(
                    self._open(original.get(id(image), image)), min_pixels=self._limits[0], max_pixels=self._limits[1]
                )

    def _decoded(self, value: Any) -> Any:
        from PIL import Image

        return Image.fromarray(self._open(value).pixels())

    def _open(self, image: Any) -> ImageFile:
        if isinstance(image, dict) and (image.get("bytes") is not None or image.get("path") is not None):
            raw, path = image.get("bytes"), image.get("path")
            return self._of_path(str(path)) if raw is None else self._of_bytes(raw, path or "its image")
        if isinstance(image, bytes):
            return self._of_bytes(image, "its image")
        if isinstance(image, str):
            return self._of_path(image)
        if hasattr(image, "save") and hasattr(image, "convert"):
            return self._of_bytes(_png(image), "its image")
        raise InputError(f"doc_to_image gives {type(image).__name__}; it must be a path, bytes or an image of Pillow")

    def _of_bytes(self, raw: bytes, name: str) -> ImageFile:
        digest = hashlib.sha256(raw).hexdigest()
        if digest not in self._opened:
            self._opened[digest] = open_image(raw, name)
        return self._opened[digest]

    def _of_path(self, path: str) -> ImageFile:
        if path not in self._opened:
            if self._folder is None:
                raise InputError(f"{path}: is a path, but the data set of this task is in no folder")
            file = (self._folder / path).resolve()
            if not file.is_relative_to(self._folder.resolve()):
                raise InputError(f"{path}: is outside the task's folder {self._folder}")
            self._opened[path] = open_image(file, path)
        return self._opened[path]


def image_columns(documents: Any) -> list[str]:
    """The columns of a data set that hold one image per row."""
    from datasets import Image

    return [name for name, feature in getattr(documents, "features", {}).items() if isinstance(feature, Image)]


def undecoded(documents: Any) -> Any:
    """The data set with bytes in place of decoded images."""
    from datasets import Image

    for name in image_columns(documents):
        documents = documents.cast_column(name, Image(decode=False))
    return documents


def _png(image: Any) -> bytes:
    raw = io.BytesIO()
    try:
        (image if image.mode in PNG_MODES else image.convert("RGB")).save(raw, "PNG", compress_level=1)
    except Exception as error:  # an image that a task opened may be damaged
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"its image cannot be decoded: {reason}") from error
    return raw.getvalue()
